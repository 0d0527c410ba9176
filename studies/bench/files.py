"""The files of a benchmark: every cell in long form, as a data set, and as a matrix to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gbi_pyro.metrics.table import format_number
from studies.bench.measure import Cell
from studies.bench.table import ROWS, Cells, mean_of

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

KEYS = ("problem", "method", "seed")
NUMBERS = {
    **{name: words for name, (words, _) in ROWS.items()},
    "marginal_kl": "KL(exact || it) of marginals, summed over sites, nats",
    "infinite": "share of cases whose KL(exact || it) is infinite",
    "forward": "forward passes of one call",
    "backward": "backward passes of one call",
    "floor": "mean KL(exact || it) of a histogram of as many exact draws, nats",
}
"""The numbers of a cell, by the name of their column."""


def long_table(cells: Cells, seeds: Sequence[int]) -> pd.DataFrame:
    """Return one row for each problem, method and seed."""
    import pandas as pd  # late: slow to load

    rows = [
        {
            **dict(zip(KEYS, (problem, method, seed), strict=True)),
            "cases": len(cell.kl),
            **{name: mean_of(cell, name) for name in NUMBERS},
            "note": cell.refused or "; ".join(filter(None, (cell.how, cell.warned))),
        }
        for problem, by_method in cells.items()
        for method, by_seed in by_method.items()
        for seed, cell in zip(seeds, by_seed, strict=True)
    ]
    return pd.DataFrame(rows)


def as_dataset(table: pd.DataFrame, attributes: Mapping[str, str]) -> xr.Dataset:
    """Return the numbers of the long table with the dimensions problem, method and seed.

    ``data.kl.sel({"method": "one step"})`` selects: ``sel(method=...)`` means something else.
    """
    import xarray as xr

    order = {key: list(dict.fromkeys(table[key])) for key in KEYS}
    shape = tuple(map(len, order.values()))
    variables: dict[str, Any] = {
        name: (KEYS, table[name].to_numpy(float).reshape(shape), {"description": words})
        for name, words in NUMBERS.items()
    }
    return xr.Dataset(variables, coords=order, attrs=dict(attributes))


def as_matrix(cells: Cells) -> str:
    """Write KL(exact || it) and costs by problem and method, means over seeds, as Markdown."""
    notes: dict[str, str] = {}
    divergences = _grid(cells, lambda cell: mean_of(cell, "kl"), notes)
    lines = [
        "# Benchmark of task inference",
        "",
        "KL(exact || method) of the joint posteriors in nats, means over cases and seeds. A letter",
        "stands where a method is not applicable; a number beside it is the mean of other seeds.",
        "",
        *divergences,
        "",
        *(f"{letter}: {note}.  " for note, letter in notes.items()),
        "",
        "Forward + backward passes of one call.",
        "",
        *_grid(cells, lambda cell: mean_of(cell, "forward") + mean_of(cell, "backward")),
        "",
        "Processor milliseconds for 100 cases, on one thread.",
        "",
        *_grid(cells, lambda cell: 1000 * mean_of(cell, "seconds")),
        "",
    ]
    return "\n".join(lines)


def _grid(
    cells: Cells, number: Callable[[Cell], float], notes: dict[str, str] | None = None
) -> list[str]:
    """Return a table of problems (rows) by methods; reasons of refusals are lettered in notes."""
    methods = list(next(iter(cells.values())))
    lines = [f"| problem | {' | '.join(methods)} |", "|---" * (1 + len(methods)) + "|"]
    for problem, by_method in cells.items():
        row = []
        for by_seed in by_method.values():
            measured = [cell for cell in by_seed if not cell.refused]
            text = format_number(float(np.mean([number(c) for c in measured]))) if measured else ""
            for reason in dict.fromkeys(_short(c.refused) for c in by_seed if c.refused):
                if notes is not None:
                    letter = notes.setdefault(reason, _letter(len(notes)))
                    text = f"{text} {letter}".strip()
            row.append(text or "-")
        lines.append(f"| {problem} | {' | '.join(row)} |")
    return lines


def _short(reason: str) -> str:
    """Return a reason without its numbers, which differ from seed to seed."""
    return ": ".join(reason.split(": ")[:2])


def _letter(i: int) -> str:
    """Return a, b, .., z, aa, ab, ..

    >>> _letter(0), _letter(26)
    ('a', 'aa')
    """
    first = _letter(i // 26 - 1) if i >= 26 else ""
    return first + chr(ord("a") + i % 26)
