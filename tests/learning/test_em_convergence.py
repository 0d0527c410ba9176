"""Fits by EM that run until they have converged, and say whether they have."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from gbi_pyro import Enumeration, GradientEM, TaskChain, TaskPrior
from gbi_pyro.learning import ConvergenceWarning

F64 = torch.float64


class Clusters(nn.Module):
    """Numbers around two means, over time."""

    def __init__(self, means: tuple[float, float]) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.tensor(means, dtype=F64))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("time", len(x)):
            prior = dist.OneHotCategorical(torch.ones(2, dtype=F64))
            z = pyro.sample("z", prior, infer={"task": True})
            pyro.sample("x", dist.Normal(z @ self.means, 0.5), obs=x)


def data(generator: torch.Generator) -> Tensor:
    blocks = torch.arange(60) // 20 % 2
    return 2.0 * blocks - 1 + 0.5 * torch.randn(60, dtype=F64, generator=generator)


def training(rate: float, optim: Any = torch.optim.SGD, **options: Any) -> GradientEM:
    model = Clusters((-0.5, 0.4))
    return GradientEM(
        model, Enumeration(check=False), optim(model.parameters(), lr=rate), **options
    )


@pytest.mark.parametrize(
    ("monotone", "optim", "prior"),
    [
        (False, torch.optim.SGD, None),
        (False, torch.optim.Adam, TaskChain.sticky(2, 0.2)),
        (True, torch.optim.SGD, TaskPrior.uniform(2, learn=True)),
        (True, torch.optim.SGD, TaskChain.sticky(2, 0.2)),
    ],
)
def test_it_stops_where_the_gradient_of_the_evidence_is_zero(
    monotone: bool, optim: Any, prior: Any, generator: torch.Generator
) -> None:
    x = data(generator)
    em = training(0.1 if optim is torch.optim.Adam else 0.4, optim, monotone=monotone, prior=prior)
    found = em.fit(x, tolerance=1e-8)
    assert found.converged
    assert found.reason.startswith("10 steps moved")
    assert found.num_steps == len(em.history)
    assert found.objective == em.history[-1].objective / em.history[-1].num_observations
    em.step(x)
    assert isinstance(em.model, Clusters)
    assert em.model.means.grad is not None
    assert em.model.means.grad.abs().max() < 1e-3
    assert abs(em.history[-1].objective / 60 - found.objective) < 1e-8


def test_too_few_steps_and_steps_that_go_round_in_circles_are_warned_of(
    generator: torch.Generator,
) -> None:
    x = data(generator)
    with pytest.warns(ConvergenceWarning, match=r"after 3 steps.*max_steps = 3 reached.*settled"):
        found = training(0.01).fit(x, max_steps=3)
    assert (found.converged, found.num_steps) == (False, 3)
    with pytest.warns(ConvergenceWarning):
        assert not training(1.2).fit(x, max_steps=30).converged  # beyond 2 / curvature


def test_refused_steps_are_converged_only_where_they_promise_nothing(
    generator: torch.Generator,
) -> None:
    x = data(generator)
    with pytest.warns(ConvergenceWarning, match="no step of the optimiser raises"):
        found = training(1e6, monotone=True).fit(x)
    assert (found.converged, found.num_steps) == (False, 2)
    em = training(0.3, monotone=True)
    em.fit(x, tolerance=1e-12)
    em.optim = torch.optim.Rprop(em.optim.param_groups[0]["params"], lr=0.01)  # of any length
    found = em.fit(x)
    assert found.reason.startswith("no step of the optimiser raises")
    assert (found.converged, found.num_steps) == (True, 2)


def test_a_refused_step_keeps_what_the_prior_has_learned(generator: torch.Generator) -> None:
    prior = TaskChain.sticky(2, 0.4, learn_transition="hazard")
    em = training(1e6, monotone=True, prior=prior)
    before = em.step(data(generator))
    assert em.history[0].accepted == 0
    assert isinstance(em.prior, TaskChain)
    assert em.prior.hazard < 0.39
    assert em.step(data(generator.manual_seed(0))) != before


def test_a_step_promises_what_a_small_one_gains(generator: torch.Generator) -> None:
    x, em = data(generator), training(1e-6)
    first, second = em.step(x), em.step(x)
    assert em.history[0].promised / 60 == pytest.approx(second - first, rel=1e-3)
    assert math.isfinite(first)


def test_limits_that_make_no_sense_are_refused() -> None:
    em = training(0.1)
    for options in ({"max_steps": 0}, {"window": 0}, {"tolerance": 0.0}, {"tolerance": math.nan}):
        with pytest.raises(ValueError, match="expected max_steps >= 1, window >= 1 and tolerance"):
            em.fit(torch.zeros(3, dtype=F64), **options)  # type: ignore[arg-type]
