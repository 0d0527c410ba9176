"""Posterior predictive checks: statistics of the data against those of replicated data."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from gbi_pyro.plots._axes import BAND, Ax, Options, checked_array, finish, new_axes
from gbi_pyro.plots._style import BY_POSITION, Style

OBSERVED = Style(BY_POSITION[1].colour, width=2.0)
REPLICATED = Style("0.45", (0, (4, 1)), width=1.0)
BINS = 30


def predictive_check(
    observed: ArrayLike,
    replicated: ArrayLike,
    ax: Ax = None,
    *,
    xlabel: str = "statistic",
    **options: Unpack[Options],
) -> Axes:
    """Draw how a statistic is distributed over replicated data, and where the data have it.

    Args:
        observed: its value, one number, or, of latent variables, one for each draw, (draws,).
        replicated: its values in replicated data, (draws,); see
            ``gbi_pyro.metrics.predictive_check``. Those that are not finite are left out.
        ax, xlabel, options: see the package.

    >>> predictive_check(3.0, [1.0, 2.0, 2.0, 4.0], xlabel="switches").get_ylabel()
    'share of draws'
    """
    drawn = checked_array("replicated", replicated, "draws")
    ours = np.asarray(observed, dtype=float)
    if ours.ndim:
        ours = checked_array("observed", ours, len(drawn))
    both = [values[np.isfinite(values)] for values in (drawn, ours)]
    if not all(len(np.atleast_1d(values)) for values in both):
        raise ValueError("observed and replicated should have a finite value; got none")
    edges = _edges(np.concatenate([np.ravel(values) for values in both]))
    ax = new_axes(ax, xlabel, "share of draws", size=(4.2, 2.8))
    area: dict[str, Any] = {"fill": True, "facecolor": "0.8", "edgecolor": REPLICATED.colour}
    ax.stairs(_shares(both[0], edges), edges, label="replicated", **area)
    if ours.ndim:
        ax.stairs(_shares(both[1], edges), edges, label="observed", **OBSERVED.line)
    else:
        ax.axvline(float(ours), label="observed", **OBSERVED.line)
    ax.set_ylim(bottom=0)
    return finish(ax, **options)


def autocorrelation(
    observed: ArrayLike,
    replicated: ArrayLike | None = None,
    ax: Ax = None,
    *,
    level: float = 0.95,
    xlabel: str = "lag (steps)",
    **options: Unpack[Options],
) -> Axes:
    """Draw the autocorrelation of the data, and where replicated data have theirs.

    Args:
        observed: at lags 0, 1, ..., (lags,), as ``gbi_pyro.metrics.autocorrelation`` returns it.
        replicated: of replicated data, (draws, lags).
        level: what share of the draws lies in the band, lag by lag.
        ax, xlabel, options: see the package.

    >>> autocorrelation([1.0, 0.4], [[1.0, 0.3], [1.0, 0.5]]).get_ylabel()
    'autocorrelation'
    """
    ours = checked_array("observed", observed, "lags")
    if not 0 < level < 1:
        raise ValueError(f"level should be between 0 and 1; got {level}: try 0.95")
    ax, lags = new_axes(ax, xlabel, "autocorrelation", size=(4.8, 2.8)), np.arange(1, len(ours))
    if replicated is not None:
        drawn = checked_array("replicated", replicated, "draws", len(ours))[:, 1:]
        low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2], axis=0)
        ax.fill_between(lags, low, high, label=f"replicated, {100 * level:g} % of draws", **BAND)
        ax.plot(lags, np.median(drawn, 0), label="their median", **REPLICATED.line)
    ax.plot(lags, ours[1:], marker="o", markersize=3, label="observed", **OBSERVED.line)
    ax.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    ax.locator_params(axis="x", integer=True)
    return finish(ax, **options)


def _edges(values: np.ndarray) -> np.ndarray:
    """Return edges of bins; whole numbers lie in the middle of theirs."""
    low, high = values.min(), values.max()
    if np.all(values == np.round(values)):
        width = max(1.0, np.ceil((high - low + 1) / BINS))
        return np.arange(low - 0.5, high + width, width)
    return np.linspace(low, high, BINS + 1)


def _shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.histogram(values, edges)[0] / len(values)
