"""Two methods on the same seeds: how far apart they are, by a paired bootstrap."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr
from scipy.stats import t as student

RESAMPLES = 10_000


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
    if not 0 < level < 1:
        raise ValueError(f"level should be between 0 and 1; got {level}: try 0.95")
    differences, n = a - b, len(a)
    mean = float(differences.mean())
    if n == 1:
        return Difference(mean, math.nan, math.nan, 1)
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n))
    means = differences[drawn].mean(-1)
    tail = float(ndtr(math.sqrt(n / (n - 1)) * student.ppf((1 - level) / 2, n - 1)))
    low, high = np.quantile(means, [tail, 1 - tail])
    return Difference(mean, float(low), float(high), n)
