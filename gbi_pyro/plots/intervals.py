"""Quantities side by side, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from gbi_pyro.plots.style import MARKERS, Ax, Curves, checked_array, finish, line_style, new_axes


def plot_intervals(
    names: Sequence[str],
    estimates: Curves,
    ax: Ax = None,
    *,
    xlabel: str,
    reference: float | None = 0.0,
) -> Axes:
    """Draw estimates with intervals by name, (M, 3) of estimate, low and high, a line for each.

    ``names`` are those of the M things; ``reference`` is a value to read them against, None for
    none.

    >>> ax = plot_intervals(["a", "b"], {"gain": [[1, 0, 2], [3, 2, 4]]}, xlabel="gain (nats)")
    >>> [tick.get_text() for tick in ax.get_yticklabels()]
    ['a', 'b']
    """
    rows = np.arange(len(names), dtype=float)
    ax = new_axes(ax, xlabel, "", size=(6.4, 1.0 + 0.42 * len(names)))
    if reference is not None:
        ax.axvline(reference, color="0.3", linestyle=":", linewidth=1)
    for i, (label, values) in enumerate(estimates.items()):
        middle, low, high = checked_array(f"estimates[{label!r}]", values, len(names), 3).T
        shift = 0.7 / len(estimates) * (i - (len(estimates) - 1) / 2)
        ax.errorbar(
            middle,
            rows + shift,
            xerr=[middle - low, high - middle],
            label=label,
            marker=MARKERS[i % len(MARKERS)],
            markersize=4,
            capsize=2,
            color=line_style(i)["color"],
            linestyle="none",
        )
    ax.set_yticks(rows, list(names), size=8)
    ax.set_ylim(len(names) - 0.5, -0.5)
    return finish(ax)
