"""Rows of a table of results: a measured quantity, seed by seed, against a bar."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True)
class Bar:
    """What a quantity has to reach: ``statistic`` of its values ``at most`` or ``at least`` this.

    Attributes:
        value: the bar.
        statistic: what is held against it; ``"worst"`` asks it of every seed.
        at_least: whether larger is better.
    """

    value: float
    statistic: Literal["mean", "median", "worst", "sum"] = "mean"
    at_least: bool = False

    def measure(self, values: np.ndarray) -> float:
        """Return the statistic of the values."""
        if self.statistic == "worst":
            return float(values.min() if self.at_least else values.max())
        return float(getattr(np, self.statistic)(values))

    def met(self, values: np.ndarray) -> bool:
        """Whether the values reach the bar; a NaN never does."""
        measured = self.measure(values)
        return measured >= self.value if self.at_least else measured <= self.value

    @property
    def sign(self) -> str:
        """``"<="``, or ``">="`` where larger is better."""
        return ">=" if self.at_least else "<="

    def __str__(self) -> str:
        return f"{self.statistic} {self.sign} {self.value:g}"


@dataclass(frozen=True)
class Row:
    """One quantity of a study.

    Attributes:
        statement: the statement of the paper it speaks to, such as ``"T9"``.
        what: the quantity in words, with its unit.
        values: one number for each seed.
        bar: what it has to reach, if anything.
        note: a reference value, or what to read it against.
    """

    statement: str
    what: str
    values: tuple[float, ...]
    bar: Bar | None = None
    note: str = ""

    @classmethod
    def of(
        cls,
        statement: str,
        what: str,
        values: Iterable[float],
        bar: Bar | None = None,
        note: str = "",
    ) -> Row:
        """Make a row of any sequence of numbers."""
        return cls(statement, what, tuple(float(v) for v in values), bar, note)

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(np.mean(self.values))

    @property
    def sem(self) -> float:
        """The standard error of the mean; NaN for one seed."""
        n = len(self.values)
        return float(np.std(self.values, ddof=1) / math.sqrt(n)) if n > 1 else math.nan

    @property
    def verdict(self) -> str:
        """``"met"``, ``"not met"``, or nothing without a bar."""
        if self.bar is None:
            return ""
        return "met" if self.bar.met(np.array(self.values)) else "not met"

    @property
    def measured(self) -> str:
        """What was measured against the bar, in words, or nothing without one."""
        if self.bar is None:
            return ""
        value = format_number(self.bar.measure(np.array(self.values)))
        return f"{self.bar.statistic} {value} {self.bar.sign} {self.bar.value:g}"

    def as_dict(self) -> dict[str, Any]:
        """Return everything a reader of the file needs; NaN becomes null."""
        numbers = {
            "mean": self.mean,
            "sem": self.sem,
            "median": float(np.median(self.values)),
            "min": min(self.values),
            "max": max(self.values),
        }
        return {
            "statement": self.statement,
            "what": self.what,
            "seeds": len(self.values),
            **{k: v if math.isfinite(v) else None for k, v in numbers.items()},
            "values": [v if math.isfinite(v) else None for v in self.values],
            "bar": None if self.bar is None else str(self.bar),
            "verdict": self.verdict,
            "note": self.note,
        }


def format_number(value: float) -> str:
    """Write a number to three significant digits.

    >>> format_number(0.00012345), format_number(12.3456), format_number(0.0)
    ('0.000123', '12.3', '0')
    """
    if not math.isfinite(value) or value == 0:
        return "-" if math.isnan(value) else f"{value:g}"
    if abs(value) >= 1e5 or abs(value) < 1e-4:
        return f"{value:.1e}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


class Ends(Protocol):
    """An interval: anything with its two ends."""

    @property
    def low(self) -> float:
        """The lower end."""

    @property
    def high(self) -> float:
        """The upper end."""


def interval_note(found: Ends) -> str:
    """Say between what a mean or a difference lies, or that one seed does not tell.

    >>> from gbi_pyro.diagnostics.intervals import student_interval
    >>> interval_note(student_interval([1.0, 2.0, 3.0])), interval_note(student_interval([1.0]))
    ('95 % interval -0.484 to 4.48', 'one seed')
    """
    if math.isnan(found.low):
        return "one seed"
    return f"95 % interval {format_number(found.low)} to {format_number(found.high)}"


def print_table(title: str, rows: list[Row], console: Console) -> None:
    """Print rows as one table: mean with its standard error, number of seeds, bar and verdict."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("")
    table.add_column("quantity", ratio=1)
    table.add_column("mean ± SEM", justify="right", no_wrap=True)
    table.add_column("seeds", justify="right")
    table.add_column("bar", no_wrap=True)
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        what = escape(row.what) + (f"\n  [dim]{escape(row.note)}[/]" if row.note else "")
        table.add_row(
            row.statement,
            what,
            f"{format_number(row.mean)} ± {format_number(row.sem)}",
            str(len(row.values)),
            _held_against(row),
            end_section=after is None or after.statement != row.statement,
        )
    console.print(table)


def _held_against(row: Row) -> str:
    if row.bar is None:
        return ""
    colour = "green" if row.verdict == "met" else "bold red"
    return f"{row.measured}\n[{colour}]{row.verdict}[/]"


def markdown_table(rows: list[Row]) -> str:
    """Write rows as a Markdown table.

    >>> print(markdown_table([Row("T9", "error", (0.01, 0.03), Bar(0.015))]))
    | | quantity | mean ± SEM | seeds | bar | |
    |---|---|---|---|---|---|
    | T9 | error | 0.0200 ± 0.0100 | 2 | mean 0.0200 <= 0.015 | not met |
    """
    lines = ["| | quantity | mean ± SEM | seeds | bar | |", "|---|---|---|---|---|---|"]
    for row in rows:
        what = row.what.replace("|", "\\|") + (f" ({row.note})" if row.note else "")
        cells = [
            row.statement,
            what,
            f"{format_number(row.mean)} ± {format_number(row.sem)}",
            str(len(row.values)),
            row.measured,
            row.verdict,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
