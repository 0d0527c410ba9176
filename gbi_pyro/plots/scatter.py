"""Points in the plane: estimated against exact log odds, and elements by task."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from gbi_pyro.plots._axes import SIZE, Ax, Names, Options, checked_array, finish, new_axes
from gbi_pyro.plots._style import style_of

MANY = 2000  # points that are drawn as an image, so that a PDF stays small
NAME = np.array([0.12, 0.06])  # width and height of a name, as fractions of the axes


def log_odds(odds: Any, ax: Ax = None, *, names: Names = None, **options: Unpack[Options]) -> Axes:
    """Draw estimated against exact log odds, a marker for each task, and where they are equal.

    A temperature shows as a slope, an offset as a shift. Odds that are not finite are left out.

    Args:
        odds: what ``gbi_pyro.metrics.agreement.log_odds`` returns, ``(exact, estimate)``, each
            (..., K), in nats.
        ax, names, options: see the package.

    >>> log_odds(([[1.0, -1.0]], [[0.9, -0.9]])).get_ylabel()
    'estimated log odds (nats)'
    """
    exact, estimate = (np.asarray(part, dtype=float) for part in odds)
    if exact.ndim == 0:
        raise ValueError("odds.exact should have shape (..., K), tasks last; got ()")
    rows = exact.reshape(-1, exact.shape[-1])
    other = checked_array("odds.estimate", estimate, *exact.shape).reshape(rows.shape)
    ax = _odds_axes(ax)
    for k, (x, y) in enumerate(zip(rows.T, other.T, strict=True)):
        if not np.any(x) and not np.any(y):
            continue  # the task that the others are measured against
        finite = np.isfinite(x) & np.isfinite(y)
        style, label = style_of(None, "", k), f"task {names[k] if names else k}"
        hollow: dict[str, Any] = {"markerfacecolor": "none", "markeredgewidth": 0.6}
        ax.plot(
            x[finite],
            y[finite],
            linestyle="none",
            marker=style.marker,
            markersize=3.5,
            color=style.colour,
            label=label,
            rasterized=rows.size > MANY,
            **hollow,
        )
    return _with_equality(ax, options)


def binary_log_odds(
    exact: ArrayLike, estimate: ArrayLike, ax: Ax = None, **options: Unpack[Options]
) -> Axes:
    """Draw estimated against exact log p(x | task 1) / p(x | task 0), arrays of any one shape.

    >>> binary_log_odds([-1.0, 2.0], [-1.1, 1.8]).get_xlabel()
    'exact log odds (nats)'
    """
    x = np.ravel(np.asarray(exact, dtype=float))
    y = checked_array("estimate", np.ravel(np.asarray(estimate)), len(x))
    ax = _odds_axes(ax)
    style: dict[str, Any] = {"color": "0.35", "markersize": 3, "alpha": 0.5}
    ax.plot(x, y, ".", rasterized=len(x) > MANY, **style)
    return _with_equality(ax, options)


def plane(
    points: ArrayLike,
    z: ArrayLike,
    ax: Ax = None,
    *,
    names: Names = None,
    xlabel: str = "first principal direction of the gradient (nats)",
    ylabel: str = "second (nats)",
    **options: Unpack[Options],
) -> Axes:
    """Draw elements in the plane, (N, 2), each as its true task, (N,), whose name stands there.

    >>> len(plane([[0.0, 1.0], [2.0, 3.0]], [0, 1]).collections)
    2
    """
    points = checked_array("points", points, "N", 2)
    tasks = checked_array("z", z, len(points)).astype(int)
    ax, taken = new_axes(ax, xlabel, ylabel), list[np.ndarray]()
    letters = np.ptp(points, 0) * NAME
    for k in np.unique(tasks):
        x, y = points[tasks == k].T
        style = style_of(None, "", k)
        small: dict[str, Any] = {"s": 9, "alpha": 0.5, "linewidths": 0}
        ax.scatter(x, y, color=style.colour, marker=style.marker, **small)
        box = {"facecolor": "white", "alpha": 0.85, "edgecolor": style.colour, "pad": 1.5}
        middle: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": SIZE}
        at = np.median(points[tasks == k], 0)
        while any(np.all(abs(at - other) < letters) for other in taken):
            at[1] += letters[1]
        taken.append(at)
        ax.text(at[0], at[1], names[k] if names else str(k), bbox=box, **middle)
    return finish(ax, **options)


def _odds_axes(ax: Ax) -> Axes:
    return new_axes(ax, "exact log odds (nats)", "estimated log odds (nats)", size=(3.9, 3.8))


def _with_equality(ax: Axes, options: Options) -> Axes:
    """Add the line on which estimate and exact are equal, at one scale of both axes."""
    style: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1}
    ax.axline((0, 0), slope=1, label="estimate = exact", **style)
    ax.set_aspect("equal", "datalim")
    return finish(ax, **options)
