"""The figures of the ablations, from their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gbi_pyro import plots
from gbi_pyro.metrics.intervals import paired_bootstrap, student_interval
from gbi_pyro.representation.units import THRESHOLDS
from studies.ablations.conditioners import ConditionerSeed
from studies.ablations.forgetting import ForgettingSeed, Schedule
from studies.ablations.gains import first_below
from studies.ablations.generalisation import AS_TRAINED, MOVED
from studies.ablations.inputs import InputSeed
from studies.ablations.table import NAMES, NEAR, ByInput, forgotten
from studies.ablations.task_inputs import CONTROLS, NONE, SAME_START, TRUE
from studies.core.sequence_training import CHECK_EVERY
from studies.core.style import STYLES

LABELS = {**NAMES, SAME_START: "plain, same start"}
ORDER = (TRUE, NONE, SAME_START, *CONTROLS)
POOLED = "mean of the four controls"
TINY = 1e-12  # nats; a divergence of zero has no logarithm


def figure_inputs(found: ByInput, undecayed: ByInput) -> Figure:
    """Draw learning, shared units and unseen means with each kind of task input (T4, T6, T9).

    Args:
        found: by kind.
        undecayed: the same of networks trained without weight decay, whose unseen means are shown.
    """
    figure = Figure(figsize=(12, 8.6), layout="constrained")
    (learning, units), unseen = figure.subplots(2, 2)
    curves = _with_pooled_controls(
        {kind: np.stack([r.validation for r in found[kind]]) for kind in ORDER}
    )
    plots.curves(
        curves,
        learning,
        1.0,
        x=CHECK_EVERY * np.arange(1, curves[LABELS[TRUE]].shape[-1] + 1),
        xlabel="weight update",
        ylabel="error / noise floor",
        log=True,
        styles=STYLES,
        title="A   Learning with each kind of task input",
        better="lower",
    )
    learning.set_yticks([1, 2, 4], ["1", "2", "4"])
    learning.set_yticks([], minor=True)
    plots.curves(
        _with_pooled_controls(
            {kind: np.stack([r.units.shared for r in found[kind]]) for kind in ORDER}
        ),
        units,
        x=np.array(THRESHOLDS),
        xlabel="threshold on a unit's variance",
        ylabel="units engaged in both tasks (fraction)",
        styles=STYLES,
        title="B   Units that the tasks share",
    )
    titles = (
        "C   Frozen networks on unseen means",
        "D   The same, trained without weight decay",
    )
    for ax, by_kind, title in zip(unseen, (found, undecayed), titles, strict=True):
        _draw_unseen(ax, by_kind, title)
    low, high = zip(*(ax.get_xlim() for ax in unseen), strict=True)
    for ax in unseen:
        ax.set_xlim(min(low), max(high))
    return figure


def _with_pooled_controls(by_kind: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Name the curves; those of the controls, which lie on one another, become one."""
    curves = {LABELS[kind]: by_kind[kind] for kind in ORDER if kind not in CONTROLS}
    return {**curves, POOLED: np.mean([by_kind[kind] for kind in CONTROLS], 0)}


def _draw_unseen(ax: Axes, found: ByInput, title: str) -> None:
    def interval(of_seeds: Sequence[InputSeed], way: str) -> tuple[float, ...]:
        if way not in of_seeds[0].unseen:  # the true task of an unseen mean does not exist
            return (np.nan,) * 3
        return student_interval([record.unseen[way].block for record in of_seeds])[:3]

    plots.intervals(
        [LABELS[kind] for kind in ORDER],
        {way: [interval(found[kind], way) for kind in ORDER] for way in (AS_TRAINED, MOVED)},
        ax,
        xlabel="mean squared error, mean and 95 % interval",
        reference=None,
        styles=STYLES,
        title=title,
        better="lower",
    )
    ax.get_yticklabels()[0].set(color=STYLES[LABELS[TRUE]].colour, fontweight="bold")


def figure_forgetting(found: Mapping[Schedule, Sequence[ForgettingSeed]]) -> Figure:
    """Draw how many times more is forgotten without Z, by schedule and rate (T7)."""
    rates = list(dict.fromkeys(schedule.rate for schedule in found))
    figure = Figure(figsize=(6 * len(rates), 5), layout="constrained")
    panels = figure.subplots(1, len(rates), squeeze=False, sharex=True, sharey=True)[0]
    for letter, rate, ax in zip("ABCDEF", rates, panels, strict=False):
        of_rate = {s: of_seeds for s, of_seeds in found.items() if s.rate == rate}
        plots.intervals(
            [f"{s.blocks} blocks of {s.steps} steps" for s in of_rate],
            {
                LABELS[kind]: [_ratio(of_seeds, kind) for of_seeds in of_rate.values()]
                for kind in (TRUE, SAME_START, *CONTROLS)
            },
            ax,
            xlabel="error of the plain LSTM / error with Z on the earlier task",
            reference=1.0,
            styles=STYLES,
            title=f"{letter}   What is kept of an earlier task, rate {rate:g}",
            better="higher",
        )
        ax.set_xscale("log")
        ax.tick_params(labelleft=True)
    return figure


def figure_conditioners(found: Mapping[str, Sequence[ConditionerSeed]]) -> Figure:
    """Draw how networks of one size learn and infer, by the way the task enters (C5)."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    learning, divergence = figure.subplots(1, 2, sharey=True)
    updates = [
        first_below([record.validation for record in of_seeds], NEAR, CHECK_EVERY)[0]
        for of_seeds in found.values()
    ]
    plots.intervals(
        list(found),
        {"true Z": [student_interval(values)[:3] for values in updates]},
        learning,
        xlabel="weight updates to within 2 % of the noise floor",
        reference=None,
        styles=STYLES,
        title="A   Learning of networks of one size (95 % intervals)",
        better="lower",
    )
    plots.intervals(
        list(found),
        {
            name: [_log_interval([r.divergence[name] for r in rs]) for rs in found.values()]
            for name in next(iter(found.values()))[0].divergence
        },
        divergence,
        xlabel="filtered KL to the exact posterior, geometric mean (nats)",
        reference=None,
        styles=STYLES,
        title="B   Inference with them",
        better="lower",
    )
    divergence.set_xscale("log")
    divergence.tick_params(labelleft=True)
    return figure


def _ratio(of_seeds: Sequence[ForgettingSeed], kind: str) -> tuple[float, ...]:
    plain, other = (np.log(forgotten(of_seeds, k)) for k in (NONE, kind))
    return tuple(float(np.exp(v)) for v in paired_bootstrap(plain, other)[:3])


def _log_interval(values: list[float]) -> tuple[float, ...]:
    logs = np.log(np.maximum(values, TINY))
    return tuple(float(np.exp(v)) for v in student_interval(logs)[:3])
