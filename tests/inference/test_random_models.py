"""Enumeration against the sum over every assignment, on random models."""

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from gbi_pyro import BayesFilter, Enumeration, TaskChain, TaskSiteError
from gbi_pyro.inference.enumerated_joint import EnumeratedJoint
from gbi_pyro.joint import Joint
from tests.inference.random_models import Node, RandomModel, random_models

SETTINGS = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}


def compare_with_brute_force(model: RandomModel, chunk_size: int | None) -> str:
    """Return what became of a model: ``"right"`` or ``"refused"``; fail where it is wrong."""
    try:
        found = Enumeration(chunk_size=chunk_size)(model)
    except TaskSiteError:
        if model.crosses or model.leaks:
            return "refused"
        raise
    log_evidence, marginals = model.exact()
    assert found.total_log_evidence == pytest.approx(log_evidence, rel=1e-9, abs=1e-9)
    for task in model.tasks:
        dims = [model.plates[p][1] for p in task.plates]
        q = found.probs(task.name)
        order = sorted(range(len(dims)), key=lambda i: dims[i])  # plates from left to right
        expected = marginals[task.name].permute([*order, len(dims)]).reshape(q.shape)
        torch.testing.assert_close(q, expected, rtol=1e-7, atol=1e-9)
    if found.joint is not None:
        compare_joint(model, found.joint, log_evidence)
    return "right"


def compare_joint(model: RandomModel, joint: Joint, log_evidence: float) -> None:
    """Fail where the joint posterior of random assignments, or of its own draws, is wrong."""
    assert isinstance(joint, EnumeratedJoint)
    unknown, table = model.every_assignment()
    drawn = joint.sample(3, torch.Generator().manual_seed(0))
    anything = {
        name: torch.randint(model.num_tasks(name), ids.shape) for name, ids in drawn.items()
    }
    for ids in (drawn, anything):
        assignments = []
        for name, element in unknown:
            task = model.by_name[name]
            dims = [model.plates[p][1] for p in task.plates]
            at: list[int | slice] = [0] * (ids[name].ndim - 1)
            for d, i in zip(dims, element, strict=True):
                at[d] = i
            assignments.append(ids[name][(slice(None), *at)])
        expected = table[tuple(assignments)] - log_evidence
        total = joint.log_prob(ids).reshape(3, -1).sum(1)
        torch.testing.assert_close(total, expected, rtol=1e-7, atol=1e-7)


def run(examples: int) -> Counter[str]:
    """Try random models, and count what became of them."""
    counts: Counter[str] = Counter()

    @settings(max_examples=examples, **SETTINGS)
    @given(random_models(), st.sampled_from([None, None, 2, 5]))
    def each(model: RandomModel, chunk_size: int | None) -> None:
        counts[compare_with_brute_force(model, chunk_size)] += 1

    each()
    return counts


def test_enumeration_is_right_or_refuses_on_random_models() -> None:
    assert run(150)["right"] > 75


@st.composite
def chains(draw: st.DrawFn) -> tuple[RandomModel, TaskChain]:
    """Draw a model of one task over time, at any dimension, and a chain."""
    K, T, others = draw(st.integers(2, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 2))
    dims = draw(st.sampled_from([(-1, -2), (-2, -1), (-1, -3), (-3, -2)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    names = draw(st.sampled_from([("time", "sequence"), ("hour", "sequence")]))
    plates = {names[0]: (T, dims[0]), names[1]: (others, dims[1])}
    task = Node("z", names, (), torch.zeros(T, others, K, dtype=torch.float64))
    mask = (numbers(T, others) > -0.5) if draw(st.booleans()) else None
    means, data = numbers(T, others, K), numbers(T, others)
    x = Node("x", names, ("z",), means, mask, data=data, is_factor=draw(st.booleans()))
    initial, transition = numbers(K).log_softmax(-1), numbers(K, K).log_softmax(-1)
    return RandomModel(plates, (task,), (x,)), TaskChain(initial, transition, time=names[0])


@settings(max_examples=100, **SETTINGS)
@given(chains())
def test_a_chain_at_any_dimension_agrees_with_every_path(
    drawn: tuple[RandomModel, TaskChain],
) -> None:
    model, chain = drawn
    x, K, T = model.observations[0], chain.num_tasks, next(iter(model.plates.values()))[0]
    log_p = torch.distributions.Normal(x.table, 1.0).log_prob(x.data.unsqueeze(-1))
    if x.mask is not None:
        log_p = torch.where(x.mask.unsqueeze(-1), log_p, 0.0)  # (T, sequences, K)
    z = torch.tensor(list(itertools.product(range(K), repeat=T)))
    log_prior = chain.log_initial[z[:, 0]] + chain.log_transition[z[:, :-1], z[:, 1:]].sum(-1)
    steps = torch.arange(T)
    log_joint = log_prior + torch.stack(
        [log_p[steps, :, k].sum(0) for k in z], -1
    )  # (sequences, paths)
    q = torch.nn.functional.one_hot(z, K).double()
    smoothed = torch.einsum("sp,ptk->tsk", log_joint.softmax(-1), q)
    found = BayesFilter(
        Enumeration(),
        chain,
        output="smoothed",
    )(model)
    (site,) = found.sites.values()
    order = [p.name for p in site.plates if p]
    expected = smoothed if order[0] == chain.time else smoothed.transpose(0, 1)
    torch.testing.assert_close(found.probs(), expected.reshape(found.probs().shape))
    assert found.total_log_evidence == pytest.approx(log_joint.logsumexp(-1).sum().item())


@pytest.mark.slow
def test_enumeration_is_right_or_refuses_on_two_thousand_random_models() -> None:
    counts = run(2000)
    print(f"\nrandom models: {dict(counts)}, none wrong")
    assert counts.total() >= 2000
    assert counts["right"] > 1000
