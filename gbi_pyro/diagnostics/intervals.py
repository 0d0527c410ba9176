"""A mean over seeds with its confidence interval."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student


class Interval(NamedTuple):
    """A mean over seeds with its confidence interval.

    Attributes:
        mean: over seeds.
        low: lower end of Student's interval; NaN for one seed.
        high: upper end.
        values: one for each seed, for paired comparisons.
    """

    mean: float
    low: float
    high: float
    values: tuple[float, ...]


def student_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Return the mean of some values with Student's t interval.

    mean +- t_{n - 1} s / sqrt(n), s the standard deviation with n - 1 in its denominator (Student
    1908, The probable error of a mean).

    Args:
        values: one for each seed, (n,).
        level: coverage.

    Raises:
        ValueError: for no values, or an unfit level.

    Example:
        >>> found = student_interval([1.0, 2.0, 3.0])
        >>> round(found.low, 3), found.mean, round(found.high, 3)
        (-0.484, 2.0, 4.484)
    """
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or not len(x):
        raise ValueError(f"values should be one number for each seed, (n,); got {x.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level should be between 0 and 1; got {level}: try 0.95")
    n, mean = len(x), float(x.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, (mean,))
    half = float(student.ppf(0.5 + level / 2, n - 1) * x.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, tuple(x.tolist()))
