"""The figure of the baselines study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gbi_pyro import plots
from gbi_pyro.metrics.intervals import student_interval
from studies.baselines.measure import EXACT, METHODS, Scores
from studies.core.style import STYLES

TINY = 1e-12  # nats: a logarithm needs more than none


def draw_baselines(found: Mapping[str, Mapping[str, Sequence[Scores]]]) -> Figure:
    """Draw accuracies, and divergences from enumeration: means over seeds with 95 % intervals.

    Args:
        found: by network and method, one a seed.
    """
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    accuracies = {
        network: [student_interval([s.accuracy for s in by_method[m]])[:3] for m in METHODS]
        for network, by_method in found.items()
    }
    shared: dict[str, Any] = {"reference": None, "styles": STYLES}
    label = "accuracy on test images"
    plots.intervals(
        METHODS, accuracies, left, xlabel=label, better="higher", title="A   Accuracy", **shared
    )
    methods = [method for method in METHODS if method != EXACT]
    divergences = {
        network: [_geometric([s.tempered_kl for s in by_method[m]]) for m in methods]
        for network, by_method in found.items()
    }
    label = "KL(enumeration || it), tempered, geometric mean (nats)"
    plots.intervals(
        methods, divergences, right, xlabel=label, better="lower", title="B   Divergence", **shared
    )
    right.set_xscale("log")
    return figure


def _geometric(values: Sequence[float]) -> tuple[float, ...]:
    logs = np.log(np.maximum(values, TINY))
    return tuple(float(np.exp(v)) for v in student_interval(logs)[:3])
