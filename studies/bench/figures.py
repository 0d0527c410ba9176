"""The figures of the benchmark: error against cost, a panel for each problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from studies.bench import methods
from studies.bench.measure import Cell
from studies.bench.table import Cells, mean_of
from studies.core.style import STYLES

Cost = Literal["passes", "seconds"]
LOWEST, HIGHEST = 1e-4, 30.0  # nats: what is beyond is drawn at the edge
COLUMNS = 5
CURVES: dict[str, tuple[str, ...]] = {
    "one step + m rescored": (
        methods.ONE_STEP,
        *(methods.rescored(methods.ONE_STEP, m) for m in methods.SHORTLISTS),
    ),
    "calibrated one step": (methods.CALIBRATED, methods.rescored(methods.CALIBRATED, 8)),
    "second-order joint + m rescored": (
        methods.JOINT,
        *(methods.rescored(methods.JOINT, m) for m in methods.JOINT_SHORTLISTS),
    ),
    "second-order joint (1 and 2 rounds)": (methods.JOINT, methods.JOINT_TWICE),
    "iterative": (methods.ITERATIVE,),
    "coordinate gradient": (methods.COORDINATE,),
    "Gibbs": (methods.GIBBS,),
    "Gibbs with gradients": (methods.GRADIENT_GIBBS,),
    "SMC": (methods.SMC,),
}
"""Methods that are drawn, those of one curve from the cheapest on."""
LEVELS = (methods.PRIOR, methods.PRODUCT)
LABELS = {
    "passes": "forward + backward passes",
    "seconds": "processor seconds for 100 cases",
}


def draw_cost(cells: Cells, cost: Cost) -> Figure:
    """Draw KL(exact || it) against what a call costs, means over seeds, a panel for each problem.

    Curves join what differs by one number, and dotted lines are at the prior and at the product of
    the exact marginals; a wide line is at the cost of the exact posterior.

    Args:
        cells: by problem and method.
        cost: which cost.
    """
    columns = min(COLUMNS, len(cells))
    rows = -(-len(cells) // columns)
    figure = Figure(figsize=(1.2 + 2.4 * columns, 1.5 + 2.1 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    shown: dict[str, Line2D] = {}
    panels = axes.ravel()
    for ax, (problem, by_method) in zip(panels, cells.items(), strict=False):
        shown |= _draw_problem(ax, by_method, cost)
        ax.set_title(problem, loc="left", fontsize=9)
    for ax in panels[len(cells) :]:
        ax.remove()
    for ax in panels[: len(cells)]:
        below = list(panels[: len(cells)]).index(ax) + columns >= len(cells)
        ax.tick_params(labelbottom=below, labelsize=8)
    panels[0].set(xscale="log", yscale="log", ylim=(LOWEST / 1.5, HIGHEST * 1.5))
    figure.supxlabel(LABELS[cost], fontsize=10)
    figure.supylabel("KL(exact || it), nats\n\N{LEFTWARDS ARROW} better", fontsize=10)
    order = [name for name in (*CURVES, *LEVELS, methods.EXACT) if name in shown]
    others = [name for name in shown if name not in order]
    figure.legend(
        [shown[name] for name in (*order, *others)],
        [*order, *others],
        loc="outside upper center",
        ncols=min(5, len(shown)),
        frameon=False,
        fontsize=9,
    )
    return figure


def _draw_problem(
    ax: Axes, by_method: Mapping[str, Sequence[Cell]], cost: Cost
) -> dict[str, Line2D]:
    """Draw one problem, and return a handle for each name that is drawn."""
    points = {name: _point(by_seed, cost) for name, by_seed in by_method.items()}
    points = {name: at for name, at in points.items() if np.isfinite(at[0])}
    shown: dict[str, Line2D] = {}
    if methods.EXACT in points:
        style = STYLES[methods.EXACT]
        shown[methods.EXACT] = ax.axvline(points[methods.EXACT][0], **style.line | {"zorder": 1})
    for name in LEVELS:
        if name in points:
            line = STYLES[name].line | {"zorder": 1.5}
            shown[name] = ax.axhline(points[name][1], **line)
    known = {m for curve in CURVES.values() for m in curve} | {*LEVELS, methods.EXACT}
    own = {name: (name,) for name in points if name not in known and ":" in name}
    for name, members in {**CURVES, **own}.items():
        at = [points[m] for m in members if m in points]
        if at:
            style = STYLES.get(name, STYLES["your own"])
            look = style.line | {"marker": style.marker, "markersize": 4.5}
            if len(members) == 1:
                look["linestyle"] = "none"
            (shown[name],) = ax.plot(*zip(*at, strict=True), label=name, **look)
    ax.spines[["top", "right"]].set_visible(False)
    return shown


def _point(by_seed: Sequence[Cell], cost: Cost) -> tuple[float, float]:
    """Return the mean cost and the mean divergence over seeds, within the axes; NaN if refused."""
    measured = [cell for cell in by_seed if not cell.refused]
    if not measured:
        return np.nan, np.nan
    columns = ("forward", "backward") if cost == "passes" else ("seconds",)
    spent = np.mean([sum(mean_of(cell, c) for c in columns) for cell in measured])
    divergence = np.mean([mean_of(cell, "kl") for cell in measured])
    return float(spent), float(np.clip(divergence, LOWEST, HIGHEST))
