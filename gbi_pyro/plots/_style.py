"""What all figures share: colours and lines, axes, legends, and how they are saved."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from gbi_pyro.files import replacing

# Okabe and Ito's colours, safe for colour-blind readers.
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00")
LINES = ("-", (0, (4, 1)), (0, (4, 1, 1, 1)), (0, (1, 1)))  # closely dashed: curves are noisy
MARKERS = ("o", "s", "^", "D", "v", "P")
BAND: dict[str, Any] = {"facecolor": "0.9", "edgecolor": "none", "zorder": 0}
Ax = Axes | None
Curves = Mapping[str, ArrayLike]
Floor = float | Mapping[str, float] | None
Hull = tuple[float, float] | None
Names = Sequence[str] | None


def new_axes(ax: Ax, xlabel: str, ylabel: str, size: tuple[float, float] = (6.4, 2.8)) -> Axes:
    """Return labelled axes, by default on a figure that pyplot does not keep open."""
    ax = ax or Figure(figsize=size, layout="constrained").add_subplot()
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def line_style(i: int) -> dict[str, Any]:
    """Return colour and line of the i-th curve."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)]}


def finish(ax: Axes, *, floor: Floor = None, log: bool = False) -> Axes:
    """Add the levels, named at their right end, and the legend, above the axes: off the data."""
    levels = floor if isinstance(floor, Mapping) else {"noise floor": floor}
    for name, level in levels.items():
        if level is not None:
            ax.axhline(level, color="0.3", linestyle=":", linewidth=1)
            at: dict[str, Any] = {"xycoords": ax.get_yaxis_transform(), "va": "center"}
            ax.annotate(name, (1, level), (4, 0), textcoords="offset points", fontsize=8, **at)
    if log:
        ax.set_yscale("log")
    labels = ax.get_legend_handles_labels()[1]
    # A row of the legend holds what the axes are wide enough for, at 8 points.
    width = ax.get_window_extent().width / ax.figure.get_dpi()
    entries = [0.34 + 0.06 * len(label) for label in labels]
    fitting = len(labels) if sum(entries) < width else int(width / max(entries))
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    tight: dict[str, Any] = {"handlelength": 1.8, "handletextpad": 0.5, "columnspacing": 1.0}
    ax.legend(ncols=max(1, fitting), fontsize=8, frameon=False, **place, **tight)
    return ax


def checked_array(name: str, value: Any, *shape: int | str) -> np.ndarray:
    """Return a float array, or say which shape was expected; words stand for any size."""
    array = np.asarray(value, dtype=float)
    if array.ndim != len(shape) or any(
        isinstance(want, int) and got != want for got, want in zip(array.shape, shape, strict=True)
    ):
        raise ValueError(
            f"{name} should have shape ({', '.join(map(str, shape))}); got {array.shape}: select "
            "or transpose dimensions"
        )
    return array


def count_from_one(n: int) -> np.ndarray:
    """Return 1 .. n: steps and blocks count from 1."""
    return np.arange(1, n + 1)


def mean_sem(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over the first dimension and its standard error: NaN where there is one."""
    known = np.isfinite(values)
    count = known.sum(0)
    mean = np.where(known, values, 0).sum(0) / np.where(count, count, np.nan)
    square = (np.where(known, values - mean, 0) ** 2).sum(0)
    return mean, np.sqrt(square / np.where(count > 1, (count - 1) * count, np.nan))


def draw_bars(ax: Axes, x: np.ndarray, groups: Curves, name: str) -> None:
    """Draw (seeds, len(x)) arrays as means with error bars, side by side where they would meet."""
    gap = np.diff(x).min() if len(x) > 1 else 1.0
    for i, (label, values) in enumerate(groups.items()):
        mean, sem = mean_sem(checked_array(f"{name}[{label!r}]", values, "seeds", len(x)))
        shift = 0.08 * gap * (i - (len(groups) - 1) / 2)
        bar: dict[str, Any] = {"marker": MARKERS[i % len(MARKERS)], "markersize": 4, "capsize": 2}
        ax.errorbar(x + shift, mean, sem, label=label, **line_style(i), **bar)


def draw_task_lines(ax: Axes, values: np.ndarray, names: Names) -> None:
    """Draw one line a task, values (T, K)."""
    for k, curve in enumerate(values.T):
        label = f"task {names[k] if names else k}"
        ax.plot(count_from_one(len(curve)), curve, label=label, linewidth=1.2, **line_style(k))


def save_figure(fig: Figure, folder: str | os.PathLike[str], name: str) -> Path:
    """Write ``name``.png (150 dpi) and ``name``.pdf, whole or not at all, and close the figure.

    No date is written: the same figure gives the same bytes. Returns the path of the PNG.

    >>> import tempfile
    >>> from gbi_pyro.plots import binary_log_odds
    >>> figure = binary_log_odds([0.0, 1.0], [0.1, 0.9]).figure
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_figure(figure, folder, "odds").name
    'odds.png'
    """
    png = Path(folder) / f"{name}.png"
    for path, metadata in ((png, None), (png.with_name(f"{name}.pdf"), {"CreationDate": None})):
        with replacing(path) as temporary:
            fig.savefig(temporary, dpi=150, bbox_inches="tight", metadata=metadata)
    # pyplot knows only the figures that it made itself, and is loaded then.
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close(fig)
    return png
