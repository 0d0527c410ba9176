"""When an iterative fit has converged, and what it says of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class ConvergenceWarning(UserWarning):
    """A fit stopped before it converged."""


class EMFit(NamedTuple):
    """How a fit by expectation maximisation ended.

    Attributes:
        converged: whether it met its criterion.
        reason: why it stopped, in words.
        num_steps: how many steps it took.
        objective: of the last step, before its update, in nats per observed value.
    """

    converged: bool
    reason: str
    num_steps: int
    objective: float


def has_settled(objectives: Sequence[float], window: int, tolerance: float) -> bool:
    """Whether the last ``window`` steps moved an objective by no more than a tolerance.

    The largest of the last window + 1 values less the smallest, relative to their size where that
    is above 1: an objective that goes up and down has not settled.

    >>> has_settled([-3.0, -2.0, -1.5, -1.5, -1.5], window=2, tolerance=1e-6)
    True
    >>> has_settled([-1.5, -1.4, -1.5], window=2, tolerance=1e-6)
    False
    """
    last = objectives[-window - 1 :]
    if len(last) <= window or not all(map(math.isfinite, last)):
        return False
    return max(last) - min(last) <= tolerance * max(1.0, abs(last[-1]))
