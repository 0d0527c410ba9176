"""A session's tasks: the posterior along its steps, and psychometric curves task by task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from numpy.typing import ArrayLike

from gbi_pyro.plots._axes import (
    SIZE,
    Ax,
    Names,
    Options,
    checked_array,
    checked_names,
    columns_of,
    finish,
    new_axes,
)
from gbi_pyro.plots._style import style_of

ROW = 0.09  # height of a row above the bands, where probabilities are one high


def session(
    probs: ArrayLike,
    ax: Ax = None,
    *,
    path: ArrayLike | None = None,
    marks: Mapping[str, ArrayLike] | None = None,
    names: Names = None,
    xlabel: str = "step",
    **options: Unpack[Options],
) -> Axes:
    """Draw the posterior along one sequence as stacked bands, task 0 at the bottom.

    Bands are lighter from one task to the next, so that they differ without colour.

    Args:
        probs: probabilities of each step, (T, K), padding left out.
        path: the most probable path, (T,), as a strip above the bands.
        marks: by name which steps have a mark, (T,) of 0 and 1, a row each above these.
        ax, names, xlabel, options: see the package.

    >>> ax = session([[0.9, 0.1], [0.2, 0.8]], path=[0, 1], marks={"error": [0, 1]})
    >>> [tick.get_text() for tick in ax.get_yticklabels()]
    ['0', '0.5', '1', 'most probable path', 'error']
    """
    values = checked_array("probs", probs, "T", "K")
    T, K = values.shape
    if not np.allclose(values.sum(-1), 1, atol=1e-3):
        raise ValueError(
            f"probs should sum to 1 over the tasks of each step; got {values.sum(-1).min():.3g} to "
            f"{values.sum(-1).max():.3g}: take posterior.probs(), not its logits"
        )
    words = checked_names(names, K)
    ax = new_axes(ax, xlabel, "probability of each task", size=(8.0, 2.6))
    edges = np.arange(T + 1) + 0.5
    top = np.concatenate([np.zeros((T, 1)), values.cumsum(-1)], -1)
    for k in range(K):
        area: dict[str, Any] = {"facecolor": band_colour(k, K), "edgecolor": "0.2"}
        ax.stairs(top[:, k + 1], edges, baseline=top[:, k], fill=True, label=words[k], lw=0, **area)
    ticks: dict[float, str] = {0.0: "0", 0.5: "0.5", 1.0: "1"}
    if path is not None:
        tasks = checked_array("path", path, T).astype(int)
        at = _row(ticks, "most probable path")
        for k in range(K):
            ends = np.flatnonzero(np.diff(tasks == k, prepend=False, append=False))
            first, after = ends.reshape(-1, 2).T
            blocks = list(zip(first + 0.5, after - first, strict=True))
            ax.broken_barh(blocks, (at - ROW / 3, ROW / 1.5), facecolor=band_colour(k, K))
    for name, marked in (marks or {}).items():
        here = np.flatnonzero(checked_array(f"marks[{name!r}]", marked, T)) + 1
        ax.plot(here, np.full(len(here), _row(ticks, name)), "|", color="black", markersize=5)
    ax.set_ylabel(ax.get_ylabel(), loc="center" if len(ticks) == 3 else "bottom")
    ax.set_yticks(list(ticks), list(ticks.values()), size=SIZE)
    ax.set(xlim=(0.5, T + 0.5), ylim=(0, max(ticks) + (ROW / 2 if len(ticks) > 3 else 0)))
    return finish(ax, **options)


def _row(ticks: dict[float, str], name: str) -> float:
    """Add a row above what is there, and return where it lies."""
    at = max(ticks) + (ROW if len(ticks) > 3 else ROW * 0.8)
    ticks[at] = name
    return at


def band_colour(k: int, K: int) -> tuple[float, ...]:
    """Return the colour of a task as wide as a band: its hue, lighter from one task to the next.

    >>> grey = [float(np.dot(band_colour(k, 3), (0.299, 0.587, 0.114))) for k in range(3)]
    >>> [round(level, 2) for level in grey]
    [0.3, 0.57, 0.85]
    """
    wanted = 0.3 + 0.55 * (k / (K - 1) if K > 1 else 0.5)
    colour = np.array(to_rgb(style_of(None, "", k).colour))
    grey = float(np.dot(colour, (0.299, 0.587, 0.114)))
    # Mixed with white, or with black, until it is as light as wanted.
    if grey > wanted:
        return tuple((colour * wanted / grey).tolist())
    return tuple((1 - (1 - colour) * (1 - wanted) / (1 - grey)).tolist())


def psychometric(
    table: Any,
    curves: tuple[ArrayLike, ArrayLike] | None = None,
    ax: Ax = None,
    *,
    names: Names = None,
    xlabel: str = "stimulus",
    ylabel: str = "share of choices",
    **options: Unpack[Options],
) -> Axes:
    """Draw the share of choices against the stimulus for each task, and the model's curves.

    Args:
        table: what ``gbi_pyro.metrics.psychometric`` returns, K tasks by bins.
        curves: stimuli, (M,), and p(choice | stimulus, task) at these, (K, M).
        ax, names, xlabel, ylabel, options: see the package.

    >>> points = {"stimulus": [[-1.0, 1.0]], "share": [[0.2, 0.9]]}
    >>> ends = {"low": [[0.1, 0.8]], "high": [[0.3, 1.0]]}
    >>> psychometric(points | ends).get_xlabel()
    'stimulus'
    """
    wanted = "stimulus", "share", "low", "high"
    at, share, low, high = columns_of("table", table, *wanted, shape=("K", "bins"))
    words = checked_names(names, len(share))
    ax = new_axes(ax, xlabel, ylabel, size=(4.4, 3.4))
    x, model = np.empty(0), None
    if curves is not None:
        x = checked_array("curves[0]", curves[0], "M")
        model = checked_array("curves[1]", curves[1], len(share), len(x))
    for k, word in enumerate(words):
        style = style_of(None, "", k)
        bars = np.maximum([share[k] - low[k], high[k] - share[k]], 0)
        look = style.points | ({} if model is not None else style.line)
        ax.errorbar(at[k], share[k], bars, label=word, **look)
        if model is not None:
            ax.plot(x, model[k], **style.line)
    ax.set_ylim(-0.02, 1.02)
    return finish(ax, **options)
