"""The chain rule: one-step-ahead losses of an exact Bayesian learner add up to its evidence."""

import itertools
import math
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from gbi_pyro.data import GeometricBlocks, SwitchingStream
from gbi_pyro.inference import hmm_posterior
from gbi_pyro.metrics import SwitchingMeans, fewest_nats, prequential_code

COARSE = tuple(i / 10 for i in range(-4, 15))


class Gaussian(NamedTuple):
    """Normal data of known variance; the mean is Normal(m, v) a priori."""

    sigma: float
    m: float
    v: float

    def start(self, batch_shape: torch.Size) -> tuple[Tensor, Tensor]:
        ones = torch.ones(batch_shape, dtype=torch.float64)
        return self.m * ones, self.v * ones

    def learn(self, state: Any, x: Tensor) -> tuple[Tensor, Any]:
        m, v = state
        predicted = torch.distributions.Normal(m, (v + self.sigma**2).sqrt())
        gain = v / (v + self.sigma**2)
        return predicted.log_prob(x), (m + gain * (x - m), v * (1 - gain))


class Coin(NamedTuple):
    """Heads and tails; the bias is Beta(a, b) a priori."""

    a: float
    b: float

    def start(self, batch_shape: torch.Size) -> Tensor:
        ones = torch.ones(batch_shape, dtype=torch.float64)
        return torch.stack([self.a * ones, self.b * ones])

    def learn(self, counts: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        shown = torch.stack([x, 1 - x])
        return ((counts * shown).sum(0) / counts.sum(0)).log(), counts + shown


class KnownChain(NamedTuple):
    """The exact filter of a hidden Markov chain whose every parameter is known."""

    toy: SwitchingStream

    def start(self, batch_shape: torch.Size) -> Tensor:
        return self.toy.log_initial.expand(*batch_shape, -1)

    def learn(self, predicted: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        joint = predicted + self.toy.log_emission(x)
        log_prob = joint.logsumexp(-1)
        filtered = joint - log_prob[..., None]
        return log_prob, (filtered[..., None] + self.toy.log_transition).logsumexp(-2)


def test_normal_data_of_known_variance(generator: torch.Generator) -> None:
    sigma, m, v, T = 0.3, 0.5, 2.0, 60
    x = 1.3 + sigma * torch.randn(4, T, generator=generator, dtype=torch.float64)
    code = prequential_code(Gaussian(sigma, m, v), x).sum(-1)
    covariance = sigma**2 * torch.eye(T).double() + v
    marginal = torch.distributions.MultivariateNormal(torch.full((T,), m).double(), covariance)
    torch.testing.assert_close(code, -marginal.log_prob(x), rtol=0, atol=1e-8)


def test_a_coin(generator: torch.Generator) -> None:
    """The beta-binomial evidence in exact fractions, with one logarithm at the end."""
    a, b, T = 0.7, 1.6, 200
    x = torch.bernoulli(torch.full((5, T), 0.3, dtype=torch.float64), generator=generator)
    code = prequential_code(Coin(a, b), x).sum(-1)
    evidence = [log_of(beta_binomial(Fraction(a), Fraction(b), int(n), T)) for n in x.sum(-1)]
    exact = torch.tensor(evidence, dtype=torch.float64)
    torch.testing.assert_close(code, -exact, rtol=0, atol=1e-8)


def beta_binomial(a: Fraction, b: Fraction, heads: int, tosses: int) -> Fraction:
    """B(a + heads, b + tails) / B(a, b), for one order of heads and tails."""
    shown = [a + i for i in range(heads)] + [b + i for i in range(tosses - heads)]
    return math.prod(shown) / math.prod(a + b + i for i in range(tosses))


def log_of(value: Fraction) -> float:
    return math.log(value.numerator) - math.log(value.denominator)


def test_a_chain_that_is_known(generator: torch.Generator) -> None:
    toy = SwitchingStream((0.2, 0.5, 0.9), sigma=0.3)
    x, _ = toy.sample(3, 200, generator, dtype=torch.float64)
    code = prequential_code(KnownChain(toy), x).sum(-1)
    exact = hmm_posterior(toy.log_initial, toy.log_transition, toy.log_emission(x))
    torch.testing.assert_close(code, -exact.log_evidence, rtol=0, atol=1e-8)


@pytest.mark.parametrize("separation", [0.0, 0.3])
@pytest.mark.parametrize("K", [1, 2, 3])
def test_unknown_means_and_hazard_are_a_mixture_of_known_chains(
    K: int, separation: float, generator: torch.Generator
) -> None:
    """-log p(x) with the evidence of every chain by forward-backward, one prior for all.

    All in double precision: means in single precision are off by 1e-8, their evidence by 2e-7.
    """
    grid, hazards = (0.0, 0.3, 0.5, 1.0), (0.05, 0.2)
    x = torch.randn(2, 25, generator=generator, dtype=torch.float64)
    code = prequential_code(SwitchingMeans(K, 0.4, grid, hazards, separation), x).sum(-1)
    evidence = []
    for means, h in itertools.product(itertools.combinations(grid, K), hazards):
        if any(b - a < separation - 1e-6 for a, b in itertools.pairwise(means)):
            continue
        chain = torch.full((K, K), h / max(K - 1, 1), dtype=torch.float64)
        chain.fill_diagonal_(1 - h if K > 1 else 1)
        initial = torch.full((K,), 1 / K, dtype=torch.float64)
        noise = torch.distributions.Normal(torch.tensor(means, dtype=torch.float64), 0.4)
        emission = noise.log_prob(x[..., None])
        evidence.append(hmm_posterior(initial.log(), chain.log(), emission).log_evidence)
    exact = torch.stack(evidence).logsumexp(0) - math.log(len(evidence))
    torch.testing.assert_close(code, -exact, rtol=0, atol=1e-8)


def test_means_written_off_come_back() -> None:
    """A thousand steps at 0 and a thousand at 1: the mean .5 was impossible in double precision."""
    x = torch.cat([torch.zeros(1000), torch.ones(1000)]).double()
    code = prequential_code(SwitchingMeans(1, 0.1, (0.0, 0.5, 1.0)), x).sum()
    log_prob = torch.distributions.Normal(torch.tensor([0.0, 0.5, 1.0]).double(), 0.1).log_prob
    evidence = log_prob(x[:, None]).sum(0).logsumexp(-1) - math.log(3)
    assert code.item() == pytest.approx(-evidence.item(), rel=1e-12)


def test_the_future_does_not_change_what_a_step_costs(generator: torch.Generator) -> None:
    x = torch.randn(20, generator=generator, dtype=torch.float64)
    learner = SwitchingMeans(2, 0.3, COARSE)
    whole, half = prequential_code(learner, x), prequential_code(learner, x[:10])
    torch.testing.assert_close(whole[:10], half)


@pytest.mark.parametrize("K", [1, 2, 3])
def test_the_shortest_code_has_the_true_number_of_tasks(K: int) -> None:
    """95 of 100 streams of 200 steps at sigma .3, neighbouring tasks two sigma apart.

    The learner's prior: means on a grid of .1, which is fine against sigma; no two of them nearer
    than .5, for two tasks much less than two sigma apart explain what one does; a hazard of .01,
    .03 or .1. Separation and grid were chosen on other streams (100 + K, 200 + K, 300 + K: 97 or
    more of each hundred; without separation 82 of some). Each stream has its middle elsewhere, off
    the grid. Tasks change every tenth step on average, so that every stream shows all of them.
    """
    x, z = streams(K, hazard=0.1, seed=5000 + K)
    assert all(len(tasks.unique()) == K for tasks in z)
    assert (choose(x) == K).sum() >= 95


@pytest.mark.parametrize("K", [1, 2, 3])
def test_tasks_that_a_stream_does_not_show_are_not_counted(K: int) -> None:
    """Of three tasks that last 33 steps a tenth of the streams show two: that is the number."""
    x, z = streams(K, hazard=0.03, seed=5000 + K)
    shown = torch.tensor([len(tasks.unique()) for tasks in z])
    assert (choose(x) == shown).sum() >= 95


def streams(K: int, hazard: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return 100 streams and their tasks; one task is one of two with the same mean."""
    means = {1: (0.5, 0.5), 2: (0.2, 0.8), 3: (-0.1, 0.5, 1.1)}[K]
    generator = torch.Generator().manual_seed(seed)
    toy = SwitchingStream(means, sigma=0.3, blocks=GeometricBlocks(hazard))
    x, z = toy.sample(100, 200, generator, dtype=torch.float64)
    middle = 0.4 * torch.rand(100, 1, generator=generator, dtype=torch.float64) - 0.2
    return x + middle, z if K > 1 else torch.zeros_like(z)


def choose(x: Tensor) -> Tensor:
    learners = {K: SwitchingMeans(K, 0.3, COARSE, separation=0.5) for K in (1, 2, 3)}
    return fewest_nats({K: prequential_code(one, x).sum(-1) for K, one in learners.items()})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0.3), "num_tasks should be at least 1; got 0"),
        ((2, 0.0), "sigma should be positive"),
        ((2, 0.3, (0.1,)), "at least num_tasks = 2 different points; got 1"),
        ((2, 0.3, (0.1, 0.1)), "1 of them different"),
        ((2, 0.3, (0.1, 0.2), ()), "hazards should lie between 0 and 1"),
        ((2, 0.3, (0.1, 0.2), (1.0,)), r"hazards .*\(1.0,\)"),
        ((2, 0.3, (0.1, 0.2), (0.1,), 0.2), "allow 2 points of the grid; got 0.2"),
        ((2, 0.3, (0.1, 0.2), (0.1,), -0.1), "at least 0 .*got -0.1"),
        ((3, 0.3, (0.0, 0.1, 1.0), (0.1,), 0.5), "allow 3 points .*from 0 to 1"),
        ((5, 0.3, tuple(range(60))), "grid should be coarser: 60 points"),
    ],
)
def test_invalid_options_are_named(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SwitchingMeans(*arguments)


def test_invalid_streams_and_learners_are_named() -> None:
    with pytest.raises(ValueError, match=r"T >= 1; got \(3, 0\)"):
        prequential_code(Coin(1, 1), torch.zeros(3, 0))
    with pytest.raises(ValueError, match=r"at step 1 .*1 of them NaN"):
        prequential_code(Coin(1, 1), torch.tensor([1.0, math.nan]).double())
    with pytest.raises(ValueError, match="one number for each stream and candidate"):
        fewest_nats({1: torch.zeros(2), 2: torch.zeros(3)})
    with pytest.raises(ValueError, match="one number for each stream and candidate"):
        fewest_nats({})
