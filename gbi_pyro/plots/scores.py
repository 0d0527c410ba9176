"""Out-of-distribution scores: histograms and ROC curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from gbi_pyro.plots._axes import Ax, Options, checked_array, finish, new_axes
from gbi_pyro.plots._style import Styles, style_of


def histograms(
    inliers: ArrayLike,
    outliers: ArrayLike,
    ax: Ax = None,
    *,
    xlabel: str = "score",
    **options: Unpack[Options],
) -> Axes:
    """Draw how a score is distributed over inliers, (N,), and outliers, (M,).

    >>> histograms([0.0, 1.0], [2.0, 3.0]).get_ylabel()
    'share of elements'
    """
    groups = {"in distribution": np.ravel(inliers), "out of distribution": np.ravel(outliers)}
    both = np.concatenate(list(groups.values())).astype(float)
    # A few extreme scores must not squeeze all others into one bin.
    low, high = np.quantile(both[np.isfinite(both)], [0.005, 0.995])
    edges = np.linspace(low, high, 41)
    ax = new_axes(ax, xlabel, "share of elements", size=(4.2, 3.2))
    for i, (name, values) in enumerate(groups.items()):
        counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
        ax.stairs(counts / len(values), edges, label=name, **style_of(None, name, i).line)
    return finish(ax, **options)


def roc(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    ax: Ax = None,
    *,
    styles: Styles = None,
    **options: Unpack[Options],
) -> Axes:
    """Draw true against false positive rates, (N,) each, by name of the score.

    >>> roc({"maximum": ([0.0, 0.1, 1.0], [0.0, 0.9, 1.0])}).get_xlabel()
    'false positive rate'
    """
    ax = new_axes(ax, "false positive rate", "true positive rate", size=(3.8, 3.6))
    for i, (name, (false, true)) in enumerate(curves.items()):
        rates = checked_array("false positive rates", false, "N")
        found = checked_array("true positive rates", true, len(rates))
        ax.plot(rates, found, label=name, **style_of(styles, name, i).line)
    ax.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, zorder=0)
    ax.set_aspect("equal")
    return finish(ax, **options)
