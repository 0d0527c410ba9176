"""A stream and its tasks over time: likelihood, posterior, gradients."""

from __future__ import annotations

import itertools
from typing import Any, Unpack

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike

from gbi_pyro._arviz import groups_of
from gbi_pyro.plots._axes import (
    BAND,
    SIZE,
    Ax,
    Names,
    Options,
    checked_array,
    count_from_one,
    draw_task_lines,
    finish,
    new_axes,
)
from gbi_pyro.plots._style import COLOURS, Style

EXACT, ESTIMATE = Style("0.65", width=4.0), Style("black", width=1.0)
PREDICTION = Style(COLOURS[1], (0, (4, 1)))


def stream(
    x: ArrayLike,
    z: ArrayLike,
    means: ArrayLike,
    ax: Ax = None,
    *,
    prediction: Any = None,
    **options: Unpack[Options],
) -> Axes:
    """Draw observations x (T,) as dots, the mean of their task z (T,), and a prediction (T,).

    >>> stream([0.2, 0.9], [0, 1], means=[0.2, 0.8]).get_ylabel()
    'observation x'
    """
    x = checked_array("x", x, "T")
    mean = checked_array("means", means, "K")[checked_array("z", z, len(x)).astype(int)]
    ax, steps = new_axes(ax, "step", "observation x"), count_from_one(len(x))
    ax.plot(steps, x, ".", color="0.5", markersize=4, label="observation")
    ax.step(steps, mean, "k-", where="mid", linewidth=1.5, label="mean of the task")
    if prediction is not None:
        values = checked_array("prediction", prediction, len(x))
        ax.plot(steps, values, label="prediction", **PREDICTION.line)
    return finish(ax, **options)


def task_probs(
    probs: Any,
    exact: Any = None,
    z: Any = None,
    task: int = 0,
    ax: Ax = None,
    *,
    site: str | None = None,
    sequence: int = 0,
    **options: Unpack[Options],
) -> Axes:
    """Draw the posterior of one task over time, the exact one behind it, its true blocks shaded.

    Args:
        probs: probabilities, (T, K) or (sequences, T, K); or ``InferenceData``, whose groups
            ``exact_task_probs`` and ``constant_data`` are then used as well.
        exact, z: exact probabilities of the same shape; true task ids, (T,) or (sequences, T).
        task: which one.
        site, sequence: which site of ``InferenceData`` (the first), and which of several sequences.
        ax, options: see the package.

    >>> task_probs([[0.9, 0.1], [0.2, 0.8]], z=[0, 1], task=1).get_ylabel()
    'p(task 1 | x)'
    """
    name: Any = task
    if hasattr(probs, "groups"):  # InferenceData, or a DataTree
        groups = groups_of(probs)
        if "task_probs" not in groups:
            raise ValueError(
                f"probs should have the group task_probs; got {list(groups)}: make it "
                "by gbi_pyro.to_inference_data"
            )
        known = [*map(str, groups["task_probs"].data_vars)]
        site = known[0] if site is None else site
        if site not in known:
            raise ValueError(f"site should be one of {known}, those of task_probs; got {site!r}")
        probs = groups["task_probs"][site]
        name = probs[f"{site}_task"].values[task]
        if exact is None and "exact_task_probs" in groups:
            exact = groups["exact_task_probs"][site]
        if z is None and site in groups.get("constant_data", ()):
            z = groups["constant_data"][site]
    one = checked_array("probs", probs[sequence] if np.ndim(probs) == 3 else probs, "T", "K")
    ax, steps = new_axes(ax, "step", f"p(task {name} | x)"), count_from_one(len(one))
    if z is not None:
        here = checked_array("z", z[sequence] if np.ndim(z) == 2 else z, len(one)) == task
        first, after = np.flatnonzero(np.diff(here, prepend=False, append=False)).reshape(-1, 2).T
        blocks = list(zip(first + 0.5, after - first, strict=True))
        ax.broken_barh(blocks, (0, 1), label="true block", **BAND)
    if exact is not None:
        true = checked_array("exact", exact[sequence] if np.ndim(exact) == 3 else exact, *one.shape)
        ax.plot(steps, true[:, task], label="exact", **EXACT.line)
    ax.plot(steps, one[:, task], label="estimate", **ESTIMATE.line)
    ax.set_ylim(-0.05, 1.05)
    return finish(ax, **options)


def task_heatmap(
    probs: ArrayLike,
    z: ArrayLike,
    ax: Ax = None,
    *,
    names: Names = None,
    xlabel: str = "step",
    **options: Unpack[Options],
) -> Axes:
    """Draw the posterior over all tasks by step, (T, K), in grey and the true task, (T,), as lines.

    >>> task_heatmap([[0.9, 0.1], [0.2, 0.8]], z=[0, 1], names=["chat", "news"]).get_xlabel()
    'step'
    """
    shown = checked_array("probs", probs, "T", "K")
    true = checked_array("z", z, len(shown)).astype(int)
    ax = new_axes(ax, xlabel, "")
    extent = (0.5, len(shown) + 0.5, shown.shape[1] - 0.5, -0.5)
    ax.imshow(shown.T, cmap="Greys", vmin=0, vmax=1, aspect="auto", extent=extent)
    outline = withStroke(linewidth=3.5, foreground="white")
    ends = [0, *(np.flatnonzero(np.diff(true)) + 1), len(true)]
    for first, after in itertools.pairwise(ends):
        ax.hlines(
            true[first],
            first + 0.5,
            after + 0.5,
            color=COLOURS[1],
            linewidth=2,
            path_effects=[outline],
        )
    labels = list(names) if names else [str(k) for k in range(shown.shape[1])]
    ax.set_yticks(range(shown.shape[1]), labels, size=SIZE)
    return finish(ax, **options)


def likelihood(
    log_likelihood: ArrayLike, ax: Ax = None, *, names: Names = None, **options: Unpack[Options]
) -> Axes:
    """Draw the likelihood of each task over time from log p(x_t | z_t = k), (T, K).

    Of many tasks ``task_heatmap`` is easier to read.

    >>> [line.get_label() for line in likelihood([[0.0, -1.0], [-1.0, 0.0]]).lines]
    ['task 0', 'task 1']
    """
    ax = new_axes(ax, "step", "likelihood p(x | task)")
    draw_task_lines(ax, np.exp(checked_array("log_likelihood", log_likelihood, "T", "K")), names)
    return finish(ax, **options)


def gradients(
    values: ArrayLike,
    z: ArrayLike,
    ax: Ax = None,
    *,
    names: Names = None,
    **options: Unpack[Options],
) -> Axes:
    """Draw the gradient on each task unit, (T, K) in nats, and where the task z, (T,), switches.

    >>> len(gradients([[1.0, -1.0], [-2.0, 2.0]], [0, 1]).lines)  # 2 units, zero, a switch
    4
    """
    values = checked_array("values", values, "T", "K")
    ax = new_axes(ax, "step", "gradient on z (nats)")
    draw_task_lines(ax, values, names)
    ax.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    switches = np.flatnonzero(np.diff(checked_array("z", z, len(values)))) + 1.5
    for i, switch in enumerate(switches):
        line: dict[str, Any] = {"linestyle": (0, (5, 3)), "linewidth": 1, "zorder": 0}
        ax.axvline(switch, color="0.6", label="" if i else "switch", **line)
    return finish(ax, **options)
