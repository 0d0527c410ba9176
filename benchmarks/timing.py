"""Time alternatives against each other on a noisy machine."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple


class Ratio(NamedTuple):
    """A median of ratios with its 95 % interval."""

    median: float
    low: float
    high: float


def median_ratio(
    first: Callable[[], object], second: Callable[[], object], repeats: int, warm_up: int = 5
) -> tuple[float, float, Ratio]:
    """Compare two jobs that take nearly the same time; which one starts a pair changes in turn.

    Time is that of the processor, which other processes take no part of.

    Returns:
        Median seconds of each, and the median of the ratios second / first of the pairs with its
        95 % interval, from order statistics.
    """
    jobs, times = (first, second), []
    gc.collect()
    gc.disable()
    try:
        for i in range(warm_up + repeats):
            taken = [0.0, 0.0]
            for which in (i % 2, 1 - i % 2):
                start = time.process_time()
                jobs[which]()
                taken[which] = time.process_time() - start
            times.append(taken)
    finally:
        gc.enable()
    times = times[warm_up:]
    ratios = sorted(b / a for a, b in times)
    reach = 0.98 * math.sqrt(repeats)  # 1.96 standard deviations of Binomial(n, 1/2)
    low = ratios[max(0, math.floor(repeats / 2 - reach))]
    high = ratios[min(repeats - 1, math.ceil(repeats / 2 + reach))]
    one, many = (median(t) for t in zip(*times, strict=True))
    return one, many, Ratio(median(ratios), low, high)


def processor_times(
    jobs: list[Callable[[], object]], seconds: float, warm_up: int = 2
) -> list[list[float]]:
    """Run several jobs in turn, each round beginning with another one.

    Args:
        jobs: what to run.
        seconds: about how long all of it may take; there are 3 to 200 rounds.
        warm_up: rounds before the first one that counts.

    Returns:
        Seconds of the processor of each job, round by round.
    """
    times: list[list[float]] = [[] for _ in jobs]
    begun = time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        for i in range(200 + warm_up):
            if i >= warm_up + 3 and time.perf_counter() - begun > seconds:
                break
            for which in (*range(i % len(jobs), len(jobs)), *range(i % len(jobs))):
                start = time.process_time()
                jobs[which]()
                if i >= warm_up:
                    times[which].append(time.process_time() - start)
    finally:
        gc.enable()
    return times
