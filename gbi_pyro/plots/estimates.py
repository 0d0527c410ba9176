"""Estimates with their intervals: of one run, and differences between runs."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gbi_pyro.plots._axes import (
    LEVEL,
    SIZE,
    Ax,
    Better,
    Curves,
    Options,
    checked_array,
    finish,
    new_axes,
)
from gbi_pyro.plots._style import BY_POSITION, Style, Styles, style_of

WIDTH = 4.2  # inches of a panel
LETTERS = 46  # of a line of its title
NAME = 22  # letters of a line of a run's name


def intervals(
    names: Sequence[str],
    estimates: Curves,
    ax: Ax = None,
    *,
    xlabel: str,
    reference: float | None = 0.0,
    styles: Styles = None,
    **options: Unpack[Options],
) -> Axes:
    """Draw estimates with intervals by name, (M, 3) of estimate, low and high, a line for each.

    ``names`` are those of the M things; ``reference`` is a value to read them against, None for
    none.

    >>> ax = intervals(["a", "b"], {"gain": [[1, 0, 2], [3, 2, 4]]}, xlabel="gain (nats)")
    >>> [tick.get_text() for tick in ax.get_yticklabels()]
    ['a', 'b']
    """
    rows = np.arange(len(names), dtype=float)
    ax = new_axes(ax, xlabel, "", size=(6.4, 1.0 + 0.42 * len(names)))
    if reference is not None:
        ax.axvline(reference, **LEVEL)
    for i, (label, values) in enumerate(estimates.items()):
        middle, low, high = checked_array(f"estimates[{label!r}]", values, len(names), 3).T
        shift = 0.7 / len(estimates) * (i - (len(estimates) - 1) / 2)
        ends, points = [middle - low, high - middle], style_of(styles, label, i).points
        ax.errorbar(middle, rows + shift, xerr=ends, label=label, **points)
    ax.set_yticks(rows, list(names), size=SIZE)
    ax.set_ylim(len(names) - 0.5, -0.5)
    return finish(ax, axis="x", **options)


def comparison(
    rows: Sequence[Mapping[str, Any]],
    ax: Ax = None,
    *,
    reference: str = "the reference",
    runs: Sequence[str] | None = None,
    styles: Styles = None,
    better: Better = None,
) -> Axes:
    """Draw how far runs are from the reference in one quantity, a line for each run.

    ``rows`` are those of a comparison, with ``quantity``, ``run``, ``difference``, ``low`` and
    ``high``; an end that is None is unknown. A marker is filled where the interval excludes zero.
    ``reference`` is a name for the axis; ``runs`` says by whose order runs have their markers,
    which are black without ``styles``.

    >>> row = {"quantity": "loss", "run": "b", "difference": -0.2, "low": -0.3, "high": -0.1}
    >>> comparison([row]).get_title(loc="left")
    'loss'
    """
    quantities = {row["quantity"] for row in rows}
    if len(quantities) != 1:
        raise ValueError(
            f"rows should be of one quantity; got {sorted(quantities) or 'none'}: draw each in "
            "axes of its own, or all by comparisons"
        )
    xlabel = textwrap.fill(f"difference from {reference}", LETTERS)
    ax = new_axes(ax, xlabel, "", size=(WIDTH, 1.0 + 0.3 * len(rows)))
    ax.axvline(0.0, **LEVEL)
    order = list(runs or (row["run"] for row in rows))
    looks = {run: Style("black", marker=BY_POSITION[i % 10].marker) for i, run in enumerate(order)}
    looks |= styles or {}
    for i, row in enumerate(rows):
        middle, low, high = (
            np.nan if row[name] is None else float(row[name])
            for name in ("difference", "low", "high")
        )
        ends = None if np.isnan(low + high) else [[middle - low], [high - middle]]
        look = looks[row["run"]]
        fill = look.colour if low > 0 or high < 0 else "white"
        ax.errorbar([middle], [i], xerr=ends, **look.points | {"markerfacecolor": fill})
    ax.set_yticks(
        range(len(rows)), [textwrap.fill(str(row["run"]), NAME) for row in rows], size=SIZE
    )
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.tick_params(axis="x", labelsize=SIZE)
    ax.locator_params(axis="x", nbins=6)
    ax.xaxis.label.set_fontsize(SIZE)
    ax.set_title(textwrap.fill(str(rows[0]["quantity"]), LETTERS), size=SIZE, loc="left")
    return finish(ax, axis="x", better=better)


def comparisons(
    rows: Sequence[Mapping[str, Any]],
    axes: Sequence[Axes] | None = None,
    *,
    reference: str = "the reference",
    styles: Styles = None,
    better: Mapping[str, Better] | None = None,
) -> list[Axes]:
    """Draw every quantity of a comparison in axes of its own; see ``comparison``.

    Differences are in the unit of the quantity, so that each has its own scale. ``axes`` are one
    for each quantity, in the order in which they come; without them a new figure has up to three
    side by side. ``better`` says by quantity which direction is better, where that is known.

    >>> row = {"run": "b", "difference": -0.2, "low": -0.3, "high": -0.1}
    >>> len(comparisons([{"quantity": "loss", **row}, {"quantity": "error", **row}]))
    2
    """
    quantities = list(dict.fromkeys(row["quantity"] for row in rows))
    if not quantities:
        raise ValueError("rows should hold at least one difference to draw; got none")
    groups = [[row for row in rows if row["quantity"] == name] for name in quantities]
    if axes is None:
        columns = min(3, len(groups))
        lines = -(-len(groups) // columns)
        height = 1.2 + 0.3 * max(map(len, groups))
        figure = Figure(figsize=(WIDTH * columns, height * lines), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False).ravel()
        for unused in grid[len(groups) :]:
            unused.remove()
        axes = list(grid[: len(groups)])
    if len(axes) != len(groups):
        raise ValueError(
            f"axes should be {len(groups)}, one for each of {quantities}; got {len(axes)}"
        )
    runs = list(dict.fromkeys(str(row["run"]) for row in rows))
    return [
        comparison(
            group,
            ax,
            reference=reference,
            runs=runs,
            styles=styles,
            better=(better or {}).get(group[0]["quantity"]),
        )
        for group, ax in zip(groups, axes, strict=True)
    ]
