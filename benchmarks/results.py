"""The file of a measurement: its table, and the machine and versions it was measured on."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gbi_pyro.files import replacing
from gbi_pyro.metrics.table import format_number
from studies.core.table import Row

PACKAGES = ("torch", "pyro-ppl", "numpy", "hmmlearn", "dynamax", "statsmodels")


def write_results(path: Path, rows: Sequence[Row], *, fast: bool) -> None:
    """Write a Markdown table of the rows.

    Args:
        path: of the file.
        rows: what was measured.
        fast: whether few repeats were made, which the file says.
    """
    lines = [
        "# Benchmarks",
        "",
        "Written by `python -m benchmarks --out benchmarks/RESULTS.md`. Ratios of runs interleaved "
        "in one process on one thread; medians, with quartiles where a row names them.",
        "",
        f"- date: {datetime.date.today().isoformat()}",
        f"- machine: {processor()}, {platform.system()}, Python {platform.python_version()}",
        f"- versions: {', '.join(f'{name} {installed(name)}' for name in PACKAGES)}",
        *["- smoke test with few repeats: the numbers are meaningless"] * fast,
        "",
        "| quantity | value | target | reached | note |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        target = "" if row.target is None else str(row.target)
        value = ", ".join(map(format_number, row.values)) if len(row.values) < 4 else row_range(row)
        cells = (row.what, value, target, row.verdict, row.note)
        lines.append(f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |")
    with replacing(path) as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


def row_range(row: Row) -> str:
    """Return the smallest and the largest of many values."""
    return f"{format_number(min(row.values))} to {format_number(max(row.values))}"


def processor() -> str:
    """Return the name of the processor, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    names = info.read_text().split("model name") if info.is_file() else []
    return names[1].split(":")[1].split("\n")[0].strip() if names[1:] else platform.machine()


def installed(package: str) -> str:
    """Return the version of a package, or that there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
