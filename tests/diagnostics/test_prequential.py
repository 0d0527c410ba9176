"""The chain rule: one-step-ahead losses of an exact Bayesian learner add up to its evidence."""

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from gbi_pyro.data.switching import SwitchingStream
from gbi_pyro.diagnostics.prequential import (
    SwitchingMeans,
    fewest_nats,
    prequential_code,
)
from gbi_pyro.inference.hmm import hmm_posterior

COARSE = tuple(i / 10 for i in range(-3, 14))  # of means, for streams whose means lie in [0, 1]


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


def test_a_chain_that_is_known(generator: torch.Generator) -> None:
    toy = SwitchingStream((0.2, 0.5, 0.9), sigma=0.3)
    x, _ = toy.sample(3, 200, generator, dtype=torch.float64)
    code = prequential_code(KnownChain(toy), x).sum(-1)
    exact = hmm_posterior(toy.log_initial, toy.log_transition, toy.log_emission(x))
    torch.testing.assert_close(code, -exact.log_evidence, rtol=0, atol=1e-8)


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


@pytest.mark.parametrize(("K", "means"), [(1, (0.5, 0.5)), (2, (0.2, 0.8))])
def test_the_shortest_code_has_the_true_number_of_tasks(K: int, means: tuple[float, ...]) -> None:
    """Sigma .3, T = 200; the bar of 95 in 100 streams is judged by the slow test on all of them."""
    toy = SwitchingStream(means, sigma=0.3)
    x, _ = toy.sample(10, 200, torch.Generator().manual_seed(K), dtype=torch.float64)
    assert (choose(x, (1, 2)) == K).sum() >= 9


def choose(x: Tensor, candidates: tuple[int, ...]) -> Tensor:
    return fewest_nats(
        {K: prequential_code(SwitchingMeans(K, 0.3, COARSE), x).sum(-1) for K in candidates}
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0.3), "num_tasks should be at least 1; got 0"),
        ((2, 0.0), "sigma should be positive"),
        ((2, 0.3, (0.1,)), "at least num_tasks = 2 different points; got 1"),
        ((2, 0.3, (0.1, 0.1)), "1 of them different"),
        ((2, 0.3, (0.1, 0.2), ()), "hazards should lie between 0 and 1"),
        ((2, 0.3, (0.1, 0.2), (1.0,)), r"hazards .*\(1.0,\)"),
        ((5, 0.3, tuple(range(60))), "grid should be coarser: 60 points"),
    ],
)
def test_unfit_options_are_named(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SwitchingMeans(*arguments)


def test_unfit_streams_and_learners_are_named() -> None:
    with pytest.raises(ValueError, match=r"T >= 1; got \(3, 0\)"):
        prequential_code(Coin(1, 1), torch.zeros(3, 0))
    with pytest.raises(ValueError, match=r"at step 1 .*1 of them NaN"):
        prequential_code(Coin(1, 1), torch.tensor([1.0, math.nan]).double())
    with pytest.raises(ValueError, match="one number for each stream and candidate"):
        fewest_nats({1: torch.zeros(2), 2: torch.zeros(3)})
    with pytest.raises(ValueError, match="one number for each stream and candidate"):
        fewest_nats({})
