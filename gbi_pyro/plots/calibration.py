"""Calibration: reliability, credible sets, risk against coverage, ranks of the true task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gbi_pyro.plots._style import BAND, Ax, checked_array, finish, line_style, new_axes
from gbi_pyro.plots._tables import columns, draw_shares, square_axes


def reliability(tables: Mapping[str, Any], ax: Ax = None) -> Axes:
    """Draw accuracy, with its intervals, against confidence, bin by bin.

    Args:
        tables: by name what ``gbi_pyro.metrics.reliability.reliability_table`` returns, with
            bins of equal width or mass.
        ax: where to draw.

    >>> table = {"confidence": [0.6, 0.9], "accuracy": [0.5, 0.8]}
    >>> ends = {"accuracy_low": [0.3, 0.7], "accuracy_high": [0.7, 0.9]}
    >>> reliability({"one step": table | ends}).get_ylabel()
    'accuracy'
    """
    ax = square_axes(ax, "confidence", "accuracy", "calibrated")
    for i, (label, table) in enumerate(tables.items()):
        wanted = "confidence", "accuracy", "accuracy_low", "accuracy_high"
        confidence, *shares = columns(f"tables[{label!r}]", table, *wanted)
        draw_shares(ax, i, label, confidence, shares)
    return finish(ax)


def credible_coverage(tables: Mapping[str, Any], ax: Ax = None) -> Axes:
    """Draw how often credible sets hold the true task against the probability that they claim.

    The claim is the mean probability of the sets, which exceeds the nominal level: a set of tasks
    seldom has that probability exactly.

    Args:
        tables: by name what ``gbi_pyro.metrics.credible.credible_coverage`` returns.
        ax: where to draw.

    >>> table = {"claimed": [0.6, 0.9], "coverage": [0.5, 0.8]}
    >>> ends = {"coverage_low": [0.3, 0.7], "coverage_high": [0.7, 0.9]}
    >>> credible_coverage({"one step": table | ends}).get_xlabel()
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


def risk_coverage(curves: Mapping[str, Any], ax: Ax = None) -> Axes:
    """Draw the share of wrong answers among those given, the surest first.

    Args:
        curves: by name what ``gbi_pyro.metrics.selective.risk_coverage`` returns.
        ax: where to draw.

    >>> risk_coverage({"one step": {"coverage": [0.5, 1.0], "risk": [0.0, 0.1]}}).get_xlabel()
    'share of elements answered'
    """
    ax = new_axes(ax, "share of elements answered", "share of them wrong", size=(4.4, 3.2))
    for i, (label, curve) in enumerate(curves.items()):
        coverage, risk = columns(f"curves[{label!r}]", curve, "coverage", "risk")
        ax.plot(coverage, risk, label=label, **line_style(i))
    ax.set_xlim(0, 1)
    ax.set_ylim(bottom=0)
    return finish(ax)


def ranks(tables: Mapping[str, Any], ax: Ax = None) -> Axes:
    """Draw how true tasks rank in their posteriors: flat within the band if calibrated.

    High on the left: tasks are truer than said, the posterior is not sure enough. High on the
    right: it is too sure.

    Args:
        tables: by name what ``gbi_pyro.metrics.ranks.rank_histogram`` returns, for the same
            bins; the band is the first one's.
        ax: where to draw.

    >>> table = {"low": [0.0, 0.5], "high": [0.5, 1.0], "share": [0.6, 0.4]}
    >>> band = {"band_low": [0.4, 0.4], "band_high": [0.6, 0.6]}
    >>> ranks({"one step": table | band}).get_ylabel()
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
