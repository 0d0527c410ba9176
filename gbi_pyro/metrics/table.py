"""A table of results as a plain structure: it prints, and goes to CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from dataclasses import dataclass

from gbi_pyro.files import replacing

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Named columns, and rows of text and numbers.

    Attributes:
        caption: what the numbers are, with their unit.
        columns: names, all different.
        rows: one cell for each column; None where there is nothing to say.

    Raises:
        ValueError: for columns of the same name, or a row of another length.

    Example:
        >>> table = Table("nats", ("model", "score"), (("with a task", -91.25), ("without", None)))
        >>> print(table)
        nats
        model         score
        with a task  -91.25
        without
        >>> table.to_csv_text().splitlines()[1:]
        ['with a task,-91.25', 'without,']
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        if len(set(self.columns)) != len(self.columns):
            raise ValueError(f"columns should have different names; got {self.columns}")
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"a row should have {len(self.columns)} cells, one for each of "
                    f"{self.columns}; got {row}"
                )

    def records(self) -> list[dict[str, Cell]]:
        """Return each row by column; a number that is not finite becomes None."""
        return [
            {name: _finite(cell) for name, cell in zip(self.columns, row, strict=True)}
            for row in self.rows
        ]

    def to_csv_text(self) -> str:
        """Return the table as CSV (RFC 4180), a head and a line for each row."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(self.records())
        return text.getvalue()

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the table as CSV, whole or not at all."""
        with replacing(path) as temporary:
            temporary.write_bytes(self.to_csv_text().encode())

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write caption and rows as JSON, whole or not at all."""
        content = {"caption": self.caption, "rows": self.records()}
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")

    def to_markdown(self, path: str | os.PathLike[str]) -> None:
        """Write the rows as a Markdown table under the caption, whole or not at all."""
        cells = [self.columns, ["---"] * len(self.columns)]
        cells += [[_text(cell).replace("|", "\\|") for cell in row] for row in self.rows]
        lines = ["| " + " | ".join(row) + " |" for row in cells]
        with replacing(path) as temporary:
            temporary.write_text("\n".join([self.caption, "", *lines]) + "\n")

    def __str__(self) -> str:
        cells = [self.columns, *(tuple(map(_text, row)) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        numeric = [
            all(not isinstance(row[i], str) for row in self.rows) for i in range(len(widths))
        ]
        lines = [
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, numeric, strict=True)
            ).rstrip()
            for row in cells
        ]
        return "\n".join([self.caption, *lines])


def _finite(cell: Cell) -> Cell:
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def _text(cell: Cell) -> str:
    if isinstance(cell, float):
        if math.isnan(cell):
            return ""
        return f"{cell:.0f}" if 1e4 <= abs(cell) < 1e9 else f"{cell:.4g}"
    return "" if cell is None else str(cell)


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
