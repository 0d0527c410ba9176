"""What all functions share: checked arrays, axes, legends, means over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from gbi_pyro.plots._style import Styles, style_of

BAND: dict[str, Any] = {"facecolor": "0.9", "edgecolor": "none", "zorder": 0}
LEVEL: dict[str, Any] = {"color": "0.3", "linestyle": ":", "linewidth": 1}
SIZE = 8  # points of small letters
LETTER = 0.06  # inches of one of them
MOST = 6  # entries of a legend above the axes
WORDS = {"higher": "better \N{RIGHTWARDS ARROW}", "lower": "\N{LEFTWARDS ARROW} better"}
Ax = Axes | None
Better = Literal["higher", "lower"] | None
Curves = Mapping[str, ArrayLike]
Floor = float | Mapping[str, float] | None
Hull = tuple[float, float] | None
Names = Sequence[str] | None


class Options(TypedDict, total=False):
    """What axes may have: a title, and for their values the better direction and a log scale."""

    title: str | None
    better: Better
    log: bool


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


def checked_names(names: Names, K: int, word: str = "task ") -> list[str]:
    """Return a word for each of K tasks: its name, or its number after a word without names."""
    if names is not None and len(names) != K:
        raise ValueError(f"names should be {K}, one for each task; got {list(names)}")
    return [f"{word}{k}" for k in range(K)] if names is None else [str(name) for name in names]


def columns_of(
    name: str, table: Any, *wanted: str, shape: tuple[int | str, ...] = ("rows",)
) -> list[np.ndarray]:
    """Return columns of a table, of one shape, by attribute or by key."""
    found: list[np.ndarray] = []
    for column in wanted:
        value = table.get(column) if isinstance(table, Mapping) else getattr(table, column, None)
        if value is None:
            raise ValueError(
                f"{name} should have the columns {', '.join(wanted)}; got {type(table).__name__} "
                f"without {column!r}: give the table that gbi_pyro.metrics returns"
            )
        same = found[0].shape if found else shape
        found.append(checked_array(f"{name}.{column}", value, *same))
    return found


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
    known = {name: level for name, level in levels.items() if level is not None}
    for name, level in known.items():
        ax.axhline(level, **LEVEL)
        at: dict[str, Any] = {"xycoords": ax.get_yaxis_transform(), "va": "center"}
        ax.annotate(name, (1, level), (4, 0), textcoords="offset points", fontsize=SIZE, **at)
    if log:
        ax.set(**{f"{axis}scale": "log"})
    rows = _add_legend(ax, aside=max(map(len, known), default=0))
    if title is not None:
        ax.set_title(title, loc="left", fontsize=SIZE + 2, pad=6 + 1.5 * SIZE * rows)
    return ax


def _add_legend(ax: Axes, aside: int) -> int:
    """Add a legend, above the axes, or beside them (and ``aside`` letters); return rows above."""
    handles, labels = ax.get_legend_handles_labels()
    inches = ax.get_window_extent().width / ax.figure.get_dpi()
    look: dict[str, Any] = {"fontsize": SIZE, "frameon": False, "handlelength": 2.6}
    if len(labels) > MOST:
        at = 1 + (0.1 + LETTER * aside) / inches
        ax.legend(handles, labels, loc="center left", bbox_to_anchor=(at, 0.5), **look)
        return 0
    # A row holds what the axes are wide enough for; a column is as wide as its widest entry.
    widths = [0.44 + LETTER * len(label) for label in labels]
    rows = 0
    for rows in range(1, len(widths) + 1):
        if sum(max(widths[i : i + rows]) for i in range(0, len(widths), rows)) < inches:
            break
    if rows:
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1)}
        tight: dict[str, Any] = {"borderaxespad": 0.2, "handletextpad": 0.5, "columnspacing": 1.0}
        ax.legend(handles, labels, ncols=-(-len(widths) // rows), **place, **tight, **look)
    return rows
