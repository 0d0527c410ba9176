import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gbi_pyro.metrics import Continual, continual_learning

R = np.array([[0.9, 0.4, 0.2], [0.7, 0.8, 0.3], [0.8, 0.5, 0.6]])
B = np.array([0.1, 0.2, 0.3])


def means(found: Continual) -> list[float]:
    return [interval.mean for interval in found if interval is not None]


def random_matrices(seeds: int, tasks: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(seeds, tasks, tasks))


def test_by_hand() -> None:
    found = continual_learning(R, B)
    assert found.average.mean == pytest.approx((0.8 + 0.5 + 0.6) / 3)
    assert found.backward.mean == pytest.approx(((0.8 - 0.9) + (0.5 - 0.8)) / 2)
    assert found.forgetting.mean == pytest.approx(((0.9 - 0.8) + (0.8 - 0.5)) / 2)
    assert found.forward is not None
    assert found.forward.mean == pytest.approx(((0.4 - 0.2) + (0.3 - 0.3)) / 2)


def test_definitions_written_out() -> None:
    for r in random_matrices(20, 5):
        t = len(r)
        found = continual_learning(r, np.linspace(0, 1, t))
        # As Lopez-Paz and Ranzato 2017 and Chaudhry et al. 2018 write them, counting from 1.
        a = {(i, j): r[i - 1, j - 1] for i in range(1, t + 1) for j in range(1, t + 1)}
        b = {j: (j - 1) / (t - 1) for j in range(1, t + 1)}
        written = [
            sum(a[t, j] for j in range(1, t + 1)) / t,
            sum(max(a[i, j] for i in range(1, t)) - a[t, j] for j in range(1, t)) / (t - 1),
            sum(a[t, j] - a[j, j] for j in range(1, t)) / (t - 1),
            sum(a[j - 1, j] - b[j] for j in range(2, t + 1)) / (t - 1),
        ]
        assert means(found) == pytest.approx(written)


def test_forgetting_is_at_least_minus_the_backward_transfer() -> None:
    differ = 0
    for r in random_matrices(50, 4):
        found = continual_learning(r)
        assert found.forgetting.mean >= -found.backward.mean - 1e-12
        differ += found.forgetting.mean > -found.backward.mean + 1e-12
        at_best = np.maximum(r, 0)
        np.fill_diagonal(at_best, 1.0)  # every task is best right after its own block
        found = continual_learning(at_best)
        assert found.forgetting.mean == pytest.approx(-found.backward.mean)
    assert differ > 0


def test_nothing_changes_for_one_that_does_not_learn() -> None:
    found = continual_learning(np.tile(B, (3, 1)), B)
    assert means(found) == pytest.approx([B.mean(), 0, 0, 0])


def test_forgetting_everything_and_passing_everything_on() -> None:
    """Only the task of the block is known; only the tasks of later blocks are."""
    now = continual_learning(np.eye(4), np.zeros(4))
    assert means(now) == pytest.approx([1 / 4, 1, -1, 0])
    on = continual_learning(np.triu(np.ones((4, 4))), np.zeros(4))
    assert means(on) == pytest.approx([1 / 4, 1, -1, 1])


def test_errors_are_accuracies_turned_round() -> None:
    r = random_matrices(6, 4)
    b = random_matrices(1, 4)[0][:1].repeat(6, 0)
    right, wrong = continual_learning(r, b), continual_learning(1 - r, 1 - b, errors=True)
    assert wrong.average.mean == pytest.approx(1 - right.average.mean)
    for a, e in zip(right[1:], wrong[1:], strict=True):
        assert a is not None
        assert e is not None
        assert e.values == pytest.approx(a.values)
        assert (e.low, e.high) == pytest.approx((a.low, a.high))


def test_seeds_are_taken_one_by_one() -> None:
    r, b = random_matrices(5, 3), random_matrices(5, 3, 1)[:, 0]
    together = continual_learning(r, b)
    for s in range(5):
        alone = continual_learning(r[s], b[s])
        assert [i.values[s] for i in together if i is not None] == pytest.approx(means(alone))
    assert together.average.mean == pytest.approx(np.mean(together.average.values))


def test_a_shared_baseline_serves_every_seed() -> None:
    r = random_matrices(5, 3)
    each = np.tile(B, (5, 1))
    assert continual_learning(r, B) == continual_learning(r, each)


def test_intervals_cover_as_often_as_they_say() -> None:
    """Normal accuracies: Student's interval over 5 seeds covers the mean in 80 of 100 studies."""
    studies, truth = 2000, 0.5
    draws = np.random.default_rng(0).normal(truth, 0.1, size=(studies, 5, 2, 2))
    hits = 0
    for r in draws:
        average = continual_learning(r, level=0.8).average
        hits += average.low <= truth <= average.high
    assert abs(hits / studies - 0.8) < 4 * math.sqrt(0.8 * 0.2 / studies)


def test_the_interval_by_a_table() -> None:
    """t for 2 degrees of freedom and 95 % is 4.303."""
    r = np.zeros((3, 2, 2))
    r[:, -1] = np.array([1.0, 2.0, 3.0])[:, None]
    average = continual_learning(r).average
    assert average.high - average.mean == pytest.approx(4.303 / math.sqrt(3), abs=1e-3)
    assert average.mean - average.low == pytest.approx(average.high - average.mean)


def test_one_seed_has_no_interval_and_no_baseline_no_forward_transfer() -> None:
    found = continual_learning(R)
    assert found.forward is None
    assert math.isnan(found.average.low)
    assert math.isnan(found.average.high)
    assert found.average.values == (found.average.mean,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: continual_learning(R[:2]), r"a row for each block .* got \(2, 3\)"),
        (lambda: continual_learning(R[0]), r"got \(3,\)"),
        (lambda: continual_learning([[1.0]]), r"two tasks or more; got \(1, 1\)"),
        (lambda: continual_learning(np.zeros((0, 3, 3))), r"got \(0, 3, 3\)"),
        (lambda: continual_learning(R, B[:2]), r"baseline should be \(3,\) or \(1, 3\), .* \(2,\)"),
        (lambda: continual_learning(np.where(R > 0.85, np.nan, R)), "got NaN"),
        (lambda: continual_learning(R, B * np.nan), "got NaN"),
        (lambda: continual_learning(R, level=95), "level should be between 0 and 1; got 95"),
    ],
)
def test_invalid_arguments_are_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
