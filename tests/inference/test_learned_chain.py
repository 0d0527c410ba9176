"""Chains of parameters, semi-Markov ones too: laws, gradients against every path, fits."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy.stats import nbinom
from torch import Tensor

from gbi_pyro import BayesFilter, Enumeration, LearnedChain, fit_marginal, marginalize
from gbi_pyro.inference import negative_binomial

F64 = torch.float64
TASK = {"task": True}


def of_means(*means: float) -> Callable[..., None]:
    """Return a model of sessions, (S, T), whose tasks are these means."""
    centres = torch.tensor(means, dtype=F64)

    def model(x: Tensor, *_: Tensor) -> None:
        with pyro.plate("session", len(x), dim=-2), pyro.plate("time", x.shape[1], dim=-1):
            prior = dist.OneHotCategorical(torch.ones(len(centres), dtype=F64))
            z = pyro.sample("z", prior, infer=TASK)
            pyro.sample("x", dist.Normal(z @ centres, 1.0), obs=x)

    return model


TWO, THREE = of_means(-1.5, 1.5), of_means(-1.5, 1.5, 0.0)


@pytest.mark.parametrize(("mean", "r"), [(1.5, 0.3), (8.0, 1.0), (20.0, 40.0)])
def test_the_negative_binomial_law_is_scipys_cut_off(mean: float, r: float) -> None:
    p = r / (r + mean - 1)
    expected = nbinom.pmf(np.arange(30), r, p)
    found = negative_binomial(torch.tensor([mean], dtype=F64), torch.tensor([r], dtype=F64), 30)
    np.testing.assert_allclose(found[0].exp(), expected / expected.sum(), rtol=1e-10)


def test_blocks_of_one_step_and_of_any_dispersion_are_laws() -> None:
    mean, r = torch.tensor([1.0, 50.0], dtype=F64), torch.tensor([1e-8, 1e8], dtype=F64)
    law = negative_binomial(mean, r, 200).exp()
    torch.testing.assert_close(law.sum(-1), torch.ones(2, dtype=F64))
    assert law[0, 0].item() == pytest.approx(1)
    steps = torch.arange(1, 201, dtype=F64)
    shifted_poisson = dist.Poisson(torch.tensor(49.0, dtype=F64)).log_prob(steps - 1).exp()
    torch.testing.assert_close(law[1], shifted_poisson, rtol=1e-4, atol=1e-12)


def test_it_begins_as_the_ordinary_chain_does(generator: torch.Generator) -> None:
    """Geometric blocks, followed by another task, are a Markov chain: the same evidence."""
    x = torch.randn(3, 40, dtype=F64, generator=generator)
    plain = marginalize(THREE, LearnedChain(3, stay=0.8, name="a")).infer(x)
    for law in ("negative binomial", "free"):
        chain = LearnedChain(3, stay=0.8, duration=law, max_duration=200, name=law)  # type: ignore[arg-type]
        found = marginalize(THREE, chain).infer(x)
        torch.testing.assert_close(found.log_evidence, plain.log_evidence)
        torch.testing.assert_close(found.logits(), plain.logits())
        smoothed = BayesFilter(Enumeration(), chain, "smoothed")(THREE, x)
        torch.testing.assert_close(found.logits(), smoothed.logits())


def every_segmentation(initial: Tensor, A: Tensor, law: Tensor, x: Tensor) -> Tensor:
    """Log p(x), summed over every way to cut a sequence into blocks; A is (T - 1, K, K)."""
    (T, K), D, found = x.shape, law.shape[-1], []
    survival = law.flip(-1).logcumsumexp(-1).flip(-1)

    def go_on(t: int, k: int, total: Tensor) -> None:
        for end in range(t + 1, min(t + D, T - 1) + 1):
            here = total + law[k, end - t - 1] + x[t:end, k].sum()
            for j in range(K):
                if j != k:
                    go_on(end, j, here + A[end - 1, k, j])
        if T - t <= D:
            found.append(total + survival[k, T - t - 1] + x[t:, k].sum())

    for k in range(K):
        go_on(0, k, initial[k])
    return torch.stack(found).logsumexp(0)


@pytest.mark.parametrize("law", ["negative binomial", "free"])
@pytest.mark.parametrize("of", [None, "left", "entered"])
def test_gradients_of_every_parameter_agree_with_every_segmentation(
    law: Any, of: Any, generator: torch.Generator
) -> None:
    K, T = 3, 7
    x, u = (torch.randn(shape, dtype=F64, generator=generator) for shape in ((1, T), (T, 2)))
    options = {} if of is None else {"inputs": lambda x, u: u, "of": of}
    learned = LearnedChain(K, duration=law, max_duration=4, stay=0.6, **options)
    learned(x, u)
    store = pyro.get_param_store()
    free = [v for name, v in store._params.items() if name.startswith("chain")]
    for value in free:
        with torch.no_grad():
            value.add_(0.5 * torch.randn(value.shape, dtype=F64, generator=generator))
    value = poutine.trace(marginalize(THREE, learned)).get_trace(x, u).log_prob_sum()
    mine = torch.autograd.grad(value, free)
    chain = learned(x, u)
    assert chain.log_duration is not None
    A = chain.transitions if of else chain.transitions.expand(T - 1, K, K)
    each = dist.Normal(torch.tensor([-1.5, 1.5, 0.0], dtype=F64), 1.0).log_prob(x[0].unsqueeze(-1))
    total = every_segmentation(chain.log_initial, A, chain.log_duration, each)
    torch.testing.assert_close(value, total, rtol=0, atol=1e-10)
    for a, b in zip(mine, torch.autograd.grad(total, free), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def simulate(law: Tensor, sessions: int, T: int, generator: torch.Generator) -> Tensor:
    """Draw sessions of two tasks in turn with blocks of a law, (2, D), and what they show."""
    z = torch.zeros(sessions, T, dtype=torch.int64)
    for s in range(sessions):
        t, k = 0, int(torch.randint(2, (), generator=generator))
        while t < T:
            d = int(torch.multinomial(law[k].exp(), 1, generator=generator)) + 1
            z[s, t : t + d] = k
            t, k = t + d, 1 - k
    means = torch.tensor([-1.5, 1.5], dtype=F64)
    return means[z] + torch.randn(sessions, T, dtype=F64, generator=generator)


def test_a_fit_recovers_the_negative_binomial_law(generator: torch.Generator) -> None:
    """Within 4 standard errors, and better by far than geometric blocks."""
    truth = {"mean": torch.tensor([6.0, 15.0], dtype=F64), "dispersion": torch.tensor([8.0, 3.0])}
    law = negative_binomial(truth["mean"], truth["dispersion"].double(), 60)
    x = simulate(law, 40, 100, generator)
    chain = LearnedChain(2, duration="negative binomial", max_duration=60)
    fit = fit_marginal(marginalize(TWO, chain), x, starts=1)
    assert fit.converged
    assert fit.num_parameters == 5  # the start, two means and two dispersions
    errors = fit.standard_errors()
    for name, value in truth.items():
        site = f"chain_duration_{name}"
        z = (fit.estimates[site] - value) / errors[site]
        assert z.abs().max() < 4, (name, fit.estimates[site], errors[site])
    geometric = fit_marginal(marginalize(TWO, LearnedChain(2, name="plain")), x, starts=1)
    assert fit.log_evidence > geometric.log_evidence + 10  # chi-square of 2 has .999 at 6.9


def test_a_fit_recovers_a_free_law(generator: torch.Generator) -> None:
    truth = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.4, 0.1, 0.2, 0.3]], dtype=F64)
    x = simulate(truth.log(), 40, 100, generator)
    chain = LearnedChain(2, duration="free", max_duration=4)
    fit = fit_marginal(marginalize(TWO, chain), x, starts=1)
    assert fit.num_parameters == 1 + 2 * 3
    z = (fit.estimates["chain_duration"] - truth) / fit.standard_errors()["chain_duration"]
    assert z.abs().max() < 4


def test_what_does_not_fit_is_refused() -> None:
    for options, message in (
        ({"num_tasks": 0}, "num_tasks >= 1"),
        ({"num_tasks": 2, "stay": 1.0}, "stay < 1"),
        ({"num_tasks": 2, "duration": "poisson", "max_duration": 3}, "'negative binomial', 'free'"),
        ({"num_tasks": 2, "duration": "free"}, "belong together; got 'free' and None"),
        ({"num_tasks": 2, "max_duration": 3}, "belong together; got None and 3"),
        ({"num_tasks": 2, "duration": "free", "max_duration": 0}, "belong together"),
        (
            {"num_tasks": 2, "duration": "free", "max_duration": 3, "inputs": lambda x: x},
            "each can lead to the other alone",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            LearnedChain(**options)  # type: ignore[arg-type]
    assert LearnedChain(1, duration="free", max_duration=3)().log_duration is None
    assert math.isfinite(LearnedChain(2)().hazard)
