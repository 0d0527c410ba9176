"""Images: what is confused with what, where answers lie, what a task looks like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from gbi_pyro.plots.style import (
    COLOURS,
    MARKERS,
    Ax,
    Names,
    checked_array,
    finish,
    line_style,
    new_axes,
)


def plot_confusion(counts: ArrayLike, ax: Ax = None, *, names: Names = None) -> Axes:
    """Draw counts of true (rows) against named tasks (columns), (K, K), as shares of each row.

    >>> plot_confusion([[9, 1], [0, 10]]).get_xlabel()
    'task named'
    """
    counts = checked_array("counts", counts, "K", "K")
    ax = new_axes(ax, "task named", "true task", size=(4.4, 4.0))
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    ax.imshow(share, cmap="Greys", vmin=0, vmax=1)
    for i, j in zip(*np.nonzero(share >= 0.005), strict=True):
        colour = "white" if share[i, j] > 0.5 else "black"
        ax.text(j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", color=colour, size=7)
    ticks = range(len(counts))
    labels = list(names) if names else [str(k) for k in ticks]
    ax.set_xticks(ticks, labels, rotation=90 if max(map(len, labels)) > 2 else 0, size=8)
    ax.set_yticks(ticks, labels, size=8)
    return ax


def plot_plane(points: ArrayLike, z: ArrayLike, ax: Ax = None, *, names: Names = None) -> Axes:
    """Draw elements in the plane, (N, 2), each as the name of its true task, (N,), there.

    >>> len(plot_plane([[0.0, 1.0], [2.0, 3.0]], [0, 1]).collections)
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


def plot_image_grid(images: ArrayLike, titles: Sequence[str]) -> Figure:
    """Draw images, (rows, columns, C, H, W) with pixels from 0 to 1, one title a column.

    >>> len(plot_image_grid(np.zeros((2, 3, 1, 4, 4)), ["a", "b", "c"]).axes)
    6
    """
    grid = checked_array("images", images, "rows", len(titles), "C", "H", "W").clip(0, 1)
    rows, columns = grid.shape[:2]
    figure = Figure(figsize=(0.8 * columns, 0.8 * rows + 0.3), layout="constrained")
    for row, line in zip(figure.subplots(rows, columns, squeeze=False), grid, strict=True):
        for ax, image in zip(row, line, strict=True):
            ax.imshow(image[0] if len(image) == 1 else np.moveaxis(image, 0, -1), cmap="gray_r")
            ax.set_axis_off()
    for ax, title in zip(figure.axes, titles, strict=False):
        ax.set_title(title, fontsize=7)
    return figure


def plot_histograms(
    inliers: ArrayLike, outliers: ArrayLike, ax: Ax = None, *, xlabel: str = "score"
) -> Axes:
    """Draw how a score is distributed over inliers, (N,), and outliers, (M,).

    >>> plot_histograms([0.0, 1.0], [2.0, 3.0]).get_ylabel()
    'share of images'
    """
    groups = {"known": np.ravel(inliers), "unknown": np.ravel(outliers)}
    both = np.concatenate(list(groups.values())).astype(float)
    # A few extreme scores must not squeeze all others into one bin.
    low, high = np.quantile(both[np.isfinite(both)], [0.005, 0.995])
    edges = np.linspace(low, high, 41)
    ax = new_axes(ax, xlabel, "share of images", size=(4.2, 3.2))
    for i, (name, values) in enumerate(groups.items()):
        counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
        ax.stairs(counts / len(values), edges, label=name, linewidth=1.5, **line_style(i))
    return finish(ax)


def plot_roc(curves: Mapping[str, tuple[ArrayLike, ArrayLike]], ax: Ax = None) -> Axes:
    """Draw true against false positive rates, by name of the score.

    >>> plot_roc({"maximum": ([0.0, 0.1, 1.0], [0.0, 0.9, 1.0])}).get_xlabel()
    'known called unknown'
    """
    ax = new_axes(ax, "known called unknown", "unknown found", size=(3.8, 3.6))
    for i, (name, (false, true)) in enumerate(curves.items()):
        rates = checked_array("false positive rates", false, "N")
        found = checked_array("true positive rates", true, len(rates))
        ax.plot(rates, found, label=name, **line_style(i))
    ax.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, zorder=0)
    ax.set_aspect("equal")
    return finish(ax)
