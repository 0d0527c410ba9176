"""The figure of the split digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gbi_pyro import plots
from gbi_pyro.metrics.intervals import student_interval
from studies.core.style import STYLES
from studies.split_digits.measure import (
    CONCAT,
    GIVEN,
    INFERENCES,
    MASK,
    NETWORKS,
    NUM_TASKS,
    SEQUENTIAL,
)
from studies.split_digits.table import ByNetwork, summed_up

Dash = str | tuple[float, tuple[float, ...]]
ONE_STEP, ENUMERATION = INFERENCES
DASHES: dict[str, Dash] = {ONE_STEP: "-", ENUMERATION: (0, (1, 1))}
AS_TRAINED = "Z as in training"


def figure_digits(found: Mapping[float, ByNetwork]) -> Figure:
    """Draw what is left of the tasks learned so far, by block and at the end; a row for a rate."""
    figure = Figure(figsize=(14, 4.2 * len(found)), layout="constrained")
    grid = figure.subplots(len(found), 3, squeeze=False, sharex="col", sharey="col")
    for (rate, by_network), (classes, tasks, end) in zip(found.items(), grid, strict=True):
        _draw_classes(classes, by_network)
        classes.set_title(f"Class of an image, {AS_TRAINED}; rate {rate:g}", loc="left", size=10)
        _draw_tasks(tasks, by_network)
        title = f"Task by one step (solid), enumeration (dotted); rate {rate:g}"
        tasks.set_title(title, loc="left", size=10)
        _draw_end(end, by_network, f"Class at the end, 95 % intervals; rate {rate:g}")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    for ax in grid[:, :2].flat:  # one legend for all, of networks
        ax.get_legend().remove()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False)
    return figure


def _draw_classes(ax: Axes, found: ByNetwork) -> None:
    plots.blocks(
        {n: so_far([scores.accuracy[GIVEN] for scores in found[n]]) for n in SEQUENTIAL},
        ax,
        ylabel="accuracy on the tasks so far",
        styles=STYLES,
        better="higher",
    )


def _draw_tasks(ax: Axes, found: ByNetwork) -> None:
    cases = {f"{n}; {way}": (n, way) for n in (CONCAT, MASK) for way in INFERENCES}
    plots.blocks(
        {
            name: so_far([scores.task_accuracy[way] for scores in found[n]])
            for name, (n, way) in cases.items()
        },
        ax,
        {"chance": 1 / NUM_TASKS},
        ylabel="accuracy on the tasks so far",
        styles={
            name: replace(STYLES[n], dash=DASHES[way], width=1.5)
            for name, (n, way) in cases.items()
        },
        better="higher",
    )


def _draw_end(ax: Axes, found: ByNetwork, title: str) -> None:
    ways = {AS_TRAINED: GIVEN, **{way: way for way in INFERENCES}}
    plots.intervals(
        list(NETWORKS),
        {name: [_at_end(found, n, way) for n in NETWORKS] for name, way in ways.items()},
        ax,
        xlabel="accuracy on all tasks (dotted: chance)",
        reference=1 / 2,
        styles=STYLES,
        title=title,
        better="higher",
    )


def _at_end(found: ByNetwork, network: str, way: str) -> tuple[float, ...]:
    if way not in found[network][0].accuracy:
        return (np.nan,) * 3
    per_cent = summed_up(found, network, way).average.values
    return student_interval(np.array(per_cent) / 100)[:3]


def so_far(matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean accuracy on the tasks learned up to each block, ``(seeds, blocks)``.

    >>> so_far([np.array([[0.9, 0.5], [0.6, 0.8]])])
    array([[0.9, 0.7]])
    """
    r = np.stack(matrices)
    learned = np.tril(np.ones(r.shape[1:]))
    mean: np.ndarray = (r * learned).sum(-1) / learned.sum(-1)
    return mean
