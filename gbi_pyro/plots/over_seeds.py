"""Quantities by step, by block and by task, over seeds."""

from __future__ import annotations

import itertools
from typing import Unpack

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from gbi_pyro.plots._axes import (
    BAND,
    Ax,
    Curves,
    Floor,
    Hull,
    Options,
    checked_array,
    count_from_one,
    draw_means,
    finish,
    mean_sem,
    new_axes,
)
from gbi_pyro.plots._style import Styles, style_of

BANDS = 2  # curves that have bands; more would hide each other
WHISKERS = 8  # error bars along each curve otherwise


def curves(
    values: Curves,
    ax: Ax = None,
    floor: Floor = None,
    *,
    x: ArrayLike | None = None,
    xlabel: str = "training step",
    ylabel: str = "mean squared error",
    styles: Styles = None,
    **options: Unpack[Options],
) -> Axes:
    """Draw curves by name, (seeds, steps) each: means with one standard error.

    One or two curves have it as a band; more have it as error bars at some steps, each curve at
    others. ``x``, (steps,), says where the steps lie; without it they are counted.

    >>> curves({"GBI": [[0.3, 0.1], [0.5, 0.1]]}, floor=0.01).lines[0].get_ydata()
    array([0.4, 0.1])
    """
    ax = new_axes(ax, xlabel, ylabel)
    for i, (name, seeds) in enumerate(values.items()):
        mean, sem = mean_sem(checked_array(f"values[{name!r}]", seeds, "seeds", "steps"))
        at = count_from_one(len(mean)) if x is None else checked_array("x", x, len(mean))
        style = style_of(styles, name, i)
        if len(values) <= BANDS:
            ax.plot(at, mean, label=name, **style.line)
            ax.fill_between(at, mean - sem, mean + sem, color=style.colour, alpha=0.25, linewidth=0)
        else:
            every = -(-len(mean) // WHISKERS)
            every = max(every, len(values)) if every > 1 else 1
            first = i * every // len(values)
            at_some = {"errorevery": (first, every), "markevery": (first, every), "capsize": 0}
            ax.errorbar(at, mean, sem, label=name, **style.points | style.line | at_some)
    return finish(ax, floor=floor, **options)


def blocks(
    values: Curves,
    ax: Ax = None,
    floor: Floor = None,
    *,
    ylabel: str = "mean squared error",
    styles: Styles = None,
    **options: Unpack[Options],
) -> Axes:
    """Draw a quantity block by block, (seeds, blocks) by name.

    >>> blocks({"GBI": [[0.3, 0.1]], "LSTM": [[0.4, 0.3]]}).get_xlabel()
    'block'
    """
    ax, at = new_axes(ax, "block", ylabel), count_from_one(_length(values))
    draw_means(ax, at, values, "values", styles)
    ax.locator_params(axis="x", integer=True)
    return finish(ax, floor=floor, **options)


def binned(
    values: Curves,
    bin_size: int = 5,
    ax: Ax = None,
    *,
    ylabel: str = "ratio of shared units",
    styles: Styles = None,
    **options: Unpack[Options],
) -> Axes:
    """Draw a quantity by bins of blocks, (seeds, blocks) by name, averaged in each seed's bin.

    >>> ax = binned({"GBI": [[0.4, 0.2, 0.1]]}, bin_size=2)
    >>> [tick.get_text() for tick in ax.get_xticklabels()]
    ['1-2', '3']
    """
    if bin_size < 1:
        raise ValueError(f"bin_size should be at least 1; got {bin_size}")
    length = _length(values)
    bins = list(itertools.pairwise([*range(0, length, bin_size), length]))
    means = {}
    for name, value in values.items():
        array = checked_array(f"values[{name!r}]", value, "seeds", length)
        means[name] = np.stack([mean_sem(array[:, a:b].T)[0] for a, b in bins], -1)
    ax, at = new_axes(ax, "blocks", ylabel), count_from_one(len(bins))
    draw_means(ax, at, means, "values", styles)
    ax.set_xticks(at, [f"{a + 1}-{b}" if b > a + 1 else f"{b}" for a, b in bins])
    return finish(ax, **options)


def by_mean(
    means: ArrayLike,
    errors: Curves,
    hull: Hull = None,
    ax: Ax = None,
    floor: Floor = None,
    *,
    ylabel: str = "mean squared error",
    styles: Styles = None,
    **options: Unpack[Options],
) -> Axes:
    """Draw errors, (seeds, M) by name, on unseen tasks against their true means, (M,).

    >>> by_mean([0.0, 0.5, 1.0], {"GBI": [[0.02, 0.01, 0.03]]}, hull=(0.2, 0.8)).get_xlabel()
    'true mean of the task'
    """
    ax = _draw_by_mean(ax, means, errors, hull, ylabel, styles)
    return finish(ax, floor=floor, **options)


def predicted_mean(
    means: ArrayLike,
    predicted: Curves,
    ax: Ax = None,
    *,
    hull: Hull = None,
    styles: Styles = None,
    **options: Unpack[Options],
) -> Axes:
    """Draw predicted means, (seeds, M) by name, against true ones, (M,), and where they are equal.

    >>> predicted_mean([0.0, 1.0], {"GBI": [[0.1, 0.9]]}).get_ylabel()
    'predicted mean'
    """
    ax = _draw_by_mean(ax, means, predicted, hull, "predicted mean", styles)
    ax.plot(means, means, color="0.5", linestyle=":", zorder=1, label="predicted = true")
    return finish(ax, **options)


def every_seed(
    x: ArrayLike,
    values: Curves,
    ax: Ax = None,
    *,
    xlabel: str,
    ylabel: str,
    styles: Styles = None,
    **options: Unpack[Options],
) -> Axes:
    """Draw every seed's value, (seeds, M) by name, at (M,), with a line through the medians.

    For values of which a few lie far from the others, where a mean would show neither.

    >>> ax = every_seed([0, 1], {"EM": [[1, 1], [2, 1], [9, 1]]}, xlabel="", ylabel="")
    >>> ax.lines[-1].get_ydata()
    array([2., 1.])
    """
    ax, at = new_axes(ax, xlabel, ylabel), checked_array("x", x, "M")
    gap = np.diff(at).min() if len(at) > 1 else 1.0
    for i, (name, seeds) in enumerate(values.items()):
        array = checked_array(f"values[{name!r}]", seeds, "seeds", len(at))
        shifted = at + 0.12 * gap * (i - (len(values) - 1) / 2)
        style = style_of(styles, name, i)
        line, points = style.line, {"marker": style.marker, "markersize": 4}
        hollow = {"linestyle": "none", "alpha": 0.6, "fillstyle": "none"}
        ax.plot(shifted, array.T, **line | points | hollow)
        known = ~np.isnan(array).all(0)
        middle = np.full(len(at), np.nan)
        middle[known] = np.nanmedian(array[:, known], 0)
        ax.plot(shifted, middle, label=name, **line | points)
    return finish(ax, **options)


def _length(values: Curves) -> int:
    return int(np.shape(next(iter(values.values())))[-1])


def _draw_by_mean(
    ax: Ax, means: ArrayLike, values: Curves, hull: Hull, ylabel: str, styles: Styles
) -> Axes:
    ax = new_axes(ax, "true mean of the task", ylabel)
    if hull:
        ax.axvspan(*hull, label="training range", **BAND)
    draw_means(ax, checked_array("means", means, "M"), values, "errors", styles)
    return ax
