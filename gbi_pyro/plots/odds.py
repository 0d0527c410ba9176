"""Log odds of all tasks, estimated against exact."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gbi_pyro.plots.style import COLOURS, MARKERS, Ax, Names, checked_array, finish, new_axes


def plot_log_odds(odds: Any, ax: Ax = None, *, names: Names = None) -> Axes:
    """Draw estimated against exact log odds, a marker for each task, and where they are equal.

    A temperature shows as a slope, an offset as a shift. Odds that are not finite are left out.

    Args:
        odds: what ``gbi_pyro.metrics.agreement.log_odds`` returns, ``(exact, estimate)``, each
            (..., K).
        ax, names: where to draw, and the names of the K tasks.

    >>> plot_log_odds(([[1.0, -1.0]], [[0.9, -0.9]])).get_ylabel()
    'estimated log odds (nats)'
    """
    exact, estimate = (np.asarray(part, dtype=float) for part in odds)
    if exact.ndim == 0:
        raise ValueError("odds.exact should have shape (..., K), tasks last; got ()")
    rows = exact.reshape(-1, exact.shape[-1])
    other = checked_array("odds.estimate", estimate, *exact.shape).reshape(rows.shape)
    ax = new_axes(ax, "exact log odds (nats)", "estimated log odds (nats)", size=(3.9, 3.8))
    many = rows.size > 2000  # dots as an image, so that a PDF stays small
    for k, (x, y) in enumerate(zip(rows.T, other.T, strict=True)):
        if not np.any(x) and not np.any(y):
            continue  # the task that the others are measured against
        finite = np.isfinite(x) & np.isfinite(y)
        style: dict[str, Any] = {"markersize": 3.5, "markeredgewidth": 0.6, "linestyle": "none"}
        ax.plot(
            x[finite],
            y[finite],
            marker=MARKERS[k % len(MARKERS)],
            markerfacecolor="none",
            color=COLOURS[k % len(COLOURS)],
            label=f"task {names[k] if names else k}",
            rasterized=many,
            **style,
        )
    ax.axline((0, 0), slope=1, color="k", linestyle="--", linewidth=1, label="estimate = exact")
    ax.set_aspect("equal", "datalim")
    return finish(ax)
