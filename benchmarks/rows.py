"""Rows of ratios, with their spread."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median, quantiles

from benchmarks.timing import processor_times
from studies.core.table import Row, Target

Job = Callable[[], object]


def many(job: Job, times: int) -> Job:
    """Return a job that is run several times, where one run is too short for the clock."""

    def repeated() -> None:
        for _ in range(times):
            job()

    return repeated


def ratio_rows(
    what: str,
    job: Job,
    rivals: dict[str, Job],
    seconds: float,
    targets: dict[str, Target] | None = None,
    *,
    inverse: bool = False,
) -> list[Row]:
    """Return a row for each rival: the median of job / rival, interleaved, processor time.

    Args:
        what: the job in words.
        job: what is measured.
        rivals: what it is measured against, by name.
        seconds: about how long all of it may take.
        targets: of the ratio, by the rival's name.
        inverse: whether the ratio is rival / job.
    """
    mine, *others = processor_times([job, *rivals.values()], seconds)
    rows = []
    for name, theirs in zip(rivals, others, strict=True):
        pairs = zip(mine, theirs, strict=True)
        ratios = [b / a if inverse else a / b for a, b in pairs]
        low, _, high = quantiles(ratios, n=4)
        each = f"{1e3 * median(mine):.3g} ms against {1e3 * median(theirs):.3g} ms"
        title = f"{what}: {name} / this" if inverse else f"{what} / {name}"
        note = f"quartiles {low:.3g} to {high:.3g}; {each}"
        rows.append(Row.of("", title, [median(ratios)], (targets or {}).get(name), note))
    return rows
