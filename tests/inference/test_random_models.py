"""Enumeration against the sum over every assignment, on random models."""

from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gbi_pyro import Enumeration, TaskSiteError
from tests.inference.random_models import RandomModel, random_models

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
    return "right"


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


@pytest.mark.slow
def test_enumeration_is_right_or_refuses_on_two_thousand_random_models() -> None:
    counts = run(2000)
    print(f"\nrandom models: {dict(counts)}, none wrong")
    assert counts.total() >= 2000
    assert counts["right"] > 1000
