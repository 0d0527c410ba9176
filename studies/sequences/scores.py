"""Held-out scores per trial, with intervals over sessions."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from gbi_pyro.metrics.intervals import Interval, student_interval

BIT = math.log(2.0)  # nats


def per_trial(totals: ArrayLike, lengths: ArrayLike) -> Interval:
    """Return the mean per trial of what is summed by session, with its interval over sessions.

    The ratio r = sum_s d_s / sum_s n_s; its interval is Student's of r + (d_s - r n_s) / mean(n),
    the linearised ratio (Cochran 1977, Sampling techniques, sec. 6.4). Trials of one session depend
    on each other, so that sessions are what is drawn.

    Args:
        totals: d, a sum over the trials of each session, ``(S,)``.
        lengths: n, the trials of each session, ``(S,)``.

    >>> found = per_trial([10.0, 30.0, 22.0], [100, 300, 200])
    >>> [round(float(number), 4) for number in found[:3]]
    [0.1033, 0.0884, 0.1183]
    """
    d, n = np.asarray(totals, dtype=float), np.asarray(lengths, dtype=float)
    r = d.sum() / n.sum()
    return student_interval(r + (d - r * n) / n.mean())
