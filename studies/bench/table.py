"""The table of the benchmark: the divergence of every cell; all its numbers are in other files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from gbi_pyro.metrics.table import format_number
from studies.bench.learned import OTHERS
from studies.bench.measure import Cell
from studies.core.table import Row

Cells = Mapping[str, Mapping[str, Sequence[Cell]]]
"""Cells by problem and method, in the order of the seeds."""
METHODS, CURVATURE, SHORTLIST, TRAINED = "B1", "B2", "B3", "B11"
SHOWN = ("kl", "log_score")

ROWS: dict[str, tuple[str, Literal["higher", "lower"] | None]] = {
    "kl": ("KL(exact || it), nats", "lower"),
    "reverse_kl": ("KL(it || exact), nats", "lower"),
    "log_score": ("-log q(true tasks), nats", "lower"),
    "accuracy": ("most probable combination is the true one, share", "higher"),
    "agreement": ("most probable combination is the exact posterior's, share", "higher"),
    "calibration_error": ("calibration error of the most probable combination", None),
    "seconds": ("processor seconds for 100 cases", "lower"),
    "fit_seconds": ("processor seconds of its fit", "lower"),
}
"""The numbers of a cell, of joint posteriors over all sites: words, and the better direction."""


def bench_table(cells: Cells) -> list[Row]:
    """Return the rows of all cells; a method that is refused has one, with the reason."""
    return [
        row
        for problem, by_method in cells.items()
        for method, by_seed in by_method.items()
        if any(cell.refused != OTHERS for cell in by_seed)
        for row in _rows(problem, method, by_seed)
    ]


def mean_of(cell: Cell, column: str) -> float:
    """Return a number of a cell, the mean over its cases; NaN where the method is refused.

    Infinite divergences stay infinite.
    """
    value = getattr(cell, column)
    if cell.refused:
        return math.nan
    return float(np.mean(np.asarray(value, dtype=float)))


def _rows(problem: str, method: str, by_seed: Sequence[Cell]) -> Iterator[Row]:
    """Return the divergence and the log score of a method, or why it is refused.

    Every number of every seed is in ``bench.csv``: as rows they would be thousands.
    """
    refused = next((cell.refused for cell in by_seed if cell.refused), "")
    for column in SHOWN:
        words, better = ROWS[column]
        values = [mean_of(cell, column) for cell in by_seed]
        if column != "kl" and all(math.isnan(v) for v in values):
            continue
        notes = [refused, *_notes(by_seed)] if column == "kl" else []
        what = f"{problem}: {method}: {words}"
        yield Row.of(METHODS, what, values, note="; ".join(filter(None, notes)), better=better)


def _notes(by_seed: Sequence[Cell]) -> list[str]:
    """Return passes, cases, and what else the divergences are to be read against."""
    measured = [cell for cell in by_seed if not cell.refused]
    if not measured:
        return []
    first = measured[0]
    infinite = sum(int(c.infinite.sum()) for c in measured)
    cases = sum(len(c.kl) for c in measured)
    return [
        f"{first.forward} forward, {first.backward} backward",
        f"{len(first.kl)} cases",
        f"infinite in {infinite} of {cases} cases" if infinite else "",
        "" if math.isnan(first.floor) else f"floor of its draws {format_number(first.floor)}",
        first.how,
        next((f"warns: {cell.warned}" for cell in measured if cell.warned), ""),
    ]
