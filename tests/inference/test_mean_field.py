"""Mean field by the gradient, one site at a time."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro_models import TASK, gaussian, normal, random_log_prior
from torch import Tensor

from gbi_pyro import Enumeration, OneStepGradient
from gbi_pyro.inference import CoordinateGradient
from tests.inference.coupled_tasks import divergence

F64 = torch.float64


def multilinear(scores: Tensor, log_prior: Tensor) -> None:
    """Log likelihood scores[n, i, j, k] of three tasks, each element its own table."""
    with pyro.plate("case", len(scores)):
        a, b, c = (
            pyro.sample(n, dist.OneHotCategorical(logits=p), infer=TASK)
            for n, p in (
                ("a", log_prior),
                ("b", torch.zeros(3, dtype=F64)),
                ("c", torch.zeros(4, dtype=F64)),
            )
        )
        pyro.factor("x", torch.einsum("...ijk,...i,...j,...k->...", scores, a, b, c))


def dense(scores: Tensor, log_prior: Tensor, sweeps: int) -> tuple[list[Tensor], list[Tensor]]:
    """CAVI on the table itself, and the evidence lower bound after each update."""
    n, *sizes = scores.shape
    log_p = scores + log_prior[:, None, None] - torch.tensor(12.0, dtype=F64).log()
    q = [torch.full((n, K), 1 / K, dtype=F64) for K in sizes]
    letters, bounds = "ijk", []
    for _ in range(sweeps):
        for i in range(3):
            others = [j for j in range(3) if j != i]
            rule = f"nijk,n{letters[others[0]]},n{letters[others[1]]}->n{letters[i]}"
            q[i] = torch.einsum(rule, log_p, q[others[0]], q[others[1]]).softmax(-1)
            expected = torch.einsum("nijk,ni,nj,nk->n", log_p, *q)
            bounds.append(expected + sum(torch.special.entr(p).sum(-1) for p in q))
    return q, bounds


@pytest.fixture
def data(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return 2 * normal(generator, 6, 2, 3, 4), random_log_prior(generator, 2)


@pytest.mark.parametrize("sweeps", [1, 2, 7])
def test_it_is_cavi_where_the_log_joint_is_multilinear(
    sweeps: int, data: tuple[Tensor, Tensor]
) -> None:
    found = CoordinateGradient(sweeps=sweeps, tolerance=0.0)(multilinear, *data)
    expected, bounds = dense(*data, sweeps)
    for name, q in zip("abc", expected, strict=True):
        torch.testing.assert_close(found.probs(name), q, rtol=0, atol=1e-10)
    assert found.passes.forward == found.passes.backward == 3 * sweeps
    assert bool((torch.stack(bounds).diff(dim=0) > -1e-10).all())
    assert found.joint is None


def test_sweeps_end_when_nothing_moves(data: tuple[Tensor, Tensor]) -> None:
    found = CoordinateGradient(sweeps=300, tolerance=1e-9)(multilinear, *data)
    assert found.settings["converged"]
    made = found.settings["sweeps"]
    assert made < 300
    assert found.passes.forward == 3 * made
    expected, _ = dense(*data, 300)
    for name, q in zip("abc", expected, strict=True):
        torch.testing.assert_close(found.probs(name), q, rtol=0, atol=1e-6)
    assert not CoordinateGradient(sweeps=1)(multilinear, *data).settings["converged"]


def test_independent_tasks_are_exact(generator: torch.Generator) -> None:
    a, b = normal(generator, 5, 2), normal(generator, 5, 3)
    scores = a[:, :, None, None] + b[:, None, :, None] + torch.zeros(4, dtype=F64)
    args = scores, random_log_prior(generator, 2)
    found = CoordinateGradient()(multilinear, *args)
    assert divergence(Enumeration()(multilinear, *args), found).max() < 1e-10
    assert found.settings["sweeps"] == 2


def test_the_first_update_is_one_gradient_step(generator: torch.Generator) -> None:
    args = normal(generator, 6), normal(generator, 4), 0.5, random_log_prior(generator, 4)
    found = CoordinateGradient(sweeps=1)(gaussian, *args)
    torch.testing.assert_close(found.logits(), OneStepGradient()(gaussian, *args).logits())


def test_forbidden_tasks_stay_forbidden(data: tuple[Tensor, Tensor]) -> None:
    scores, _ = data
    log_prior = torch.tensor([0.0, 1.0], dtype=F64).log()
    found = CoordinateGradient(sweeps=3, tolerance=0.0)(multilinear, scores, log_prior)
    assert bool((found.probs("a")[:, 0] == 0).all())
    # The other sites are those of a model without the forbidden task.
    expected, _ = dense(scores[:, 1:].expand(-1, 2, -1, -1), torch.zeros(2, dtype=F64), 3)
    torch.testing.assert_close(found.probs("c"), expected[2], rtol=0, atol=1e-10)


def test_masked_elements_have_the_prior(generator: torch.Generator) -> None:
    shown = torch.tensor([True, False, True, False])
    args = normal(generator, 4), normal(generator, 3), 0.5, random_log_prior(generator, 3)
    found = CoordinateGradient()(poutine.mask(gaussian, shown), *args)
    torch.testing.assert_close(found.logits()[~shown], args[-1].expand(2, 3))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"sweeps": 0}, ValueError, "sweeps must be at least 1"),
        ({"sweeps": 1.5}, TypeError, "sweeps of CoordinateGradient should be an integer"),
        ({"tolerance": -1.0}, ValueError, "tolerance must not be negative"),
    ],
)
def test_options_are_checked(options: dict[str, Any], error: type, match: str) -> None:
    with pytest.raises(error, match=match):
        CoordinateGradient(**options)
