"""Tasks in another order: everything follows, and nothing else changes."""

from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from gbi_pyro import (
    BayesFilter,
    Enumeration,
    IterativeGradient,
    OneStepGradient,
    TaskChain,
    calibrate,
    marginalize,
)
from gbi_pyro.export import to_inference_data
from gbi_pyro.inference import ChainPosterior
from gbi_pyro.learning import match_labels, order_tasks
from gbi_pyro.metrics import agreement
from gbi_pyro.posterior import TaskPosterior

F64 = torch.float64
MEANS = torch.tensor([1.5, -1.0, 0.2], dtype=F64)
A = torch.tensor([[0.8, 0.15, 0.05], [0.3, 0.6, 0.1], [0.05, 0.05, 0.9]], dtype=F64)
ORDER = order_tasks(MEANS)


def model(x: Tensor, means: Tensor = MEANS) -> None:
    with pyro.plate("session", len(x), dim=-2), pyro.plate("time", x.shape[-1], dim=-1):
        prior = dist.OneHotCategorical(torch.tensor([0.5, 0.3, 0.2], dtype=F64))
        z = pyro.sample("z", prior, infer={"task": True})
        pyro.sample("x", dist.Normal(z @ means, 0.7), obs=x)


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    return torch.randn(3, 12, generator=generator, dtype=F64)


def chain(kind: str) -> TaskChain:
    """A chain of three tasks, of which no two are alike."""
    options: dict[str, Any] = {
        "constant": {},
        "driven": {
            "slopes": torch.arange(9, dtype=F64).reshape(1, 3, 3) / 9,
            "inputs": torch.linspace(-1, 1, 12, dtype=F64).unsqueeze(-1),
        },
        "explicit": {"log_duration": A[:, :2].softmax(-1).log()},
    }[kind]
    start: Any = A[1].log() if kind == "driven" else "stationary"
    return TaskChain(start, A.log(), **options)


KINDS = ("constant", "driven", "explicit")


@pytest.mark.parametrize("kind", KINDS)
def test_a_chain_in_another_order_is_the_chain_of_a_model_in_that_order(
    kind: str, x: Tensor
) -> None:
    """The oracle: the model itself with its means, and prior, in the other order."""
    found = marginalize(model, chain(kind)).infer(x).reordered(ORDER)

    def permuted(x: Tensor) -> None:
        model(x, MEANS[ORDER])

    expected = marginalize(permuted, chain(kind).reordered(ORDER)).infer(x)
    assert isinstance(found, ChainPosterior)
    for name in ("log_filtered", "log_predicted", "log_smoothed"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    torch.testing.assert_close(found.logits(), expected.logits())
    assert torch.equal(found.viterbi, expected.viterbi)
    assert found.total_log_evidence == pytest.approx(expected.total_log_evidence, abs=1e-10)
    torch.testing.assert_close(found.chain.transitions, expected.chain.transitions)
    torch.testing.assert_close(found.chain.log_initial, expected.chain.log_initial)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_the_same_paths_by_other_names(kind: str, x: Tensor) -> None:
    q = marginalize(model, chain(kind)).infer(x)
    moved = q.reordered(ORDER)
    seeds = [torch.Generator().manual_seed(7) for _ in range(4)]
    present = ORDER.argsort()
    ours, theirs = q.sample(5, generator=seeds[0]), moved.sample(5, generator=seeds[1])
    assert torch.equal(theirs["z"], present[ours["z"]])
    paths, others = q.sample_paths(5, generator=seeds[2]), moved.sample_paths(5, generator=seeds[3])
    assert torch.equal(others, present[paths])


@pytest.mark.parametrize("kind", KINDS)
def test_paths_of_the_chain_alone_follow_its_own_start(kind: str, x: Tensor) -> None:
    """The share of each task at the first step, whatever the data."""
    q = marginalize(model, chain(kind)).infer(x).reordered(ORDER)
    drawn = q.sample_prior(2000, generator=torch.Generator().manual_seed(1))
    assert drawn.shape == (2000, *x.shape)
    share = (drawn[..., 0, None] == torch.arange(3)).double().mean((0, 1))
    p = q.chain.log_initial.exp()
    assert bool(((share - p).abs() < 4 * (p * (1 - p) / 6000).sqrt()).all())


def test_the_log_evidence_and_its_steps_stay(x: Tensor) -> None:
    q = marginalize(model, chain("constant")).infer(x)
    moved = q.reordered(ORDER)
    assert moved.total_log_evidence == q.total_log_evidence
    assert torch.equal(moved.padding(), q.padding())
    assert moved.step_log_evidence is not None
    assert torch.equal(moved.step_log_evidence, q.step_log_evidence)
    torch.testing.assert_close(moved.entropy(), q.entropy())


def same(first: TaskPosterior, second: TaskPosterior) -> None:
    torch.testing.assert_close(first.log_probs, second.log_probs, rtol=0, atol=0)
    priors = [q.sites[q.site_name()].log_prior for q in (first, second)]
    assert torch.equal(*priors)


def test_orders_follow_each_other_and_can_be_undone(x: Tensor) -> None:
    q = Enumeration()(model, x)
    once = q.reordered(ORDER)
    same(once.reordered(order_tasks(MEANS[ORDER])), once)  # already in order
    same(once.reordered(ORDER.argsort()), q)
    same(once.reordered([1, 2, 0]), q.reordered(ORDER[[1, 2, 0]]))
    assert once.reordered(ORDER.argsort()).sites["z"].order == (0, 1, 2)
    twice = marginalize(model, chain("explicit")).infer(x).reordered([2, 0, 1]).reordered([1, 2, 0])
    same(twice, marginalize(model, chain("explicit")).infer(x))


def test_free_points_and_their_path_follow(x: Tensor) -> None:
    free: dict[str, Any] = {"optim": "adam", "space": "free", "regularizer": "l2"}
    q = IterativeGradient(num_steps=3, keep_path=True, **free)(model, x)
    moved = q.reordered(ORDER)
    assert torch.equal(moved.point(), q.point()[..., ORDER])
    assert torch.equal(moved.path["z"], q.path["z"][..., ORDER])
    # A warm start from it begins at the same points of the model.
    ours, theirs = (IterativeGradient(num_steps=2, start=p, **free)(model, x) for p in (q, moved))
    assert torch.equal(ours.point(), theirs.point())


def test_what_belongs_to_the_model_is_fitted_in_its_order(x: Tensor) -> None:
    one_step, exact = OneStepGradient()(model, x), Enumeration()(model, x)
    ours = calibrate(one_step, exact)
    theirs = calibrate(one_step.reordered(ORDER), exact.reordered([1, 0, 2]))
    torch.testing.assert_close(ours.offsets, theirs.offsets)
    both = agreement(exact.reordered(ORDER), one_step.reordered(ORDER))
    assert both.kl == pytest.approx(agreement(exact, one_step).kl)
    with pytest.raises(ValueError, match=r"in one order; got \(0, 1, 2\) and \(1, 2, 0\)"):
        agreement(exact, one_step.reordered(ORDER))


def test_frames_and_exports_follow(x: Tensor) -> None:
    """Replicated data are drawn under the model's own tasks, whatever their order."""
    q = BayesFilter(Enumeration(), chain("constant"), output="smoothed")(model, x)
    moved, names = q.reordered(ORDER), ["low", "middle", "high"]
    ours, theirs = q.to_dataframe(), moved.to_dataframe(names=names)
    assert ours["p_1"].equals(theirs["p_low"].rename("p_1"))
    assert theirs["task"].tolist() == [names[k] for k in moved.mode().flatten()]
    seeds = [torch.Generator().manual_seed(3) for _ in range(2)]
    data = to_inference_data(q, model, (x,), num_draws=4, generator=seeds[0])
    other = to_inference_data(
        moved, model, (x,), num_draws=4, generator=seeds[1], task_names={"z": names}
    )
    assert (other.posterior_predictive["x"] == data.posterior_predictive["x"]).all()
    low = other.task_probs["z"].sel(z_task="low").values
    assert (low == data.task_probs["z"].sel(z_task=1).values).all()
    assert (ORDER.numpy()[other.posterior["z"].values] == data.posterior["z"].values).all()


def test_one_of_several_sites_is_named(generator: torch.Generator) -> None:
    def two(x: Tensor) -> None:
        with pyro.plate("trial", len(x)):
            a, b = (
                pyro.sample(name, dist.OneHotCategorical(torch.ones(K)), infer={"task": True})
                for name, K in (("a", 2), ("b", 3))
            )
            pyro.sample("x", dist.Normal(a[..., 0] + b @ MEANS.float(), 0.5), obs=x)

    q = Enumeration()(two, torch.randn(6, generator=generator))
    moved = q.reordered([2, 0, 1], "b")
    assert torch.equal(moved.probs("b"), q.probs("b")[..., [2, 0, 1]])
    assert torch.equal(moved.probs("a"), q.probs("a"))
    with pytest.raises(ValueError, match="2 task sites"):
        q.reordered([1, 0])


def test_labels_give_an_order_too(x: Tensor) -> None:
    q = Enumeration()(model, x)
    labels = ORDER.argsort()[q.mode()]  # by whoever numbered the tasks otherwise
    assert torch.equal(q.reordered(match_labels(q.probs(), labels)[:-1]).mode(), labels)


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 1], [0, 1, 3], [[0, 1, 2]], [0.0, 1.0, 2.0]])
def test_what_is_no_order_is_refused(order: Any, x: Tensor) -> None:
    for thing in (
        Enumeration()(model, x),
        chain("driven"),
        marginalize(model, chain("driven")).infer(x),
    ):
        with pytest.raises(ValueError, match="order should hold each task id from 0 to 2 once"):
            thing.reordered(order)  # type: ignore[attr-defined]


def test_transitions_at_inputs_are_those_of_the_steps() -> None:
    driven = chain("driven")
    assert driven.inputs is not None
    torch.testing.assert_close(driven.transitions_at(driven.inputs[:-1]), driven.transitions)
    entered = replace(driven, of="entered")
    torch.testing.assert_close(entered.transitions_at(driven.inputs[1:]), entered.transitions)
    with pytest.raises(ValueError, match=r"inputs should be \(\.\.\., 1\).*got \(4, 2\)"):
        driven.transitions_at(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="no slopes: no input drives it"):
        chain("constant").transitions_at(torch.zeros(1))
