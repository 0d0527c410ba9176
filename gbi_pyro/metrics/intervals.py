"""Intervals: Student's for a mean over seeds, the paired bootstrap, Jeffreys' for a proportion."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import ndtr
from scipy.stats import beta
from scipy.stats import t as student
from torch import Tensor

from gbi_pyro.metrics._validate import check_level

RESAMPLES = 10_000
BLOCK = 2**20  # numbers that the bootstrap draws at a time


class Interval(NamedTuple):
    """A mean over seeds with its confidence interval.

    Attributes:
        mean: over seeds.
        low: lower end of Student's interval; NaN for one seed, or if the mean is not finite.
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
        ValueError: for no values, or an invalid level.

    Example:
        >>> found = student_interval([1.0, 2.0, 3.0])
        >>> round(found.low, 3), found.mean, round(found.high, 3)
        (-0.484, 2.0, 4.484)
    """
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or not len(x):
        raise ValueError(f"values should be one number for each seed, (n,); got {x.shape}")
    check_level(level)
    n, mean = len(x), float(x.mean())
    if n == 1 or not np.isfinite(mean):
        return Interval(mean, math.nan, math.nan, tuple(x.tolist()))
    half = float(student.ppf(0.5 + level / 2, n - 1) * x.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, tuple(x.tolist()))


class Difference(NamedTuple):
    """The mean of paired differences with its bootstrap interval.

    Attributes:
        mean: of first - second, over pairs.
        low: lower end; NaN for one pair.
        high: upper end.
        pairs: how many.
    """

    mean: float
    low: float
    high: float
    pairs: int


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Return how far two methods are apart on the same seeds, with a bootstrap interval.

    Pairs are drawn together, so what a seed does to both cancels. The percentiles are those of
    Hesterberg 2015 (What teachers should know about the bootstrap, Am. Stat. 69, sec. 5.3): the
    plain ones are too near for few pairs, and are taken as much further out as Student's t is wider
    than a normal with the biased variance that resampling has. Of fewer than six pairs that is the
    range of the resampled means.

    Args:
        first: one number for each seed, ``(n,)``.
        second: the same seeds in the same order, ``(n,)``.
        level: coverage.
        resamples: how many times the pairs are drawn again.
        seed: of those draws.

    Raises:
        ValueError: for different lengths, no pairs, numbers that are not finite, or a level outside
            (0, 1).

    Example:
        >>> found = paired_bootstrap([1.0, 2.1, 2.9, 4.2], [0.0, 1.0, 2.0, 3.0])
        >>> round(found.mean, 2), found.low < found.mean < found.high
        (1.05, True)
    """
    a, b = (np.asarray(values, dtype=float) for values in (first, second))
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise ValueError(
            f"first and second should hold one number for each of the same seeds, (n,); got "
            f"{a.shape} and {b.shape}: leave out seeds that only one has"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("first and second should be finite; got NaN or infinite numbers")
    check_level(level)
    differences, n = a - b, len(a)
    mean = float(differences.mean())
    if n == 1:
        return Difference(mean, math.nan, math.nan, 1)
    draw, block = np.random.default_rng(seed), max(1, BLOCK // n)
    means = np.empty(resamples)
    for start in range(0, resamples, block):  # the same numbers as all at once
        size = min(block, resamples - start)
        means[start : start + size] = differences[draw.integers(n, size=(size, n))].mean(-1)
    tail = float(ndtr(math.sqrt(n / (n - 1)) * student.ppf((1 - level) / 2, n - 1)))
    low, high = np.quantile(means, [tail, 1 - tail])
    return Difference(mean, float(low), float(high), n)


def jeffreys_interval(
    successes: Tensor | ArrayLike, trials: Tensor | ArrayLike, level: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Return Jeffreys' interval of a proportion.

    The central quantiles of Beta(s + 1/2, n - s + 1/2), with the lower end 0 for s = 0 and the
    upper end 1 for s = n (Brown, Cai and DasGupta 2001, Interval estimation for a binomial
    proportion). Its coverage is the nominal one on average over proportions. Where the n trials
    have different probabilities, as forecasts in one bin do, their sum varies less than a binomial,
    and the interval errs on the wide side.

    Args:
        successes: s, (...), fractions of a success being welcome.
        trials: n, (...), at least s.
        level: nominal coverage.

    Returns:
        The lower and the upper ends, (...) each, float64.

    Raises:
        ValueError: for an invalid level, or numbers that are no successes among trials.

    Example:
        >>> [round(end.item(), 3) for end in jeffreys_interval(8, 10)]
        [0.497, 0.956]
    """
    s, n = (torch.as_tensor(v).detach().cpu().double() for v in (successes, trials))
    check_level(level)
    if not bool(((s >= 0) & (s <= n)).all()):
        raise ValueError(
            "successes should be between 0 and the number of trials; got "
            f"{s.tolist()} of {n.tolist()}: are the two swapped?"
        )
    tail = 0.5 - level / 2
    low = torch.as_tensor(beta.ppf(tail, s + 0.5, n - s + 0.5))
    high = torch.as_tensor(beta.ppf(1 - tail, s + 0.5, n - s + 0.5))
    return low.masked_fill(s == 0, 0.0), high.masked_fill(s == n, 1.0)
