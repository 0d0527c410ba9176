"""What one kind of network gains on another, seed by seed, said with its interval and in words."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from gbi_pyro.metrics.intervals import Difference, paired_bootstrap
from studies.core.table import Bar, Row, format_number


def gain_rows(
    statement: str,
    what: str,
    reference: ArrayLike,
    values: ArrayLike,
    *,
    ratio: bool = False,
    helps: bool | None = None,
) -> list[Row]:
    """Return what is gained where smaller is better, and the lower end of its paired interval.

    Args:
        statement, what: as in ``Row``.
        reference: of what it is held against, by seed.
        values: of what may gain, for the same seeds.
        ratio: whether the gain is reference over value; its interval is that of the logarithm.
        helps: the bar on the lower end: True asks for a gain, False that there is none, None for
            no bar.

    >>> rows = gain_rows("C1", "gain", [3.0, 3.1, 3.2], [1.0, 1.2, 1.1], helps=False)
    >>> rows[0].note, rows[1].verdict
    ('95 % interval 1.90 to 2.10: a benefit', 'not met')
    """
    a, b = (np.asarray(v, dtype=float) for v in (reference, values))
    found = paired_bootstrap(np.log(a), np.log(b)) if ratio else paired_bootstrap(a, b)
    low, high, mean = (np.exp(v) if ratio else v for v in (found.low, found.high, found.mean))
    note = f"95 % interval {format_number(low)} to {format_number(high)}: {in_words(found)}"
    if ratio:
        note = f"geometric mean {format_number(mean)}, {note}"
    rows = [Row.of(statement, what, a / b if ratio else a - b, note=note)]
    if helps is not None:
        bar = Bar(float(ratio), at_least=helps)
        rows.append(Row.of(statement, f"{what}: lower end of its interval", [low], bar))
    return rows


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
    be: leaving it out would flatter it.

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
