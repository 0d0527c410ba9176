"""Confidence against accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from gbi_pyro.plots.style import Ax, finish
from gbi_pyro.plots.tables import columns, draw_shares, square_axes


def plot_reliability(tables: Mapping[str, Any], ax: Ax = None) -> Axes:
    """Draw accuracy, with its intervals, against confidence, bin by bin.

    Args:
        tables: by name what ``gbi_pyro.metrics.reliability.reliability_table`` returns, with
            bins of equal width or mass.
        ax: where to draw.

    >>> table = {"confidence": [0.6, 0.9], "accuracy": [0.5, 0.8]}
    >>> ends = {"accuracy_low": [0.3, 0.7], "accuracy_high": [0.7, 0.9]}
    >>> plot_reliability({"one step": table | ends}).get_ylabel()
    'accuracy'
    """
    ax = square_axes(ax, "confidence", "accuracy", "calibrated")
    for i, (label, table) in enumerate(tables.items()):
        wanted = "confidence", "accuracy", "accuracy_low", "accuracy_high"
        confidence, *shares = columns(f"tables[{label!r}]", table, *wanted)
        draw_shares(ax, i, label, confidence, shares)
    return finish(ax)
