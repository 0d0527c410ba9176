"""Columns of a table, whatever it is: what plots of diagnostics read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gbi_pyro.plots._style import MARKERS, Ax, checked_array, line_style, new_axes


def columns(name: str, table: Any, *wanted: str) -> list[np.ndarray]:
    """Return columns of a table, (rows,) each, by attribute or by key.

    >>> columns("table", {"risk": [0.0, 0.5]}, "risk")
    [array([0. , 0.5])]
    """
    found: list[np.ndarray] = []
    for column in wanted:
        value = table.get(column) if isinstance(table, Mapping) else getattr(table, column, None)
        if value is None:
            raise ValueError(
                f"{name} should have the columns {', '.join(wanted)}; got {type(table).__name__} "
                f"without {column!r}: give the table that gbi_pyro.metrics returns"
            )
        found.append(checked_array(f"{name}.{column}", value, len(found[0]) if found else "rows"))
    return found


def square_axes(ax: Ax, xlabel: str, ylabel: str, reference: str) -> Axes:
    """Return axes from 0 to 1 with the line on which both are equal."""
    ax = new_axes(ax, xlabel, ylabel, size=(3.9, 3.8))
    ax.plot([0, 1], [0, 1], color="0.5", linestyle=":", linewidth=1, zorder=0, label=reference)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    return ax


def draw_shares(ax: Axes, i: int, label: str, x: np.ndarray, rows: list[np.ndarray]) -> None:
    """Draw shares, low and high ends of their intervals, at x, as the i-th curve."""
    share, low, high = rows
    # An end may pass the share by rounding; a bar of negative length is an error.
    bars = np.maximum([share - low, high - share], 0)
    style: dict[str, Any] = {"marker": MARKERS[i % len(MARKERS)], "markersize": 4, "capsize": 2}
    ax.errorbar(x, share, bars, label=label, elinewidth=0.8, **line_style(i), **style)
