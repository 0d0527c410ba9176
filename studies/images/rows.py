"""The tables of the image study."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from studies.images.measure import (
    ACCURACY,
    BRIER,
    COLUMNS,
    ECE,
    KL_RAW,
    KL_TEMPERED,
    LOG_SCORE,
    Measured,
)
from studies.images.methods import (
    CLASSIFIER_ROW,
    EXACT,
    ONE_STEP,
    PAPER_ONE_STEP,
    describe,
)
from studies.core.table import Bar, Row, format_number

# What stands on the screen, under which heading; the files hold the rest too.
PRINTED = {
    ACCURACY: "accuracy\n%",
    ECE: "ECE\n%",
    BRIER: "Brier",
    LOG_SCORE: "-log p",
    KL_RAW: "KL",
    KL_TEMPERED: "KL\ntempered",
}
BySeed = Sequence[Sequence[Measured]]


def method_rows(by_seed: BySeed) -> list[Row]:
    """Return every quantity of every method (I2, I5), one value a seed."""
    rows = []
    for i, first in enumerate(by_seed[0]):
        reported = first.method.reported
        note = f"paper (reported elsewhere, MNIST): {reported}" if reported else ""
        for column in COLUMNS:
            values = [seed[i].values.get(column, float("nan")) for seed in by_seed]
            if np.isfinite(values).any():
                beside = note if column == ACCURACY else ""
                rows.append(Row.of("I2", f"{first.method.name}: {column}", values, note=beside))
    return rows


def bar_rows(by_seed: BySeed) -> list[Row]:
    """Return what the study has to show on MNIST."""

    def values(method: str, column: str) -> list[float]:
        found = []
        for seed in by_seed:
            (measured,) = [m for m in seed if m.method.name == method]
            found.append(measured.values.get(column, float("nan")))
        return found

    gap = np.subtract(values(CLASSIFIER_ROW, ACCURACY), values(EXACT, ACCURACY))
    return [
        _row(f"{PAPER_ONE_STEP}: {ACCURACY}", values(PAPER_ONE_STEP, ACCURACY), 88.0, True),
        _row(f"{ONE_STEP}: {ACCURACY}", values(ONE_STEP, ACCURACY), 97.5, True),
        _row(f"{EXACT}: {ACCURACY}", values(EXACT, ACCURACY), 98.0, True),
        _row("classifier's lead over the exact posterior, points", list(gap), 0.5, False),
        _row(f"{ONE_STEP}: {KL_TEMPERED}", values(ONE_STEP, KL_TEMPERED), 0.02, False),
        _row(f"{ONE_STEP}: {ECE}", values(ONE_STEP, ECE), 1.2, False),
    ]


def _row(what: str, values: Sequence[float], bar: float, at_least: bool) -> Row:
    return Row.of("I2", what, values, Bar(bar, at_least=at_least))


def print_methods(title: str, by_seed: BySeed, console: Console) -> None:
    """Print one line a method: the mean of each quantity over seeds, and the passes."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("method", min_width=36)
    for heading in PRINTED.values():
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("passes\nfwd + bwd", justify="right", no_wrap=True)
    table.add_column("paper\n%", justify="right")
    for i, first in enumerate(by_seed[0]):
        cells = []
        for column in PRINTED:
            values = [seed[i].values.get(column, float("nan")) for seed in by_seed]
            cells.append(format_number(float(np.mean(values))))
        reported = first.method.reported
        table.add_row(
            first.method.name, *cells, describe(first.passes), f"{reported:g}" if reported else ""
        )
    console.print(table)
