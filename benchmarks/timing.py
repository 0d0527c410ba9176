"""Time alternatives against each other on a noisy machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median


def interleave(
    first: Callable[[], object], second: Callable[[], object], repeats: int, warm_up: int = 5
) -> tuple[float, float, float]:
    """Run two jobs in turn, so that whatever slows the machine slows both.

    Returns:
        Median seconds of each, and the median of the ratios second / first of neighbouring runs.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(warm_up + repeats):
        for job, taken in zip((first, second), times, strict=True):
            start = time.perf_counter()
            job()
            if i >= warm_up:
                taken.append(time.perf_counter() - start)
    ratios = [b / a for a, b in zip(*times, strict=True)]
    return median(times[0]), median(times[1]), median(ratios)
