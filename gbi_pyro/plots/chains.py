"""Chains: transition matrices, how an input moves them, how long tasks last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from gbi_pyro.plots._axes import (
    Ax,
    Names,
    checked_array,
    checked_names,
    columns_of,
    finish,
    new_axes,
)
from gbi_pyro.plots._style import Style, style_of
from gbi_pyro.plots.matrices import checked_square, draw_shares

LAW, ESTIMATE = Style("0.65", width=4.0), Style("black", width=1.0)
PANEL = 3.0, 2.8  # inches of one of several axes side by side


def transitions(
    A: ArrayLike, ax: Ax = None, *, names: Names = None, title: str | None = None
) -> Axes:
    """Draw transition probabilities, (K, K): rows the task left, columns the task entered.

    >>> ax = transitions([[0.98, 0.02], [0.1, 0.9]], names=["engaged", "biased"])
    >>> [text.get_text() for text in ax.texts]
    ['.980', '.020', '.100', '.900']
    """
    values = _checked_rows("A", checked_square("A", A))
    ax = new_axes(ax, "to task", "from task", size=(4.4, 4.0))
    draw_shares(ax, values, names, decimals=3)
    ax.set_title(title or "probability of each transition", loc="left", size=9)
    return ax


def transitions_by(
    covariate: ArrayLike,
    A: ArrayLike,
    axes: Sequence[Axes] | None = None,
    *,
    names: Names = None,
    xlabel: str = "covariate",
    log: bool = False,
) -> list[Axes]:
    """Draw how transition probabilities move with a covariate, axes for each task that is left.

    Args:
        covariate: its values, (M,), in any order.
        A: transition probabilities at these, (M, K, K), such as
            ``chain.transitions_at(inputs).exp()``.
        axes: K of them; without them a new figure has them side by side.
        names, xlabel, log: see the package.

    >>> axes = transitions_by([0.0, 1.0], [[[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.2, 0.8]]])
    >>> [line.get_label() for line in axes[0].lines], axes[1].get_title(loc="left")
    (['to task 0', 'to task 1'], 'from task 1')
    """
    at = checked_array("covariate", covariate, "M")
    values = checked_array("A", A, len(at), "K", "K")
    K = values.shape[-1]
    _checked_rows("A", checked_array("A", values, len(at), K, K))
    words, sort = checked_names(names, K), np.argsort(at, kind="stable")
    panels = _panels(axes, words)
    for i, ax in enumerate(panels):
        new_axes(ax, xlabel, "transition probability" if i == 0 else "")
        for j in range(K):
            look = style_of(None, "", j).line
            ax.plot(at[sort], values[sort, i, j], label=f"to {words[j]}", **look)
        if not log:
            ax.set_ylim(-0.02, 1.02)
        finish(ax, log=log, title=f"from {words[i]}")
    return panels


def dwell_times(
    tables: Mapping[str, Any],
    laws: Mapping[str, ArrayLike] | None = None,
    axes: Sequence[Axes] | None = None,
    *,
    xlabel: str = "dwell time t (steps)",
    log: bool = True,
) -> list[Axes]:
    """Draw how long each task lasts: the share of its blocks longer than t, and the law of a chain.

    Where the axis is logarithmic, a geometric law, that of a Markov chain, is a straight line.

    Args:
        tables: by name of the task what ``gbi_pyro.metrics.kaplan_meier`` returns.
        laws: by name of the task P(D > t), t = 0, 1, ..., (M,), such as
            ``gbi_pyro.metrics.dwell_law`` returns for it; of a chain that inputs drive,
            ``kaplan_meier(...).survival`` of replicated paths.
        axes: one for each task; without them a new figure has them side by side.
        xlabel, log: see the package.

    >>> table = {"time": [0, 1, 2], "survival": [1.0, 0.5, 0.2], "at_risk": [9, 9, 4]}
    >>> ends = {"low": [1.0, 0.4, 0.1], "high": [1.0, 0.6, 0.4]}
    >>> dwell_times({"engaged": table | ends}, {"engaged": [1.0, 0.5, 0.25]})[0].get_ylabel()
    'share of blocks longer than t'
    """
    if unknown := (laws or {}).keys() - tables.keys():
        raise ValueError(
            f"laws should be of tasks that tables has, {list(tables)}; got {sorted(unknown)}"
        )
    panels = _panels(axes, list(tables))
    wanted = "time", "survival", "low", "high", "at_risk"
    lowest = 1.0
    for i, (ax, (name, table)) in enumerate(zip(panels, tables.items(), strict=True)):
        time, share, low, high, at_risk = columns_of(f"tables[{name!r}]", table, *wanted)
        new_axes(ax, xlabel, "share of blocks longer than t" if i == 0 else "")
        if laws is not None and name in laws:
            law = checked_array(f"laws[{name!r}]", laws[name], "M")[: int(time[-1]) + 2]
            ax.plot(np.arange(len(law)), law, label="law of the chain", **LAW.line)
        look: dict[str, Any] = {"step": "post", "color": "0.5", "alpha": 0.3, "linewidth": 0}
        ax.fill_between(time, low, high, label="interval", **look)
        ax.step(time, share, where="post", label="Kaplan-Meier", **ESTIMATE.line)
        # Less than one block, of draws of paths, says nothing that is worth its place.
        lowest = min(lowest, share[(share > 0) & (at_risk >= 1)].min(initial=1.0))
        finish(ax, log=log, title=name)
    for ax in panels:
        ax.set_ylim((lowest / 2, 1.2) if log else (-0.02, 1.02))
    return panels


def _checked_rows(name: str, values: np.ndarray) -> np.ndarray:
    if not np.allclose(values.sum(-1), 1, atol=1e-3) or (values < 0).any():
        raise ValueError(
            f"{name} should hold probabilities, rows that sum to 1; got rows that sum to "
            f"{values.sum(-1).min():.3g} to {values.sum(-1).max():.3g}: take log_transition.exp()"
        )
    return values


def _panels(axes: Sequence[Axes] | None, titles: Sequence[str]) -> list[Axes]:
    """Return axes, one for each title; new ones share the axis of their values."""
    if axes is None:
        size = PANEL[0] * len(titles), PANEL[1]
        figure = Figure(figsize=size, layout="constrained")
        return list(figure.subplots(1, len(titles), sharey=True, squeeze=False)[0])
    if len(axes) != len(titles):
        raise ValueError(f"axes should be {len(titles)}, one for each of {titles}; got {len(axes)}")
    return list(axes)
