"""Quantities by step, by block and by task, over seeds."""

from __future__ import annotations

import itertools

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from gbi_pyro.plots._style import (
    BAND,
    MARKERS,
    Ax,
    Curves,
    Floor,
    Hull,
    checked_array,
    count_from_one,
    draw_bars,
    finish,
    line_style,
    mean_sem,
    new_axes,
)


def curves(
    values: Curves,
    ax: Ax = None,
    floor: Floor = None,
    *,
    x: ArrayLike | None = None,
    xlabel: str = "training step",
    ylabel: str = "mean squared error",
    log: bool = False,
) -> Axes:
    """Draw curves by name, (seeds, steps) each: mean and a band of one standard error.

    ``x``, (steps,), says where the steps lie; without it they are counted.

    >>> curves({"GBI": [[0.3, 0.1], [0.5, 0.1]]}, floor=0.01).lines[0].get_ydata()
    array([0.4, 0.1])
    """
    ax = new_axes(ax, xlabel, ylabel)
    for i, (name, seeds) in enumerate(values.items()):
        mean, sem = mean_sem(checked_array(f"values[{name!r}]", seeds, "seeds", "steps"))
        at = count_from_one(len(mean)) if x is None else checked_array("x", x, len(mean))
        style = line_style(i)
        ax.plot(at, mean, label=name, **style)
        ax.fill_between(at, mean - sem, mean + sem, color=style["color"], alpha=0.25, linewidth=0)
    return finish(ax, floor=floor, log=log)


def blocks(
    values: Curves, ax: Ax = None, floor: Floor = None, *, ylabel: str = "mean squared error"
) -> Axes:
    """Draw a quantity block by block, (seeds, blocks) by name.

    >>> blocks({"GBI": [[0.3, 0.1]], "LSTM": [[0.4, 0.3]]}).get_xlabel()
    'block'
    """
    ax = new_axes(ax, "block", ylabel)
    draw_bars(ax, count_from_one(np.shape(next(iter(values.values())))[-1]), values, "values")
    ax.locator_params(axis="x", integer=True)
    return finish(ax, floor=floor)


def binned(
    values: Curves, bin_size: int = 5, ax: Ax = None, *, ylabel: str = "ratio of shared units"
) -> Axes:
    """Draw a quantity by bins of blocks, (seeds, blocks) by name, averaged in each seed's bin.

    >>> ax = binned({"GBI": [[0.4, 0.2, 0.1]]}, bin_size=2)
    >>> [tick.get_text() for tick in ax.get_xticklabels()]
    ['1-2', '3']
    """
    if bin_size < 1:
        raise ValueError(f"bin_size should be at least 1; got {bin_size}")
    num_blocks = np.shape(next(iter(values.values())))[-1]
    bins = list(itertools.pairwise([*range(0, num_blocks, bin_size), num_blocks]))
    binned = {}
    for name, value in values.items():
        array = checked_array(f"values[{name!r}]", value, "seeds", num_blocks)
        binned[name] = np.stack([mean_sem(array[:, a:b].T)[0] for a, b in bins], -1)
    ax = new_axes(ax, "blocks", ylabel)
    draw_bars(ax, count_from_one(len(bins)), binned, "values")
    ax.set_xticks(
        count_from_one(len(bins)), [f"{a + 1}-{b}" if b > a + 1 else f"{b}" for a, b in bins]
    )
    return finish(ax)


def by_mean(
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

    >>> by_mean([0.0, 0.5, 1.0], {"GBI": [[0.02, 0.01, 0.03]]}, hull=(0.2, 0.8)).get_xlabel()
    'true mean of the task'
    """
    ax = new_axes(ax, "true mean of the task", ylabel)
    if hull:
        ax.axvspan(*hull, label="training range", **BAND)
    draw_bars(ax, checked_array("means", means, "M"), errors, "errors")
    return finish(ax, floor=floor, log=log)


def predicted_mean(
    means: ArrayLike, predicted: Curves, ax: Ax = None, *, hull: Hull = None
) -> Axes:
    """Draw predicted means, (seeds, M) by name, against true ones, (M,), and where they are equal.

    >>> predicted_mean([0.0, 1.0], {"GBI": [[0.1, 0.9]]}).get_ylabel()
    'predicted mean'
    """
    ax = by_mean(means, predicted, hull, ax, ylabel="predicted mean")
    ax.plot(means, means, color="0.5", linestyle=":", zorder=1, label="predicted = true")
    return finish(ax)


def every_seed(
    x: ArrayLike, values: Curves, ax: Ax = None, *, xlabel: str, ylabel: str, log: bool = False
) -> Axes:
    """Draw every seed's value, (seeds, M) by name, at (M,), with a line through the medians.

    For values of which a few lie far from the others, where a mean would show neither.

    >>> ax = every_seed([0, 1], {"EM": [[1, 1], [2, 1], [9, 1]]}, xlabel="", ylabel="")
    >>> ax.lines[-1].get_ydata()
    array([2., 1.])
    """
    ax = new_axes(ax, xlabel, ylabel)
    at = checked_array("x", x, "M")
    gap = np.diff(at).min() if len(at) > 1 else 1.0
    for i, (name, seeds) in enumerate(values.items()):
        array = checked_array(f"values[{name!r}]", seeds, "seeds", len(at))
        shifted = at + 0.12 * gap * (i - (len(values) - 1) / 2)
        style, marker = line_style(i), MARKERS[i % len(MARKERS)]
        ax.plot(
            shifted,
            array.T,
            color=style["color"],
            alpha=0.6,
            marker=marker,
            linestyle="",
            markersize=4,
            fillstyle="none",
        )
        known = ~np.isnan(array).all(0)
        middle = np.full(len(at), np.nan)
        middle[known] = np.nanmedian(array[:, known], 0)
        ax.plot(shifted, middle, label=name, marker=marker, markersize=5, **style)
    return finish(ax, log=log)
