"""Credible sets of tasks: what they claim against what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gbi_pyro.plots.style import Ax, finish
from gbi_pyro.plots.tables import columns, draw_shares, square_axes


def plot_credible_coverage(tables: Mapping[str, Any], ax: Ax = None) -> Axes:
    """Draw how often credible sets hold the true task against the probability that they claim.

    The claim is the mean probability of the sets, which exceeds the nominal level: a set of tasks
    seldom has that probability exactly.

    Args:
        tables: by name what ``gbi_pyro.metrics.credible.credible_coverage`` returns.
        ax: where to draw.

    >>> table = {"claimed": [0.6, 0.9], "coverage": [0.5, 0.8]}
    >>> ends = {"coverage_low": [0.3, 0.7], "coverage_high": [0.7, 0.9]}
    >>> plot_credible_coverage({"one step": table | ends}).get_xlabel()
    'probability of the credible set'
    """
    ax = square_axes(ax, "probability of the credible set", "true task in it", "calibrated")
    lowest = 1.0
    for i, (label, table) in enumerate(tables.items()):
        wanted = "claimed", "coverage", "coverage_low", "coverage_high"
        claimed, *shares = columns(f"tables[{label!r}]", table, *wanted)
        draw_shares(ax, i, label, claimed, shares)
        lowest = min(lowest, claimed.min(initial=1.0), shares[1].min(initial=1.0))
    start = np.floor(10 * lowest) / 10 - 0.02  # sets seldom claim little
    ax.set(xlim=(start, 1.02), ylim=(start, 1.02))
    return finish(ax)
