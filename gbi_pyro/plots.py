"""Figures of results: arrays in, matplotlib axes out.

Every ``plot_*`` draws on ``ax``, or on a new figure of its own (``ax.figure``), and returns the
axes. Arrays may be of any kind that numpy reads; a wrong shape is a ValueError that says which was
expected. Curves differ by line style and marker as well as by colour. Over seeds, the first
dimension, the mean is drawn with its standard error; NaN marks a seed without a value. Steps and
blocks count from 1. ``ylabel`` names what is drawn, with its unit; ``names`` those of the K tasks;
``floor`` is a level, or several by name, drawn as dotted lines; ``hull`` the smallest and largest
mean seen in training, shaded; ``log`` asks for a logarithmic y axis.
"""

from __future__ import annotations

import itertools
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


def _axes(ax: Ax, xlabel: str, ylabel: str, size: tuple[float, float] = (6.4, 2.8)) -> Axes:
    """Return labelled axes, by default on a figure that pyplot does not keep open."""
    ax = ax or Figure(figsize=size, layout="constrained").add_subplot()
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _style(i: int) -> dict[str, Any]:
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)]}


def _finish(ax: Axes, *, floor: Floor = None, log: bool = False) -> Axes:
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


def _array(name: str, value: Any, *shape: int | str) -> np.ndarray:
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


def _steps(n: int) -> np.ndarray:
    return np.arange(1, n + 1)


def _mean_sem(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over the first dimension and its standard error: NaN where there is one."""
    known = np.isfinite(values)
    count = known.sum(0)
    mean = np.where(known, values, 0).sum(0) / np.where(count, count, np.nan)
    square = (np.where(known, values - mean, 0) ** 2).sum(0)
    return mean, np.sqrt(square / np.where(count > 1, (count - 1) * count, np.nan))


def _bars(ax: Axes, x: np.ndarray, groups: Curves, name: str) -> None:
    """Draw (seeds, len(x)) arrays as means with error bars, side by side where they would meet."""
    gap = np.diff(x).min() if len(x) > 1 else 1.0
    for i, (label, values) in enumerate(groups.items()):
        mean, sem = _mean_sem(_array(f"{name}[{label!r}]", values, "seeds", len(x)))
        shift = 0.08 * gap * (i - (len(groups) - 1) / 2)
        bar: dict[str, Any] = {"marker": MARKERS[i % len(MARKERS)], "markersize": 4, "capsize": 2}
        ax.errorbar(x + shift, mean, sem, label=label, **_style(i), **bar)


def _task_lines(ax: Axes, values: np.ndarray, names: Names) -> None:
    for k, curve in enumerate(values.T):
        label = f"task {names[k] if names else k}"
        ax.plot(_steps(len(curve)), curve, label=label, linewidth=1.2, **_style(k))


def plot_stream(
    x: ArrayLike, z: ArrayLike, means: ArrayLike, ax: Ax = None, *, prediction: Any = None
) -> Axes:
    """Draw observations x (T,) as dots, the mean of their task z (T,), and a prediction (T,).

    >>> plot_stream([0.2, 0.9], [0, 1], means=[0.2, 0.8]).get_ylabel()
    'observation x'
    """
    x = _array("x", x, "T")
    mean = _array("means", means, "K")[_array("z", z, len(x)).astype(int)]
    ax, steps = _axes(ax, "step", "observation x"), _steps(len(x))
    ax.plot(steps, x, ".", color="0.5", markersize=4, label="observation")
    ax.step(steps, mean, "k-", where="mid", linewidth=1.5, label="mean of the task")
    if prediction is not None:
        ax.plot(steps, _array("prediction", prediction, len(x)), label="prediction", **_style(1))
    return _finish(ax)


def plot_task_probs(
    probs: Any,
    exact: Any = None,
    z: Any = None,
    task: int = 0,
    ax: Ax = None,
    *,
    site: str | None = None,
    sequence: int = 0,
) -> Axes:
    """Draw the posterior of one task over time, the exact one behind it, its true blocks shaded.

    Args:
        probs: probabilities, (T, K) or (sequences, T, K); or ``InferenceData``, whose groups
            ``exact_task_probs`` and ``constant_data`` are then used as well.
        exact, z: exact probabilities of the same shape; true task ids, (T,) or (sequences, T).
        task, ax: which task, and where to draw it.
        site, sequence: which site of ``InferenceData`` (the first), and which of several sequences.

    >>> plot_task_probs([[0.9, 0.1], [0.2, 0.8]], z=[0, 1], task=1).get_ylabel()
    'p(task 1 | x)'
    """
    name: Any = task
    if hasattr(probs, "task_probs"):
        data, site = probs, site or next(iter(probs.task_probs.data_vars))
        probs = data.task_probs[site]
        name = probs[f"{site}_task"].values[task]
        if exact is None and hasattr(data, "exact_task_probs"):
            exact = data.exact_task_probs[site]
        if z is None and site in getattr(data, "constant_data", ()):
            z = data.constant_data[site]
    one = _array("probs", probs[sequence] if np.ndim(probs) == 3 else probs, "T", "K")
    ax, steps = _axes(ax, "step", f"p(task {name} | x)"), _steps(len(one))
    if z is not None:
        here = _array("z", z[sequence] if np.ndim(z) == 2 else z, len(one)) == task
        first, after = np.flatnonzero(np.diff(here, prepend=False, append=False)).reshape(-1, 2).T
        blocks = list(zip(first + 0.5, after - first, strict=True))
        ax.broken_barh(blocks, (0, 1), label="true block", **BAND)
    if exact is not None:
        true = _array("exact", exact[sequence] if np.ndim(exact) == 3 else exact, *one.shape)
        ax.plot(steps, true[:, task], color="0.6", linewidth=4, label="exact")
    ax.plot(steps, one[:, task], "k-", linewidth=1, label="estimate")
    ax.set_ylim(-0.05, 1.05)
    return _finish(ax)


def plot_likelihood(log_emission: ArrayLike, ax: Ax = None, *, names: Names = None) -> Axes:
    """Draw the likelihood of each task over time from log p(x_t | z_t = k), (T, K).

    >>> [line.get_label() for line in plot_likelihood([[0.0, -1.0], [-1.0, 0.0]]).lines]
    ['task 0', 'task 1']
    """
    ax = _axes(ax, "step", "likelihood p(x | task)")
    _task_lines(ax, np.exp(_array("log_emission", log_emission, "T", "K")), names)
    return _finish(ax)


def plot_curves(
    curves: Curves,
    ax: Ax = None,
    floor: Floor = None,
    *,
    xlabel: str = "training step",
    ylabel: str = "mean squared error",
    log: bool = False,
) -> Axes:
    """Draw curves by name, (seeds, steps) each: mean and a band of one standard error.

    >>> plot_curves({"GBI": [[0.3, 0.1], [0.5, 0.1]]}, floor=0.01).lines[0].get_ydata()
    array([0.4, 0.1])
    """
    ax = _axes(ax, xlabel, ylabel)
    for i, (name, values) in enumerate(curves.items()):
        mean, sem = _mean_sem(_array(f"curves[{name!r}]", values, "seeds", "steps"))
        x, style = _steps(len(mean)), _style(i)
        ax.plot(x, mean, label=name, **style)
        ax.fill_between(x, mean - sem, mean + sem, color=style["color"], alpha=0.25, linewidth=0)
    return _finish(ax, floor=floor, log=log)


def plot_blocks(
    values: Curves, ax: Ax = None, floor: Floor = None, *, ylabel: str = "mean squared error"
) -> Axes:
    """Draw a quantity block by block, (seeds, blocks) by name.

    >>> plot_blocks({"GBI": [[0.3, 0.1]], "LSTM": [[0.4, 0.3]]}).get_xlabel()
    'block'
    """
    ax = _axes(ax, "block", ylabel)
    _bars(ax, _steps(np.shape(next(iter(values.values())))[-1]), values, "values")
    ax.locator_params(axis="x", integer=True)
    return _finish(ax, floor=floor)


def plot_binned(
    values: Curves, bin_size: int = 5, ax: Ax = None, *, ylabel: str = "ratio of shared units"
) -> Axes:
    """Draw a quantity by bins of blocks, (seeds, blocks) by name, averaged in each seed's bin.

    >>> ax = plot_binned({"GBI": [[0.4, 0.2, 0.1]]}, bin_size=2)
    >>> [tick.get_text() for tick in ax.get_xticklabels()]
    ['1-2', '3']
    """
    if bin_size < 1:
        raise ValueError(f"bin_size should be at least 1; got {bin_size}")
    blocks = np.shape(next(iter(values.values())))[-1]
    bins = list(itertools.pairwise([*range(0, blocks, bin_size), blocks]))
    binned = {}
    for name, value in values.items():
        array = _array(f"values[{name!r}]", value, "seeds", blocks)
        binned[name] = np.stack([_mean_sem(array[:, a:b].T)[0] for a, b in bins], -1)
    ax = _axes(ax, "blocks", ylabel)
    _bars(ax, _steps(len(bins)), binned, "values")
    ax.set_xticks(_steps(len(bins)), [f"{a + 1}-{b}" if b > a + 1 else f"{b}" for a, b in bins])
    return _finish(ax)


def plot_by_mean(
    means: ArrayLike,
    errors: Curves,
    hull: Hull = None,
    ax: Ax = None,
    floor: Floor = None,
    *,
    ylabel: str = "mean squared error",
    log: bool = False,
) -> Axes:
    """Draw errors, (seeds, M) by name, on unseen tasks against their true means, (M,).

    >>> plot_by_mean([0.0, 0.5, 1.0], {"GBI": [[0.02, 0.01, 0.03]]}, hull=(0.2, 0.8)).get_xlabel()
    'true mean of the task'
    """
    ax = _axes(ax, "true mean of the task", ylabel)
    if hull:
        ax.axvspan(*hull, label="training range", **BAND)
    _bars(ax, _array("means", means, "M"), errors, "errors")
    return _finish(ax, floor=floor, log=log)


def plot_predicted_mean(
    means: ArrayLike, predicted: Curves, ax: Ax = None, *, hull: Hull = None
) -> Axes:
    """Draw predicted means, (seeds, M) by name, against true ones, (M,), and where they are equal.

    >>> plot_predicted_mean([0.0, 1.0], {"GBI": [[0.1, 0.9]]}).get_ylabel()
    'predicted mean'
    """
    ax = plot_by_mean(means, predicted, hull, ax, ylabel="predicted mean")
    ax.plot(means, means, color="0.5", linestyle=":", zorder=1, label="predicted = true")
    return _finish(ax)


def plot_gradients(
    gradients: ArrayLike, z: ArrayLike, ax: Ax = None, *, names: Names = None
) -> Axes:
    """Draw the gradient on each task unit, (T, K) in nats, and where the task z, (T,), switches.

    >>> len(plot_gradients([[1.0, -1.0], [-2.0, 2.0]], [0, 1]).lines)  # 2 units, zero, a switch
    4
    """
    gradients = _array("gradients", gradients, "T", "K")
    ax = _axes(ax, "step", "gradient on z (nats)")
    _task_lines(ax, gradients, names)
    ax.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    switches = np.flatnonzero(np.diff(_array("z", z, len(gradients)))) + 1.5
    for i, switch in enumerate(switches):
        line: dict[str, Any] = {"linestyle": (0, (5, 3)), "linewidth": 1, "zorder": 0}
        ax.axvline(switch, color="0.6", label="" if i else "switch", **line)
    return _finish(ax)


def plot_evidence(exact_log_odds: ArrayLike, estimate_log_odds: ArrayLike, ax: Ax = None) -> Axes:
    """Draw estimated against exact log p(x | task 1) / p(x | task 0), and where they are equal.

    >>> plot_evidence([-1.0, 2.0], [-1.1, 1.8]).get_xlabel()
    'exact log odds (nats)'
    """
    exact = np.ravel(np.asarray(exact_log_odds, dtype=float))
    estimate = _array("estimate_log_odds", np.ravel(np.asarray(estimate_log_odds)), len(exact))
    ax = _axes(ax, "exact log odds (nats)", "estimated log odds (nats)", size=(3.6, 3.4))
    many = len(exact) > 2000  # dots as an image, so that a PDF stays small
    ax.plot(exact, estimate, ".", color="0.35", markersize=3, alpha=0.5, rasterized=many)
    ax.axline((0, 0), slope=1, color="k", linestyle="--", linewidth=1, label="estimate = exact")
    ax.set_aspect("equal", "datalim")
    return _finish(ax)


def save_figure(fig: Figure, folder: str | os.PathLike[str], name: str) -> Path:
    """Write ``name``.png (150 dpi) and ``name``.pdf, whole or not at all, and close the figure.

    No date is written: the same figure gives the same bytes. Returns the path of the PNG.

    >>> import tempfile
    >>> figure = plot_evidence([0.0, 1.0], [0.1, 0.9]).figure
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_figure(figure, folder, "evidence").name
    'evidence.png'
    """
    png = Path(folder) / f"{name}.png"
    for path, metadata in ((png, None), (png.with_name(f"{name}.pdf"), {"CreationDate": None})):
        with replacing(path) as temporary:
            fig.savefig(temporary, dpi=150, bbox_inches="tight", metadata=metadata)
    # pyplot knows only the figures that it made itself, and is loaded then.
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close(fig)
    return png


def plot_confusion(counts: ArrayLike, ax: Ax = None, *, names: Names = None) -> Axes:
    """Draw counts of true (rows) against named tasks (columns), (K, K), as shares of each row.

    >>> plot_confusion([[9, 1], [0, 10]]).get_xlabel()
    'task named'
    """
    counts = _array("counts", counts, "K", "K")
    ax = _axes(ax, "task named", "true task", size=(4.4, 4.0))
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
    points = _array("points", points, "N", 2)
    tasks = _array("z", z, len(points)).astype(int)
    ax = _axes(ax, "first principal direction of the gradient (nats)", "second (nats)")
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
    grid = _array("images", images, "rows", len(titles), "C", "H", "W").clip(0, 1)
    rows, columns = grid.shape[:2]
    figure = Figure(figsize=(0.8 * columns, 0.8 * rows + 0.3), layout="constrained")
    for row, line in zip(figure.subplots(rows, columns, squeeze=False), grid, strict=True):
        for ax, image in zip(row, line, strict=True):
            ax.imshow(image[0] if len(image) == 1 else np.moveaxis(image, 0, -1), cmap="gray_r")
            ax.set_axis_off()
    for ax, title in zip(figure.axes, titles, strict=False):
        ax.set_title(title, fontsize=7)
    return figure
