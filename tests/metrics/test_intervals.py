"""Each interval covers the truth as often as it says, and its errors name what is wrong."""

import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import binom

from gbi_pyro.metrics import intervals, jeffreys_interval, paired_bootstrap, student_interval


@pytest.mark.parametrize(
    "interval",
    [
        lambda level: student_interval([1.0, 2.0], level),
        lambda level: paired_bootstrap([1.0, 2.0], [1.0, 2.0], level=level),
        lambda level: jeffreys_interval(1, 3, level),
    ],
)
@pytest.mark.parametrize("level", [0.0, 1.0, math.nan])
def test_a_level_is_a_probability(interval: Callable[[float], object], level: float) -> None:
    with pytest.raises(ValueError, match="level should be between 0 and 1; got"):
        interval(level)


def test_the_bootstrap_of_many_pairs_draws_the_same_numbers_in_bounded_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = np.random.default_rng(0)
    first, second = draw.normal(size=(2, 30_000))
    small = paired_bootstrap(first[:40], second[:40], resamples=1000)
    tracemalloc.start()
    paired_bootstrap(first, second, resamples=200)
    assert tracemalloc.get_traced_memory()[1] < 2**26  # all at once: 96 MB, of 10,000: 4.8 GB
    tracemalloc.stop()
    monkeypatch.setattr(intervals, "BLOCK", 40)  # a resample at a time
    assert paired_bootstrap(first[:40], second[:40], resamples=1000) == small
    monkeypatch.setattr(intervals, "BLOCK", 2**30)  # all at once
    assert paired_bootstrap(first[:40], second[:40], resamples=1000) == small


# Student


@pytest.mark.parametrize("n", [2, 5, 20])
def test_students_interval_covers_the_true_mean_as_often_as_it_says(n: int) -> None:
    """Over 4000 samples of normal numbers, within five standard errors of the level."""
    draws, level = np.random.default_rng(0).normal(3.0, 2.0, (4000, n)), 0.9
    found = [student_interval(x, level) for x in draws]
    covered = np.mean([f.low <= 3.0 <= f.high for f in found])
    assert abs(covered - level) < 5 * math.sqrt(level * (1 - level) / len(draws))


def test_one_value_has_no_interval() -> None:
    found = student_interval([2.0])
    assert found.mean == 2.0
    assert math.isnan(found.low)
    assert math.isnan(found.high)


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]]])
def test_values_are_a_number_for_each_seed(values: list) -> None:
    with pytest.raises(ValueError, match="one number for each seed"):
        student_interval(values)


# Paired bootstrap


@pytest.mark.parametrize(("n", "tolerance"), [(10, 0.02), (40, 0.02)])
def test_the_bootstrap_covers_the_true_difference_as_often_as_it_says(
    n: int, tolerance: float
) -> None:
    """Normal differences; five standard errors, and what a bootstrap of n pairs is known to err."""
    draws, level = np.random.default_rng(0), 0.9
    covered, trials = 0, 1500
    for seed in range(trials):
        shared = 10 * draws.normal(size=n)  # what a seed does to both
        first, second = shared + draws.normal(0.5, 1.0, n), shared + draws.normal(0.0, 1.0, n)
        found = paired_bootstrap(first, second, level=level, resamples=600, seed=seed)
        covered += found.low <= 0.5 <= found.high
    error = 5 * math.sqrt(level * (1 - level) / trials)
    assert abs(covered / trials - level) < error + tolerance


def test_pairing_takes_away_what_seeds_share() -> None:
    draws = np.random.default_rng(1)
    shared = 100 * draws.normal(size=12)
    first, second = shared + 1 + 0.1 * draws.normal(size=12), shared
    found = paired_bootstrap(first, second)
    assert found.low > 0.8
    assert found.high < 1.2
    shuffled = paired_bootstrap(first, np.roll(second, 1))
    assert shuffled.high - shuffled.low > 10


def test_swapping_the_methods_mirrors_the_interval() -> None:
    draws = np.random.default_rng(2)
    a, b = draws.normal(size=(2, 8))
    one, other = paired_bootstrap(a, b), paired_bootstrap(b, a)
    np.testing.assert_allclose([one.low, one.high], [-other.high, -other.low], atol=1e-12)


def test_it_does_not_matter_where_both_lie() -> None:
    a, b = np.random.default_rng(3).normal(size=(2, 9))
    shifted = paired_bootstrap(2 * a + 5, 2 * b + 5)
    np.testing.assert_allclose(shifted[:3], 2 * np.array(paired_bootstrap(a, b)[:3]))


def test_equal_differences_leave_no_doubt_and_one_pair_leaves_all() -> None:
    assert paired_bootstrap([2.0, 3.0, 4.0], [1.0, 2.0, 3.0]) == (1.0, 1.0, 1.0, 3)
    found = paired_bootstrap([2.0], [1.0])
    assert found.mean == 1.0
    assert math.isnan(found.low)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([], [], "same seeds"),
        ([1.0, 2.0], [1.0], r"\(2,\) and \(1,\)"),
        ([1.0, math.nan], [1.0, 2.0], "finite"),
    ],
)
def test_pairs_are_finite_numbers_of_the_same_seeds(
    first: list[float], second: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(first, second)


# Jeffreys


@pytest.mark.parametrize("n", [20, 100])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_jeffreys_interval_covers_as_often_as_it_says_on_average_over_proportions(
    n: int, level: float
) -> None:
    # Exact sums over the binomial of each proportion; the average over a uniform grid of these
    # differs from the level by order 1 / n.
    low, high = jeffreys_interval(torch.arange(n + 1), n, level)
    p = torch.linspace(0, 1, 2001, dtype=torch.float64)[1:-1]
    weight = torch.as_tensor(binom.pmf(torch.arange(n + 1), n, p[:, None]))
    inside = (low <= p[:, None]) & (p[:, None] <= high)
    coverage = (weight * inside).sum(-1)
    assert coverage.mean().item() == pytest.approx(level, abs=1 / n)


def test_ends_and_symmetry_of_jeffreys_interval() -> None:
    low, high = jeffreys_interval(torch.tensor([0.0, 2.5, 7.5, 10.0]), 10)
    assert low[0] == 0
    assert high[3] == 1
    torch.testing.assert_close(low, 1 - high.flip(0))
    assert (low[1:] < high[:-1]).all()


def test_there_are_no_more_successes_than_trials() -> None:
    with pytest.raises(ValueError, match=r"successes should be between 0.*swapped"):
        jeffreys_interval(5, 3)
