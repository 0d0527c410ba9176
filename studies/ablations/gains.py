"""What one kind of network gains on another, seed by seed, with its interval and in words."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from gbi_pyro.metrics.intervals import Difference, paired_bootstrap
from gbi_pyro.metrics.table import format_number
from studies.core.table import Row, Target


def gain_row(
    claim: str,
    what: str,
    reference: ArrayLike,
    values: ArrayLike,
    *,
    ratio: bool = False,
    helps: bool | None = None,
) -> Row:
    """Return what is gained where smaller is better, with its paired interval.

    Args:
        claim, what: as in ``Row``.
        reference: the values it is compared with, by seed.
        values: of what may gain, for the same seeds.
        ratio: whether the gain is reference over value; its interval is that of the geometric mean.
        helps: the target on the lower end: True asks for a gain, False that there is none, None for
            no target.

    >>> row = gain_row("C1", "gain", [3.0, 3.1, 3.2], [1.0, 1.2, 1.1], helps=False)
    >>> row.note, row.ends, row.verdict
    ('a benefit', '1.90 to 2.10', 'not reached')
    """
    a, b = (np.asarray(v, dtype=float) for v in (reference, values))
    found = paired_bootstrap(np.log(a), np.log(b)) if ratio else paired_bootstrap(a, b)
    interval, note = found, in_words(found)
    if ratio:
        mean, low, high = (float(np.exp(v)) for v in found[:3])
        interval = Difference(mean, low, high, found.pairs)
        note = f"geometric mean {format_number(mean)}, {note}"
    target = None if helps is None else Target(float(ratio), "lower end", at_least=helps)
    return Row.of(claim, what, a / b if ratio else a - b, target, note, interval)


def in_words(gain: Difference) -> str:
    """Return what an interval says about a gain.

    >>> in_words(Difference(0.1, -0.1, 0.3, 5))
    'no difference shown'
    """
    if gain.low > 0:
        return "a benefit"
    return "a loss" if gain.high < 0 else "no difference shown"


def first_below(curves: ArrayLike, level: ArrayLike, every: int) -> tuple[np.ndarray, str]:
    """Return the update at which each curve first comes to a level, and how many never do.

    A curve that never does counts as if it did at the check after its last, the least that it can
    be: leaving it out would bias the mean downwards.

    Args:
        curves: ``(seeds, checks)``.
        level: for each seed, ``(seeds,)``, or one for all.
        every: updates between checks.

    >>> first_below([[3.0, 1.0], [3.0, 3.0]], 2.0, 5)
    (array([10., 15.]), '1 of 2 never')
    """
    values = np.asarray(curves, dtype=float)
    there = values <= np.asarray(level, dtype=float).reshape(-1, 1)
    never = ~there.any(-1)
    first = np.where(never, values.shape[-1], there.argmax(-1))
    note = f"{never.sum()} of {len(values)} never" if never.any() else ""
    return (first + 1.0) * every, note
