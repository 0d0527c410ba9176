"""Matrices as grey images, each cell with its number, and grids of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from gbi_pyro.plots._axes import SIZE, Ax, Names, checked_array, checked_names, new_axes

SMALLEST = 1e-6  # nats: smaller divergences may be rounding


def confusion(
    counts: ArrayLike, ax: Ax = None, *, names: Names = None, title: str | None = None
) -> Axes:
    """Draw counts of true (rows) against inferred tasks (columns), (K, K), as shares of each row.

    >>> confusion([[9, 1], [0, 10]]).get_xlabel()
    'inferred task'
    """
    counts = checked_square("counts", counts)
    ax = new_axes(ax, "inferred task", "true task", size=(4.4, 4.0))
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    draw_shares(ax, share, names, decimals=2)
    ax.set_title(title or "share of each row", loc="left", size=SIZE + 1)
    return ax


def checked_square(name: str, value: ArrayLike) -> np.ndarray:
    """Return a square array, (K, K)."""
    array = checked_array(name, value, "K", "K")
    return checked_array(name, array, len(array), len(array))


def draw_shares(ax: Axes, share: np.ndarray, names: Names, *, decimals: int) -> None:
    """Draw shares, (K, K), in grey, each with its number unless that is zero when rounded."""
    ax.imshow(share, cmap="Greys", vmin=0, vmax=1)
    half = 0.5 * 10**-decimals
    for i, j in zip(*np.nonzero(share >= half), strict=True):
        colour = "white" if share[i, j] > 0.5 else "black"
        words = "1" if share[i, j] >= 1 - half else f"{share[i, j]:.{decimals}f}".removeprefix("0")
        ax.text(j, i, words, ha="center", va="center", color=colour, size=7)
    ticks = range(len(share))
    labels = checked_names(names, len(share), "")
    ax.set_xticks(ticks, labels, rotation=90 if max(map(len, labels)) > 2 else 0, size=SIZE)
    ax.set_yticks(ticks, labels, size=SIZE)


def divergence_map(
    divergence: ArrayLike,
    num_tasks: Sequence[int],
    sigma: Sequence[float],
    ax: Ax = None,
    *,
    title: str = "KL(exact || estimate), nats",
) -> Axes:
    """Draw a divergence, (len(num_tasks), len(sigma)), over the number of tasks and the noise.

    Grey is logarithmic. Below 1e-6 nats, which may be rounding, it is white. NaN leaves a cell
    empty.

    >>> ax = divergence_map([[1e-9, 1e-3], [3.0, 0.1]], num_tasks=[2, 5], sigma=[0.1, 0.3])
    >>> [text.get_text() for text in ax.texts]
    ['<1e-6', '0.001', '3', '0.1']
    """
    values = checked_array("divergence", divergence, len(num_tasks), len(sigma))
    if np.any(values < 0):
        raise ValueError(f"divergence should be 0 or more; got {np.nanmin(values):g}")
    low, high = SMALLEST, max(10.0, float(np.nanmax(values, initial=0.0)))
    ax = new_axes(ax, "noise sigma", "number of tasks K", size=(1.6 + 0.75 * len(sigma), 3.0))
    ax.imshow(np.clip(values, low, high), cmap="Greys", norm=LogNorm(low, high), aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            # White letters on what is darker than half of the (logarithmic) scale.
            dark = value > low * (high / low) ** 0.55
            words = f"{value:.2g}" if value >= low else f"<{low:g}".replace("e-0", "e-")
            colour = "white" if dark else "black"
            ax.text(j, i, words, ha="center", va="center", color=colour, size=SIZE)
    ax.set_xticks(range(len(sigma)), [f"{s:g}" for s in sigma])
    ax.set_yticks(range(len(num_tasks)), [str(k) for k in num_tasks])
    ax.set_title(title, loc="left", size=SIZE + 1)
    return ax


def image_grid(images: ArrayLike, titles: Sequence[str]) -> Figure:
    """Draw images, (rows, columns, C, H, W) with pixels from 0 to 1, one title a column.

    >>> len(image_grid(np.zeros((2, 3, 1, 4, 4)), ["a", "b", "c"]).axes)
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
