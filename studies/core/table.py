"""Rows of a table of results: a measured quantity, seed by seed, with its interval and target.

Targets were set by this project, before the measurements, for the studies it ships.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gbi_pyro.metrics.table import format_number
from studies.core.claims import in_table


class Ends(Protocol):
    """An interval: anything with its two ends, such as ``Interval`` and ``Difference``."""

    @property
    def low(self) -> float:
        """The lower end."""

    @property
    def high(self) -> float:
        """The upper end."""


@dataclass(frozen=True)
class Target:
    """What a quantity has to reach: ``statistic`` of it ``at most`` or ``at least`` this.

    Attributes:
        value: the target.
        statistic: what is compared with it; ``"worst"`` asks it of every seed, ``"lower end"`` and
            ``"upper end"`` of the row's interval.
        at_least: whether larger is better.
        also: a second target, to be reached as well.
    """

    value: float
    statistic: Literal["mean", "median", "worst", "sum", "lower end", "upper end"] = "mean"
    at_least: bool = False
    also: Target | None = None

    def measure(self, values: np.ndarray, interval: Ends | None = None) -> float:
        """Return the statistic of the values.

        Raises:
            ValueError: for the end of an interval where there is none.
        """
        if self.statistic in ("lower end", "upper end"):
            if interval is None:
                raise ValueError(f"a target on the {self.statistic} needs a row with an interval")
            return float(interval.low if self.statistic == "lower end" else interval.high)
        if self.statistic == "worst":
            return float(values.min() if self.at_least else values.max())
        return float(getattr(np, self.statistic)(values))

    def reached(self, values: np.ndarray, interval: Ends | None = None) -> bool:
        """Whether the values reach the target; a NaN never does."""
        measured = self.measure(values, interval)
        reached = measured >= self.value if self.at_least else measured <= self.value
        return reached and (self.also is None or self.also.reached(values, interval))

    def against(self, values: np.ndarray, interval: Ends | None = None) -> str:
        """Return what was measured against the target, in words."""
        value = format_number(self.measure(values, interval))
        words = f"{self.statistic} {value} {self.sign} {self.value:g}"
        return words if self.also is None else f"{words}, {self.also.against(values, interval)}"

    @property
    def sign(self) -> str:
        """``"<="``, or ``">="`` where larger is better."""
        return ">=" if self.at_least else "<="

    def __str__(self) -> str:
        words = f"{self.statistic} {self.sign} {self.value:g}"
        return words if self.also is None else f"{words}, {self.also}"


@dataclass(frozen=True)
class Row:
    """One quantity of a study.

    Attributes:
        claim: the code of the claim it speaks to, such as ``"T9"`` (see ``claims``).
        what: the quantity in words, with its unit.
        values: one number for each seed.
        target: what it has to reach, if anything.
        note: a reference value, or what to read it against.
        interval: of the mean, or of whatever ``note`` names, at 95 %.
        better: which direction of the quantity is better, if any; a target says it, too.
    """

    claim: str
    what: str
    values: tuple[float, ...]
    target: Target | None = None
    note: str = ""
    interval: Ends | None = None
    better: Literal["higher", "lower"] | None = None

    @classmethod
    def of(
        cls,
        claim: str,
        what: str,
        values: Iterable[float],
        target: Target | None = None,
        note: str = "",
        interval: Ends | None = None,
        better: Literal["higher", "lower"] | None = None,
    ) -> Row:
        """Make a row of any sequence of numbers."""
        if better is None and target is not None:
            better = "higher" if target.at_least else "lower"
        return cls(claim, what, tuple(float(v) for v in values), target, note, interval, better)

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(np.mean(self.values))

    @property
    def sem(self) -> float:
        """The standard error of the mean; NaN for one seed, or where the mean is not finite."""
        n = len(self.values)
        if n == 1 or not math.isfinite(self.mean):
            return math.nan
        return float(np.std(self.values, ddof=1) / math.sqrt(n))

    @property
    def verdict(self) -> str:
        """``"reached"``, ``"not reached"``, or nothing without a target."""
        if self.target is None:
            return ""
        reached = self.target.reached(np.array(self.values), self.interval)
        return "reached" if reached else "not reached"

    @property
    def measured(self) -> str:
        """What was measured against the target, in words, or nothing without one."""
        if self.target is None:
            return ""
        return self.target.against(np.array(self.values), self.interval)

    @property
    def mean_and_sem(self) -> str:
        """The mean with its standard error, which one seed does not have.

        >>> Row("", "error", (0.01, 0.03)).mean_and_sem, Row("", "error", (0.01,)).mean_and_sem
        ('0.0200 ± 0.0100', '0.0100')
        """
        mean = format_number(self.mean)
        return mean if math.isnan(self.sem) else f"{mean} ± {format_number(self.sem)}"

    @property
    def ends(self) -> str:
        """The interval in words, or nothing without one (as for one seed).

        >>> from gbi_pyro.metrics.intervals import student_interval
        >>> Row("", "gain", (1.0, 2.0, 3.0), interval=student_interval([1.0, 2.0, 3.0])).ends
        '-0.484 to 4.48'
        """
        if self.interval is None or math.isnan(self.interval.low):
            return ""
        return f"{format_number(self.interval.low)} to {format_number(self.interval.high)}"

    def as_dict(self) -> dict[str, Any]:
        """Return everything a reader of the file needs; NaN becomes null."""
        numbers = {
            "mean": self.mean,
            "sem": self.sem,
            "median": float(np.median(self.values)),
            "min": min(self.values),
            "max": max(self.values),
        }
        interval = None if not self.ends else [self.interval.low, self.interval.high]  # type: ignore[union-attr]
        return {
            "claim": self.claim,
            "what": self.what,
            "seeds": len(self.values),
            **{k: _finite(v) for k, v in numbers.items()},
            "interval": interval,
            "values": [_finite(v) for v in self.values],
            "target": None if self.target is None else str(self.target),
            "verdict": self.verdict,
            "note": self.note,
            "better": self.better,
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def targets_first(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with those first that have a target."""
    return sorted(rows, key=lambda row: row.target is None)


def print_table(title: str, rows: Sequence[Row], console: Console) -> None:
    """Print rows as one table, a section for each claim."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("quantity", ratio=1)
    table.add_column("mean ± SEM", justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right")
    table.add_column("seeds", justify="right")
    table.add_column("target", no_wrap=True)
    before = None
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        heading = f"[bold]{escape(in_table(row.claim))}[/]\n" if row.claim != before else ""
        what = heading + escape(row.what) + (f"\n  [dim]{escape(row.note)}[/]" if row.note else "")
        lines = "\n" if heading else ""
        table.add_row(
            what,
            lines + row.mean_and_sem,
            lines + row.ends,
            lines + str(len(row.values)),
            lines + _against_target(row),
            end_section=after is None or after.claim != row.claim,
        )
        before = row.claim
    console.print(table)


def _against_target(row: Row) -> str:
    if row.target is None:
        return ""
    colour = "green" if row.verdict == "reached" else "bold red"
    return f"{row.measured}\n[{colour}]{row.verdict}[/]"


def markdown_table(rows: Sequence[Row]) -> str:
    """Write rows as a Markdown table; claims link to their list beside it.

    >>> print(markdown_table([Row("T9", "error", (0.01, 0.03), Target(0.015))]))
    | claim | quantity | mean ± SEM | 95 % interval | seeds | target | |
    |---|---|---|---|---|---|---|
    | [unseen means (T9)](../claims.md#t9) | error | 0.0200 ± 0.0100 | | 2 | mean 0.0200 <= 0.015 | not reached |
    """  # noqa: E501 (a row is a line)
    lines = [
        "| claim | quantity | mean ± SEM | 95 % interval | seeds | target | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        what = row.what.replace("|", "\\|") + (f" ({row.note})" if row.note else "")
        cells = [
            f"[{in_table(row.claim)}](../claims.md#{row.claim.lower()})" if row.claim else "",
            what,
            row.mean_and_sem,
            row.ends,
            str(len(row.values)),
            row.measured,
            row.verdict,
        ]
        lines.append("|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|")
    return "\n".join(lines)


def unique_names(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Return a name for each row, of its claim and quantity; those of one name are numbered.

    >>> unique_names([("T9", "error"), ("T9", "error"), ("", "gain")])
    ['error (T9)', 'error (T9), 2', 'gain']
    """
    names, seen = [], Counter[str]()
    for claim, what in rows:
        name = f"{what} ({claim})" if claim else what
        seen[name] += 1
        names.append(f"{name}, {seen[name]}" if seen[name] > 1 else name)
    return names
