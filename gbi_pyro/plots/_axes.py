"""What all functions share: checked arrays, axes, legends, means over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch
from numpy.typing import ArrayLike

from gbi_pyro.plots._style import Styles, style_of

BAND: dict[str, Any] = {"facecolor": "0.9", "edgecolor": "none", "zorder": 0}
LEVEL: dict[str, Any] = {"color": "0.3", "linestyle": ":", "linewidth": 1}
SIZE = 8  # points of small letters
MOST = 6  # entries of a legend
WORDS = {"higher": "better \N{RIGHTWARDS ARROW}", "lower": "\N{LEFTWARDS ARROW} better"}
Ax = Axes | None
Better = Literal["higher", "lower"] | None
Curves = Mapping[str, ArrayLike]
Floor = float | Mapping[str, float] | None
Hull = tuple[float, float] | None
Names = Sequence[str] | None


class Options(TypedDict, total=False):
    """What every axes of curves may have: a title, and which direction of its values is better."""

    title: str | None
    better: Better


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


def new_axes(ax: Ax, xlabel: str, ylabel: str, size: tuple[float, float] = (6.4, 2.8)) -> Axes:
    """Return labelled axes, by default on a figure that pyplot does not keep open."""
    ax = ax or Figure(figsize=size, layout="constrained").add_subplot()
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def draw_means(ax: Axes, x: np.ndarray, groups: Curves, name: str, styles: Styles) -> None:
    """Draw (seeds, len(x)) arrays as means with error bars, side by side where they would meet."""
    gap = np.diff(x).min() if len(x) > 1 else 1.0
    for i, (label, values) in enumerate(groups.items()):
        mean, sem = mean_sem(checked_array(f"{name}[{label!r}]", values, "seeds", len(x)))
        shift = 0.08 * gap * (i - (len(groups) - 1) / 2)
        style = style_of(styles, label, i)
        ax.errorbar(x + shift, mean, sem, label=label, **style.points | style.line)


def draw_task_lines(ax: Axes, values: np.ndarray, names: Names) -> None:
    """Draw one line a task, values (T, K)."""
    for k, curve in enumerate(values.T):
        line = style_of(None, "", k).line | {"linewidth": 1.2}
        label = f"task {names[k] if names else k}"
        ax.plot(count_from_one(len(curve)), curve, label=label, **line)


def finish(
    ax: Axes,
    *,
    floor: Floor = None,
    log: bool = False,
    title: str | None = None,
    better: Better = None,
    axis: Literal["x", "y"] = "y",
) -> Axes:
    """Add levels, title, the direction that is better, and the legend, above the axes."""
    if better is not None:
        if better not in WORDS:
            raise ValueError(f"better should be 'higher', 'lower' or None; got {better!r}")
        # A label of the y axis reads upwards, so that the same arrow serves both.
        label = getattr(ax, f"get_{axis}label")()
        ax.set(**{f"{axis}label": f"{label}\n{WORDS[better]}"})
    levels = floor if isinstance(floor, Mapping) else {"noise floor": floor}
    for name, level in levels.items():
        if level is not None:
            ax.axhline(level, **LEVEL)
            at: dict[str, Any] = {"xycoords": ax.get_yaxis_transform(), "va": "center"}
            ax.annotate(name, (1, level), (4, 0), textcoords="offset points", fontsize=SIZE, **at)
    if log:
        ax.set_yscale("log")
    handles, labels = ax.get_legend_handles_labels()
    if len(labels) > MOST:
        handles, labels = _name_at_right(ax, handles, labels)
    rows = 0
    if labels:
        # A row of the legend holds what the axes are wide enough for.
        width = ax.get_window_extent().width / ax.figure.get_dpi()
        entries = [0.44 + 0.06 * len(label) for label in labels]
        columns = len(labels) if sum(entries) < width else max(1, int(width / max(entries)))
        rows = -(-len(labels) // columns)
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "fontsize": SIZE}
        tight: dict[str, Any] = {"handlelength": 2.6, "handletextpad": 0.5, "columnspacing": 1.0}
        ax.legend(
            handles, labels, ncols=columns, borderaxespad=0.2, frameon=False, **place, **tight
        )
    if title is not None:
        ax.set_title(title, loc="left", fontsize=SIZE + 2, pad=6 + 1.5 * SIZE * rows)
    return ax


def _name_at_right(
    ax: Axes, handles: Sequence[Any], labels: Sequence[str]
) -> tuple[list[Any], list[str]]:
    """Write the names of lines beside the axes, in the order of their ends; return the others."""
    named, others = [], []
    for handle, label in zip(handles, labels, strict=True):
        line = handle.lines[0] if isinstance(handle, ErrorbarContainer) else handle
        if isinstance(line, StepPatch):
            values, edges, _ = line.get_data()
            line = Line2D(edges[1:], values, color=line.get_edgecolor())
        if isinstance(line, Line2D):
            points = np.asarray(line.get_xydata(), dtype=float)
            points = points[np.isfinite(points).all(1)]
            named.append((points[np.argmax(points[:, 0])], label, line.get_color()))
        else:
            others.append((handle, label))
    to_axes = ax.transData - ax.transAxes
    wanted = np.array([to_axes.transform(point)[1] for point, _, _ in named])
    order = np.argsort(wanted, kind="stable")
    # Neighbours stand a line of letters apart, all of them as near to their curves as that allows.
    gap = 1.6 * SIZE * ax.figure.get_dpi() / 72 / ax.get_window_extent().height
    steps = gap * np.arange(len(named))
    placed = np.maximum.accumulate(wanted[order] - steps) + steps
    placed += (wanted[order] - placed).mean()
    for y, i in zip(placed, order, strict=True):
        point, label, colour = named[i]
        arrow = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0}
        at: dict[str, Any] = {"xytext": (1.05, y), "textcoords": ax.transAxes, "va": "center"}
        look: dict[str, Any] = {"color": colour, "fontsize": SIZE, "annotation_clip": False}
        ax.annotate(label, tuple(point), arrowprops=arrow, **at, **look)
    return [h for h, _ in others], [label for _, label in others]
