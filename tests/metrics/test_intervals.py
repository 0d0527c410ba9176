import math

import numpy as np
import pytest

from gbi_pyro.metrics.intervals import student_interval


@pytest.mark.parametrize("n", [2, 5, 20])
def test_the_interval_covers_the_true_mean_as_often_as_it_says(n: int) -> None:
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


def test_a_level_is_a_probability() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        student_interval([1.0, 2.0], 1.0)
