"""Calibration: reliability, credible sets, risk against coverage, ranks of the true task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
from matplotlib.axes import Axes

from gbi_pyro.plots._axes import (
    BAND,
    LEVEL,
    Ax,
    Options,
    checked_array,
    columns_of,
    finish,
    new_axes,
)
from gbi_pyro.plots._style import Styles, style_of


def reliability(
    tables: Mapping[str, Any], ax: Ax = None, *, styles: Styles = None, **options: Unpack[Options]
) -> Axes:
    """Draw accuracy, with its intervals, against confidence, bin by bin.

    Args:
        tables: by name what ``gbi_pyro.metrics.reliability.reliability_table`` returns, with
            bins of equal width or mass.
        ax, styles, options: see the package.

    >>> table = {"confidence": [0.6, 0.9], "accuracy": [0.5, 0.8]}
    >>> ends = {"accuracy_low": [0.3, 0.7], "accuracy_high": [0.7, 0.9]}
    >>> reliability({"one step": table | ends}).get_ylabel()
    'accuracy'
    """
    ax = _square_axes(ax, "confidence", "accuracy")
    for i, (label, table) in enumerate(tables.items()):
        wanted = "confidence", "accuracy", "accuracy_low", "accuracy_high"
        confidence, *shares = columns_of(f"tables[{label!r}]", table, *wanted)
        _draw_shares(ax, i, label, confidence, shares, styles)
    return finish(ax, **options)


def credible_coverage(
    tables: Mapping[str, Any], ax: Ax = None, *, styles: Styles = None, **options: Unpack[Options]
) -> Axes:
    """Draw the coverage of credible sets of tasks against the probability that they claim.

    The claim is the mean probability of the sets, which exceeds the nominal level: a set of tasks
    seldom has that probability exactly.

    Args:
        tables: by name what ``gbi_pyro.metrics.credible.credible_coverage`` returns.
        ax, styles, options: see the package.

    >>> table = {"claimed": [0.6, 0.9], "coverage": [0.5, 0.8]}
    >>> ends = {"coverage_low": [0.3, 0.7], "coverage_high": [0.7, 0.9]}
    >>> credible_coverage({"one step": table | ends}).get_xlabel()
    'probability of the credible set'
    """
    ax = _square_axes(ax, "probability of the credible set", "coverage: share with the true task")
    lowest = 1.0
    for i, (label, table) in enumerate(tables.items()):
        wanted = "claimed", "coverage", "coverage_low", "coverage_high"
        claimed, *shares = columns_of(f"tables[{label!r}]", table, *wanted)
        _draw_shares(ax, i, label, claimed, shares, styles)
        lowest = min(lowest, claimed.min(initial=1.0), shares[1].min(initial=1.0))
    start = np.floor(10 * lowest) / 10 - 0.02  # sets seldom claim little
    ax.set(xlim=(start, 1.02), ylim=(start, 1.02))
    return finish(ax, **options)


def risk_coverage(
    curves: Mapping[str, Any], ax: Ax = None, *, styles: Styles = None, **options: Unpack[Options]
) -> Axes:
    """Draw the share of errors among the elements answered, the most confident first.

    Args:
        curves: by name what ``gbi_pyro.metrics.selective.risk_coverage`` returns.
        ax, styles, options: see the package.

    >>> risk_coverage({"one step": {"coverage": [0.5, 1.0], "risk": [0.0, 0.1]}}).get_xlabel()
    'coverage: share of elements answered'
    """
    labels = "coverage: share of elements answered", "risk: share of them wrong"
    ax = new_axes(ax, *labels, size=(4.4, 3.2))
    for i, (label, curve) in enumerate(curves.items()):
        coverage, risk = columns_of(f"curves[{label!r}]", curve, "coverage", "risk")
        ax.plot(coverage, risk, label=label, **style_of(styles, label, i).line)
    ax.set_xlim(0, 1)
    ax.set_ylim(bottom=0)
    return finish(ax, **options)


def ranks(
    tables: Mapping[str, Any], ax: Ax = None, *, styles: Styles = None, **options: Unpack[Options]
) -> Axes:
    """Draw the ranks of true tasks in their posteriors: flat within the band if calibrated.

    High on the left, the posterior is underconfident; high on the right, overconfident.

    Args:
        tables: by name what ``gbi_pyro.metrics.ranks.rank_histogram`` returns, for the same
            bins; the band is the first one's.
        ax, styles, options: see the package.

    >>> table = {"low": [0.0, 0.5], "high": [0.5, 1.0], "share": [0.6, 0.4]}
    >>> band = {"band_low": [0.4, 0.4], "band_high": [0.6, 0.6]}
    >>> ranks({"one step": table | band}).get_ylabel()
    'share of true tasks'
    """
    ax = new_axes(ax, "probability ranked before the true task", "share of true tasks", (4.4, 3.2))
    edges = np.empty(0)
    for i, (label, table) in enumerate(tables.items()):
        wanted = "low", "high", "share", "band_low", "band_high"
        low, high, share, band_low, band_high = columns_of(f"tables[{label!r}]", table, *wanted)
        if i == 0:
            edges = np.append(low, high[-1:])
            ax.stairs(band_high, edges, baseline=band_low, fill=True, label="calibrated", **BAND)
            ax.stairs((high - low) / (high - low).sum(), edges, baseline=None, **LEVEL)
        checked_array(f"tables[{label!r}].low", low, len(edges) - 1)
        ax.stairs(share, edges, label=label, baseline=None, **style_of(styles, label, i).line)
    ax.set_xlim(0, 1)
    ax.set_ylim(bottom=0)
    return finish(ax, **options)


def _square_axes(ax: Ax, xlabel: str, ylabel: str) -> Axes:
    """Return axes from 0 to 1 with the line on which both are equal."""
    ax = new_axes(ax, xlabel, ylabel, size=(3.9, 3.8))
    ax.plot([0, 1], [0, 1], label="calibrated", zorder=0, **LEVEL)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    return ax


def _draw_shares(
    ax: Axes, i: int, label: str, x: np.ndarray, rows: list[np.ndarray], styles: Styles
) -> None:
    """Draw shares, low and high ends of their intervals, at x, as the i-th curve."""
    share, low, high = rows
    # An end may pass the share by rounding; a bar of negative length is an error.
    bars = np.maximum([share - low, high - share], 0)
    style = style_of(styles, label, i)
    ax.errorbar(x, share, bars, label=label, **style.points | style.line)
