"""Rows and the figure of the split digits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gbi_pyro import plots
from gbi_pyro.metrics.continual import Continual, continual_learning
from gbi_pyro.metrics.intervals import student_interval
from gbi_pyro.metrics.intervals import paired_bootstrap
from studies.split_digits.measure import (
    CONCAT,
    GIVEN,
    INFERENCES,
    MASK,
    MIXED,
    NETWORKS,
    SHUFFLED,
    SHUFFLED_MASK,
    TOLD,
    UNTRAINED,
    WITHOUT,
)
from studies.core.table import Row, interval_note

WAYS = (GIVEN, *INFERENCES)
SEQUENTIAL = tuple(network for network in NETWORKS if network != MIXED)
STATEMENT = "C1"  # of Z shuffled, or none


def ways_of(network: str) -> Sequence[str]:
    """Return how Z is had at test: inferred too, where it means something."""
    return WAYS if network in TOLD else (GIVEN,)


def summed_up(found: Mapping[str, Any], network: str, way: str) -> Continual:
    """Return average accuracy, forgetting and transfers of one network at one rate, in percent.

    Forward transfer is from untrained weights with Z as in training.
    """
    matrix, untrained = (100 * np.array(found[network][key]) for key in (way, UNTRAINED))
    return continual_learning(matrix, untrained)


def digit_rows(found: Mapping[str, Any]) -> list[Row]:
    """Return what became of each task, of every network, and the differences to the baseline.

    Args:
        found: what ``digits.measure`` returned.
    """
    rows = []
    for rate in rates_of(found):
        for what, values, note in (*_of_each(found[rate]), *_differences(found[rate])):
            rows.append(Row.of(STATEMENT, f"split digits, {rate}, {what}", values, note=note))
    return rows


Line = tuple[str, Sequence[float], str]


def _of_each(found: Mapping[str, Any]) -> Iterator[Line]:
    for network in SEQUENTIAL:
        for way in ways_of(network):
            name = _name(network, way)
            parts = summed_up(found, network, way)
            learned = 100 * np.diagonal(np.array(found[network][way]), axis1=1, axis2=2).mean(-1)
            yield f"{name}: accuracy on the task just learned, %", learned.tolist(), "chance 50"
            yield f"{name}: average accuracy at the end, %", parts.average.values, "chance 50"
            yield f"{name}: forgetting, points", parts.forgetting.values, ""
            if way == GIVEN and parts.forward is not None:
                yield f"{name}: backward transfer, points", parts.backward.values, ""
                yield f"{name}: forward transfer, points", parts.forward.values, ""
    for way in WAYS:
        average = summed_up(found, MIXED, way).average.values
        yield f"{_name(MIXED, way)}: average accuracy at the end, %", average, "no sequence"
    for network in TOLD:
        for way in INFERENCES:
            right = 100 * np.array(found[network][f"task, {way}"])[:, -1].mean(-1)
            name = f"{network}: task named right at the end by {way}, %"
            yield name, right.tolist(), "chance 20; uniform prior over all five"


def _differences(found: Mapping[str, Any]) -> Iterator[Line]:
    told = [((n, w), WITHOUT) for n in (CONCAT, MASK) for w in WAYS]
    extra_input = [((n, GIVEN), WITHOUT) for n in (SHUFFLED, SHUFFLED_MASK)]
    task = [((CONCAT, GIVEN), SHUFFLED), ((MASK, GIVEN), SHUFFLED_MASK)]
    for case, other in (*told, *extra_input, *task):
        own, plain = summed_up(found, *case), summed_up(found, other, GIVEN)
        for what, a, b in (
            ("average accuracy", own.average.values, plain.average.values),
            ("forgetting", own.forgetting.values, plain.forgetting.values),
        ):
            name = f"{_name(*case)} minus {other}: {what}, points"
            yield name, np.subtract(a, b).tolist(), paired_interval(a, b)


def rates_of(found: Mapping[str, Any]) -> list[str]:
    """Return the names of the rates among results.

    >>> rates_of({"rate 0.01": {}, "seconds": 1.0})
    ['rate 0.01']
    """
    return [name for name in found if name.startswith("rate ")]


def paired_interval(first: Sequence[float], second: Sequence[float]) -> str:
    """Write the 95 % interval of a paired difference in words.

    >>> paired_interval([1.0, 2.0, 3.5], [1.0, 2.0, 3.5])
    '95 % interval 0 to 0, paired'
    """
    return f"{interval_note(paired_bootstrap(first, second))}, paired"


def figure_digits(folder: Path, found: Mapping[str, Any]) -> Path:
    """Draw what is left of the tasks learned so far, by block and at the end; a row for a rate."""
    rates = rates_of(found)
    figure = Figure(figsize=(13, 4.8 * len(rates)), layout="constrained")
    grid = figure.subplots(len(rates), 3, squeeze=False)
    for rate, axes in zip(rates, grid, strict=True):
        results = found[rate]
        plots.curves(
            {n: so_far(results[n][GIVEN]) for n in SEQUENTIAL},
            axes[0],
            xlabel=f"block ({rate})",
            ylabel="accuracy on tasks so far, Z as in training (%)",
        )
        plots.curves(
            {
                f"{n}; {w}": so_far(results[n][f"task, {w}"])
                for n in (CONCAT, MASK)
                for w in INFERENCES
            },
            axes[1],
            {"chance": 100 / len(results[CONCAT][UNTRAINED][0])},
            xlabel=f"block ({rate})",
            ylabel="task named right, of tasks so far (%)",
        )
        cases = [(n, w) for n in NETWORKS for w in ways_of(n)]
        # An interval begins with mean, low and high.
        ends = [student_interval(summed_up(results, *case).average.values)[:3] for case in cases]
        plots.intervals(
            [_name(*case) for case in cases],
            {"mean and 95 % interval": np.array(ends)},
            axes[2],
            xlabel="average accuracy at the end (%)",
            reference=50.0,
        )
        for ax in axes[:2]:
            ax.locator_params(axis="x", integer=True)
    return plots.save_figure(figure, folder, "digits")


def so_far(matrix: Any) -> np.ndarray:
    """Return the mean accuracy on the tasks learned up to each block, (seeds, blocks), percent.

    >>> so_far([[[0.9, 0.5], [0.6, 0.8]]])
    array([[90., 70.]])
    """
    r = 100 * np.array(matrix)
    learned = np.tril(np.ones(r.shape[1:]))
    return (r * learned).sum(-1) / learned.sum(-1)


def _name(network: str, way: str) -> str:
    return network if way == GIVEN else f"{network}; {way} at test"
