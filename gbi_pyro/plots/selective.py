"""Risk against coverage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from gbi_pyro.plots.style import Ax, finish, line_style, new_axes
from gbi_pyro.plots.tables import columns


def plot_risk_coverage(curves: Mapping[str, Any], ax: Ax = None) -> Axes:
    """Draw the share of wrong answers among those given, the surest first.

    Args:
        curves: by name what ``gbi_pyro.metrics.selective.risk_coverage`` returns.
        ax: where to draw.

    >>> plot_risk_coverage({"one step": {"coverage": [0.5, 1.0], "risk": [0.0, 0.1]}}).get_xlabel()
    'share of elements answered'
    """
    ax = new_axes(ax, "share of elements answered", "share of them wrong", size=(4.4, 3.2))
    for i, (label, curve) in enumerate(curves.items()):
        coverage, risk = columns(f"curves[{label!r}]", curve, "coverage", "risk")
        ax.plot(coverage, risk, label=label, **line_style(i))
    ax.set_xlim(0, 1)
    ax.set_ylim(bottom=0)
    return finish(ax)
