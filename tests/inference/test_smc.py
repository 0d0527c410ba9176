"""Sequential Monte Carlo: an unbiased evidence, and a posterior that approaches the exact one."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro_models import TASK, gaussian, normal, random_log_prior, random_log_probs
from torch import Tensor

from gbi_pyro import Enumeration, TaskSiteError
from gbi_pyro.inference import TaskSMC
from gbi_pyro.inference.smc import _systematic
from tests.inference.coupled_tasks import coupled, coupled_data, divergence

F64 = torch.float64


@pytest.mark.parametrize("temperatures", [1, 4])
def test_the_evidence_is_unbiased(temperatures: int, generator: torch.Generator) -> None:
    """Each of many elements with the same data is a repetition of its own."""
    args = coupled_data(generator, 4000, same=True)
    found = TaskSMC(4, temperatures)(coupled, *args)
    exact = Enumeration()(coupled, *args).log_evidence
    assert exact is not None
    ratio = (found.settings["log_evidence_estimate"] - exact).exp()
    error = ratio.std() / len(ratio) ** 0.5
    assert 0 < error < 0.05
    assert abs(float(ratio.mean()) - 1) < 4 * float(error)
    assert found.log_evidence is None


def test_more_particles_are_better(generator: torch.Generator) -> None:
    args = coupled_data(generator, 40)
    exact = Enumeration()(coupled, *args)
    errors = [float(divergence(exact, TaskSMC(num)(coupled, *args)).mean()) for num in (16, 256)]
    assert errors[1] < errors[0] / 4
    few, many = (
        TaskSMC(num)(coupled, *args).settings["log_evidence_estimate"] for num in (16, 256)
    )
    assert (many - exact.log_evidence).std() < (few - exact.log_evidence).std() / 2


@pytest.mark.parametrize("max_joint", [65536, 2])
def test_the_joint_has_the_marginals(max_joint: int, generator: torch.Generator) -> None:
    args = coupled_data(generator, 10)
    found = TaskSMC(max_joint=max_joint)(coupled, *args)
    for name, q in found.table().marginals().items():
        torch.testing.assert_close(found.log_probs[name], q)
    assert found.settings["floor"] == pytest.approx(5 / 32)
    assert found.passes.forward == 16 + 4 * 16 * (1 + 2)


def test_one_site_is_exact(generator: torch.Generator) -> None:
    args = normal(generator, 6), normal(generator, 4), 0.5, random_log_prior(generator, 4)
    found, exact = TaskSMC()(gaussian, *args), Enumeration()(gaussian, *args)
    torch.testing.assert_close(found.logits(), exact.logits(), rtol=0, atol=1e-10)


def test_systematic_resampling_rounds_expected_numbers(generator: torch.Generator) -> None:
    weights = random_log_probs(generator, 500, 8).exp().T.clone()
    weights[3], weights[7] = 0.0, 0.0
    weights = weights / weights.sum(0)
    kept = _systematic(weights, generator)
    counts = torch.nn.functional.one_hot(kept, 8).sum(0).T
    assert bool((counts >= (8 * weights - 1e-9).floor()).all())
    assert bool((counts <= (8 * weights + 1e-9).ceil()).all())
    mean = (counts - 8 * weights).double()
    assert float((mean.mean(1) / (mean.std(1) / 500**0.5).clamp_min(1e-12)).abs().max()) < 4


def test_the_seed_decides(generator: torch.Generator) -> None:
    args = coupled_data(generator, 5)
    state = torch.get_rng_state()
    first, again, other = (TaskSMC(seed=seed)(coupled, *args) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.table().flat, again.table().flat)
    assert not torch.equal(first.table().flat, other.table().flat)


def test_forbidden_tasks_stay_forbidden(generator: torch.Generator) -> None:
    x, _, given_a, effects = coupled_data(generator, 10)
    args = x, torch.tensor([1.0, 0.0], dtype=F64).log(), given_a, effects
    found = TaskSMC()(coupled, *args)
    assert bool((found.probs("a")[:, 1] == 0).all())
    exact = Enumeration()(coupled, *args)
    torch.testing.assert_close(found.probs("b"), exact.probs("b"), rtol=0, atol=1e-10)


def test_data_that_no_particle_can_have_made() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("case", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer=TASK)
            pyro.factor("x", torch.where(x > 0, z[..., 1], -torch.inf))

    with pytest.raises(TaskSiteError, match="can have made the data of element \\(1,\\)"):
        TaskSMC()(model, torch.tensor([1.0, -1.0], dtype=F64))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"num_particles": 1}, ValueError, "num_particles must be at least 2"),
        ({"temperatures": 0}, ValueError, "temperatures must be at least 1"),
        ({"sweeps": 0}, ValueError, "sweeps must be at least 1"),
        ({"max_joint": 1}, ValueError, "max_joint must be at least 2"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be at least 1"),
        ({"seed": 1.5}, TypeError, "seed of TaskSMC should be an integer"),
    ],
)
def test_options_are_checked(options: dict[str, Any], error: type, match: str) -> None:
    with pytest.raises(error, match=match):
        TaskSMC(**options)
