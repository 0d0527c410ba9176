"""Where true tasks rank in their posteriors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gbi_pyro.plots.style import BAND, Ax, checked_array, finish, line_style, new_axes
from gbi_pyro.plots.tables import columns


def plot_ranks(tables: Mapping[str, Any], ax: Ax = None) -> Axes:
    """Draw how true tasks rank in their posteriors: flat within the band if calibrated.

    High on the left: tasks are truer than said, the posterior is not sure enough. High on the
    right: it is too sure.

    Args:
        tables: by name what ``gbi_pyro.metrics.ranks.rank_histogram`` returns, for the same
            bins; the band is the first one's.
        ax: where to draw.

    >>> table = {"low": [0.0, 0.5], "high": [0.5, 1.0], "share": [0.6, 0.4]}
    >>> band = {"band_low": [0.4, 0.4], "band_high": [0.6, 0.6]}
    >>> plot_ranks({"one step": table | band}).get_ylabel()
    'share of true tasks'
    """
    ax = new_axes(ax, "probability ranked before the true task", "share of true tasks", (4.4, 3.2))
    edges = np.empty(0)
    for i, (label, table) in enumerate(tables.items()):
        wanted = "low", "high", "share", "band_low", "band_high"
        low, high, share, band_low, band_high = columns(f"tables[{label!r}]", table, *wanted)
        if i == 0:
            edges = np.append(low, high[-1:])
            ax.stairs(band_high, edges, baseline=band_low, fill=True, label="calibrated", **BAND)
            ax.stairs(
                (high - low) / (high - low).sum(), edges, baseline=None, color="0.5", linestyle=":"
            )
        checked_array(f"tables[{label!r}].low", low, len(edges) - 1)
        ax.stairs(share, edges, label=label, baseline=None, linewidth=1.5, **line_style(i))
    ax.set_xlim(0, 1)
    ax.set_ylim(bottom=0)
    return finish(ax)
