"""Points in the plane: estimated against exact log odds, elements by task."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from gbi_pyro.plots._style import COLOURS, MARKERS, Ax, Names, checked_array, finish, new_axes


def log_odds(odds: Any, ax: Ax = None, *, names: Names = None) -> Axes:
    """Draw estimated against exact log odds, a marker for each task, and where they are equal.

    A temperature shows as a slope, an offset as a shift. Odds that are not finite are left out.

    Args:
        odds: what ``gbi_pyro.metrics.agreement.log_odds`` returns, ``(exact, estimate)``, each
            (..., K).
        ax, names: where to draw, and the names of the K tasks.

    >>> log_odds(([[1.0, -1.0]], [[0.9, -0.9]])).get_ylabel()
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


def binary_log_odds(exact_log_odds: ArrayLike, estimate_log_odds: ArrayLike, ax: Ax = None) -> Axes:
    """Draw estimated against exact log p(x | task 1) / p(x | task 0), and where they are equal.

    >>> binary_log_odds([-1.0, 2.0], [-1.1, 1.8]).get_xlabel()
    'exact log odds (nats)'
    """
    exact = np.ravel(np.asarray(exact_log_odds, dtype=float))
    estimate = checked_array(
        "estimate_log_odds", np.ravel(np.asarray(estimate_log_odds)), len(exact)
    )
    ax = new_axes(ax, "exact log odds (nats)", "estimated log odds (nats)", size=(3.6, 3.4))
    many = len(exact) > 2000  # dots as an image, so that a PDF stays small
    ax.plot(exact, estimate, ".", color="0.35", markersize=3, alpha=0.5, rasterized=many)
    ax.axline((0, 0), slope=1, color="k", linestyle="--", linewidth=1, label="estimate = exact")
    ax.set_aspect("equal", "datalim")
    return finish(ax)


def plane(points: ArrayLike, z: ArrayLike, ax: Ax = None, *, names: Names = None) -> Axes:
    """Draw elements in the plane, (N, 2), each as the name of its true task, (N,), there.

    >>> len(plane([[0.0, 1.0], [2.0, 3.0]], [0, 1]).collections)
    2
    """
    points = checked_array("points", points, "N", 2)
    tasks = checked_array("z", z, len(points)).astype(int)
    ax = new_axes(ax, "first principal direction of the gradient (nats)", "second (nats)")
    for k in np.unique(tasks):
        x, y = points[tasks == k].T
        style: dict[str, Any] = {"marker": MARKERS[k % len(MARKERS)], "s": 8, "alpha": 0.4}
        ax.scatter(x, y, color=COLOURS[k % len(COLOURS)], linewidths=0, **style)
        ax.text(
            np.median(x),
            np.median(y),
            names[k] if names else str(k),
            ha="center",
            va="center",
            fontweight="bold",
            bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1},
        )
    return ax
