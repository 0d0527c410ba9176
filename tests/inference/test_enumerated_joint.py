"""Draws of several tasks that hang together: they follow their joint posterior."""

from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Predictive, TraceEnum_ELBO, config_enumerate
from torch import Tensor
from torch.nn.functional import one_hot

from gbi_pyro import (
    AutoTaskGuide,
    Enumeration,
    OneStepGradient,
    SecondOrderJoint,
    TaskSiteError,
)
from gbi_pyro.inference.enumerated_joint import EnumeratedJoint
from gbi_pyro.metrics import importance_correction
from gbi_pyro.relax import Model

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


def test_conditionals_of_nested_sites_multiply_to_the_joint(generator: torch.Generator) -> None:
    """Of draws, in as many dimensions to the left as there are: p(group) p(members | group)."""
    x = torch.randn((3, 2), generator=generator, dtype=F64)
    joint = Enumeration()(nested, x).joint
    assert joint is not None
    assert joint.sites == ("group_task", "z")
    drawn = joint.sample(8, generator)
    drawn = {name: ids.unflatten(0, (4, 2)) for name, ids in drawn.items()}
    outer = joint.conditional("group_task", {})
    inner = joint.conditional("z", {"group_task": drawn["group_task"]})
    log_prob = outer.log_prob(one_hot(drawn["group_task"], 2)).squeeze(-1)
    log_prob = log_prob + inner.log_prob(one_hot(drawn["z"], 2)).sum(-1)
    expected = joint.log_prob(drawn)
    assert expected.shape == (4, 2, 3, 1)
    torch.testing.assert_close(log_prob, expected.squeeze(-1))


def test_a_posterior_without_a_joint_sums_the_same_elements() -> None:
    """Where the tasks are independent the product of their marginals is the joint posterior."""

    def apart(x: Tensor) -> None:
        half = torch.full((2,), 0.5, dtype=F64)
        with pyro.plate("group", x.shape[0], dim=-2):
            group = pyro.sample("group_task", dist.OneHotCategorical(half), infer=TASK)
            pyro.sample("y", dist.Normal(group[..., 1], 1.0), obs=x[:, :1])
            with pyro.plate("member", x.shape[1], dim=-1):
                z = pyro.sample("z", dist.OneHotCategorical(half), infer=TASK)
                pyro.sample("x", dist.Normal(z[..., 1], 1.0), obs=x)

    found = Enumeration()(apart, torch.tensor([[0.3, 1.0], [-1.0, 0.2], [0.0, 2.0]], dtype=F64))
    ids = found.sample(5, generator=torch.Generator().manual_seed(0))
    expected = found.log_prob(ids)
    assert expected.shape == (5, 3, 1)
    torch.testing.assert_close(replace(found, joint=None).log_prob(ids), expected)
    with pytest.raises(TaskSiteError, match="sites with the same elements"):
        found.table()
    with pytest.raises(TaskSiteError, match=r"ids should name .* got \['z'\]"):
        found.log_prob({"z": ids["z"]})


def test_a_table_has_a_limit() -> None:
    found = Enumeration()(sum_of_two, torch.zeros(2, dtype=F64))
    assert found.table(max_joint=4).log_probs.shape == (2, 2, 2)
    with pytest.raises(TaskSiteError, match="4 combinations of tasks, more than max_joint = 3"):
        found.table(max_joint=3)


def test_other_ids_are_other_words_for_the_same(generator: torch.Generator) -> None:
    found = Enumeration()(sum_of_two, torch.tensor([0.4, 1.3], dtype=F64))
    other = found.reordered([1, 0], "b")
    a, b = torch.tensor([0, 1]), torch.tensor([1, 1])
    torch.testing.assert_close(
        other.log_prob({"a": a, "b": 1 - b}), found.log_prob({"a": a, "b": b})
    )
    assert other.joint is not None
    assert found.joint is not None
    torch.testing.assert_close(
        other.joint.conditional("b", {"a": a}).probs.flip(-1),
        found.joint.conditional("b", {"a": a}).probs,
    )


def test_a_guide_draws_sites_together_and_its_weights_are_equal(
    generator: torch.Generator,
) -> None:
    """Draws of the exact posterior have the weight p(x), all of them."""
    x = torch.tensor([1.0, 0.1, 0.6], dtype=F64)
    guide = AutoTaskGuide(sum_of_two, Enumeration())
    found = importance_correction(guide, (x,), num_draws=200, generator=generator, each=["case"])
    torch.testing.assert_close(found.effective_size, torch.full((3,), 200.0, dtype=F64))
    evidence = Enumeration()(sum_of_two, x).log_evidence
    torch.testing.assert_close(found.log_evidence, evidence)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = Predictive(guide, num_samples=DRAWS, parallel=True)(x)
    both = (drawn["a"][..., 1] * drawn["b"][..., 1])[:, 0]
    p = Enumeration()(sum_of_two, x).table().log_probs.exp()[0, 1, 1].item()
    assert abs(both.mean().item() - p) <= 4 * (p * (1 - p) / DRAWS) ** 0.5 + 1e-9


@pytest.mark.parametrize("vectorised", [False, True])
def test_a_guide_draws_inner_tasks_given_the_outer_one(vectorised: bool) -> None:
    x = torch.zeros((3, 2), dtype=F64) + 0.5  # says nothing
    guide = AutoTaskGuide(nested, Enumeration())
    n = 4000 if vectorised else 200
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = Predictive(guide, num_samples=n, parallel=vectorised)(x)
    assert drawn["z"].shape == (n, 3, 2, 2)
    same = (drawn["z"] * drawn["group_task"]).sum(-1).mean(0)
    assert bool(((same - 0.9).abs() <= 4 * (0.9 * 0.1 / n) ** 0.5).all())


def test_the_bound_of_an_exact_joint_guide_is_tight() -> None:
    """Enumerated in the guide as in the model: the conditionals take all tasks at once."""
    x = torch.tensor([1.0, 0.1, 0.6], dtype=F64)
    guide = config_enumerate(AutoTaskGuide(sum_of_two, Enumeration()))
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(sum_of_two, guide, x)
    evidence = Enumeration()(sum_of_two, x).log_evidence
    assert evidence is not None
    assert -loss == pytest.approx(float(evidence.sum()), rel=1e-9)


@pytest.mark.parametrize("infer", [Enumeration(), SecondOrderJoint(), OneStepGradient()])
@pytest.mark.parametrize(
    ("b", "message"),
    [
        ([2, 0], r"ids\['b'\] should be task ids 0 .. 1; got 0 .. 2"),
        ([-1, 0], "got -1 .. 0"),
        ([0.0, 1.0], r"should be integers, task ids of elements \(2,\); got torch.float32"),
        ([0, 1, 1], r"elements \(2,\); got torch.int64 \(3,\)"),
    ],
)
def test_what_are_no_task_ids_is_refused(infer: Model, b: list[float], message: str) -> None:
    """One past the last task of a site is the first of the next in a table of combinations."""
    found = infer(sum_of_two, torch.tensor([0.4, 1.3], dtype=F64))
    with pytest.raises(ValueError, match=message):
        found.log_prob({"a": torch.tensor([0, 0]), "b": torch.tensor(b)})
    assert found.log_prob({"a": [0, 1], "b": [1, 1]}).shape == (2,)
