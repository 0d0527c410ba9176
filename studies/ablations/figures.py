"""The figures of the study of controls, from its results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gbi_pyro import plots
from gbi_pyro.metrics.intervals import student_interval
from gbi_pyro.metrics.modularity import THRESHOLDS
from gbi_pyro.metrics.intervals import paired_bootstrap
from studies.ablations import rivals
from studies.ablations.forgetting import Schedule
from studies.ablations.generalisation import AS_TRAINED, MOVED
from studies.ablations.task_inputs import CONTROLS, KINDS, NONE, SAME_START, TRUE
from studies.ablations.rows import NAMES, forgotten
from studies.toy.training import CHECK_EVERY

Found = Mapping[str, Any]
LABELS = {**NAMES, SAME_START: "plain, same start"}  # which a legend has room for
TINY = 1e-12  # nats; a divergence of zero has no logarithm


def figure_inputs(folder: Path, found: Mapping[str, Found], undecayed: Mapping[str, Found]) -> Path:
    """Draw learning, shared units and unseen means with each kind of task input (T4, T6, T9).

    Args:
        folder: where to.
        found: by kind.
        undecayed: the same of networks trained without weight decay, whose unseen means are shown.
    """
    figure = Figure(figsize=(13, 8.4), layout="constrained")
    figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr,call-arg]
    (learning, units), unseen = figure.subplots(2, 2)
    curves = {LABELS[kind]: found[kind]["validation"] for kind in KINDS}
    plots.curves(
        curves,
        learning,
        1.0,
        x=_checks(curves),
        xlabel="weight update",
        ylabel="error / noise floor",
        log=True,
    )
    shared = {LABELS[kind]: found[kind]["modularity"]["shared"] for kind in KINDS}
    plots.curves(
        shared,
        units,
        x=np.array(THRESHOLDS),
        xlabel="threshold on a unit's variance",
        ylabel="ratio of shared units",
    )
    titles = ("weight decay as in the study", "no weight decay")
    for ax, by_kind, title in zip(unseen, (found, undecayed), titles, strict=True):
        _draw_unseen(ax, by_kind)
        ax.set_xlabel(f"mean squared error, unseen means; {title}")
    low, high = zip(*(ax.get_xlim() for ax in unseen), strict=True)
    for ax in unseen:
        ax.set_xlim(min(low), max(high))
    return plots.save_figure(figure, folder, "inputs")


def _draw_unseen(ax: Axes, found: Mapping[str, Found]) -> None:
    errors = {kind: found[kind]["generalisation"] for kind in KINDS}
    nothing = (np.nan,) * 3  # where a network has no such way
    estimates = {
        way: [
            student_interval(errors[kind][way]["block"])[:3] if way in errors[kind] else nothing
            for kind in KINDS
        ]
        for way in (AS_TRAINED, MOVED)
    }
    plots.intervals([LABELS[kind] for kind in KINDS], estimates, ax, xlabel="", reference=None)


def figure_forgetting(folder: Path, found: Mapping[Schedule, Found]) -> Path:
    """Draw how many times more is forgotten without Z, by schedule and rate (T7)."""
    rates = list(dict.fromkeys(schedule.rate for schedule in found))
    figure = Figure(figsize=(7 * len(rates), 4.4), layout="constrained")
    for rate, ax in zip(rates, np.atleast_1d(figure.subplots(1, len(rates))), strict=True):
        of_rate = {s: result for s, result in found.items() if s.rate == rate}
        estimates = {
            LABELS[kind]: [_ratio(result, kind) for result in of_rate.values()]
            for kind in (TRUE, *CONTROLS, SAME_START)
        }
        names = [f"{s.steps} x {s.blocks}" for s in of_rate]
        label = f"error forgotten, plain LSTM / with Z; rate {rate:g}"
        plots.intervals(names, estimates, ax, xlabel=label, reference=1.0)
        ax.set_xscale("log")
        ax.set_ylabel("steps of a block x blocks")
    return plots.save_figure(figure, folder, "forgetting")


def figure_conditioners(folder: Path, found: Mapping[str, Found]) -> Path:
    """Draw how networks of one size learn and infer, by the way they are told (C5)."""
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    learning, divergence = figure.subplots(1, 2)
    curves = {way: result["validation"] for way, result in found.items()}
    plots.curves(
        curves,
        learning,
        1.0,
        x=_checks(curves),
        xlabel="weight update",
        ylabel="error / noise floor",
        log=True,
    )
    estimates = {
        name: [_log_interval(result["divergence"][name]) for result in found.values()]
        for name in next(iter(found.values()))["divergence"]
    }
    label = "filtered KL to the exact posterior, geometric mean (nats)"
    plots.intervals(list(found), estimates, divergence, xlabel=label, reference=None)
    divergence.set_xscale("log")
    return plots.save_figure(figure, folder, "conditioners")


def figure_rivals(folder: Path, found: Found) -> Path:
    """Draw how often rivals name the task of an image, and how far from enumeration they are."""
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    named, divergence = figure.subplots(1, 2)
    right = {
        kind: [student_interval(found[kind][m][rivals.ACCURACY])[:3] for m in rivals.METHODS]
        for kind in rivals.KINDS
    }
    label = "share of test images named right"
    plots.intervals(rivals.METHODS, right, named, xlabel=label, reference=None)
    methods = [method for method in rivals.METHODS if method != rivals.EXACT]
    estimates = {
        kind: [_log_interval(found[kind][m][rivals.KL_TEMPERED]) for m in methods]
        for kind in rivals.KINDS
    }
    label = "KL(enumeration || it), tempered, geometric mean (nats)"
    plots.intervals(methods, estimates, divergence, xlabel=label, reference=None)
    divergence.set_xscale("log")
    return plots.save_figure(figure, folder, "rivals")


def _checks(curves: Mapping[str, Any]) -> np.ndarray:
    return CHECK_EVERY * (1.0 + np.arange(np.shape(next(iter(curves.values())))[-1]))


def _ratio(result: Found, kind: str) -> tuple[float, ...]:
    found = paired_bootstrap(np.log(forgotten(result, NONE)), np.log(forgotten(result, kind)))
    return tuple(float(np.exp(v)) for v in found[:3])


def _log_interval(values: list[float]) -> tuple[float, ...]:
    logs = np.log(np.maximum(values, TINY))
    return tuple(float(np.exp(v)) for v in student_interval(logs)[:3])
