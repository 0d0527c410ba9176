"""Draws of several tasks that hang together: they follow their joint posterior."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from gbi_pyro import Enumeration
from gbi_pyro.inference.enumerated_joint import EnumeratedJoint

F64 = torch.float64
TASK = {"task": True}
DRAWS = 20_000


def sum_of_two(x: Tensor) -> None:
    """Only a + b is seen, so that a and b exclude each other."""
    half = torch.full((2,), 0.5, dtype=F64)
    with pyro.plate("case", len(x)):
        a = pyro.sample("a", dist.OneHotCategorical(half), infer=TASK)
        b = pyro.sample("b", dist.OneHotCategorical(half), infer=TASK)
        pyro.sample("x", dist.Normal(a[..., 1] + b[..., 1], 0.3), obs=x)


def nested(x: Tensor) -> None:
    """A task of each group, and one of each member that is likely to be the same."""
    with pyro.plate("group", x.shape[0], dim=-2):
        group = pyro.sample(
            "group_task", dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer=TASK
        )
        rows = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=F64)
        with pyro.plate("member", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.OneHotCategorical(group @ rows), infer=TASK)
            pyro.sample("x", dist.Normal(z[..., 1], 1.0), obs=x)


def test_pairs_come_as_often_as_their_joint_posterior_says(generator: torch.Generator) -> None:
    x = torch.tensor([1.0, 0.1], dtype=F64)
    found = Enumeration()(sum_of_two, x)
    draws = found.sample(DRAWS, generator=generator)
    pairs = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij"))
    means = pairs.sum(0).to(F64)
    for case in range(2):
        p = dist.Normal(means, 0.3).log_prob(x[case]).flatten().softmax(0)
        seen = torch.bincount(2 * draws["a"][:, case] + draws["b"][:, case], minlength=4) / DRAWS
        error = (p * (1 - p) / DRAWS).sqrt()
        assert bool(((seen - p).abs() <= 4 * error + 1e-9).all())
    product = found.probs("a")[0][:, None] * found.probs("b")[0][None]
    assert abs(product[1, 1] - 0.25) < 0.01  # what draws one by one would give; the truth is 0.004


def test_inner_tasks_follow_the_outer_one_of_the_same_draw(generator: torch.Generator) -> None:
    x = torch.zeros((3, 2), dtype=F64) + 0.5  # says nothing
    draws = Enumeration()(nested, x).sample(DRAWS, generator=generator)
    assert draws["group_task"].shape == (DRAWS, 3, 1)
    assert draws["z"].shape == (DRAWS, 3, 2)
    same = (draws["z"] == draws["group_task"]).double().mean(0)
    assert bool(((same - 0.9).abs() <= 4 * (0.9 * 0.1 / DRAWS) ** 0.5).all())


def test_log_probabilities_sum_to_one() -> None:
    found = Enumeration()(sum_of_two, torch.tensor([0.4], dtype=F64))
    assert isinstance(found.joint, EnumeratedJoint)
    a, b = torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")
    total = found.joint.log_prob({"a": a.unsqueeze(-1), "b": b.unsqueeze(-1)})
    assert total.shape == (2, 2, 1)  # of each case
    assert total.exp().sum().item() == pytest.approx(1.0)


def test_one_site_needs_no_joint_posterior() -> None:
    def alone(x: Tensor) -> None:
        with pyro.plate("case", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer=TASK)
            pyro.sample("x", dist.Normal(z[..., 1], 1.0), obs=x)

    assert Enumeration()(alone, torch.zeros(3, dtype=F64)).joint is None
