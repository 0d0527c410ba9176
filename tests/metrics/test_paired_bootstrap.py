import math
from typing import Any

import numpy as np
import pytest

from gbi_pyro.metrics.intervals import paired_bootstrap


@pytest.mark.parametrize(("n", "tolerance"), [(10, 0.02), (40, 0.02)])
def test_the_interval_covers_the_true_difference_as_often_as_it_says(
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
    ("first", "second", "options", "message"),
    [
        ([], [], {}, "same seeds"),
        ([1.0, 2.0], [1.0], {}, r"\(2,\) and \(1,\)"),
        ([1.0, math.nan], [1.0, 2.0], {}, "finite"),
        ([1.0, 2.0], [1.0, 2.0], {"level": 1.0}, "between 0 and 1; got 1.0"),
    ],
)
def test_unfit_arguments_are_named(
    first: list[float], second: list[float], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(first, second, **options)
