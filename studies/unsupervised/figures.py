"""Figures of the study, from its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase

import numpy as np
from matplotlib.figure import Figure

from gbi_pyro import plots
from studies.core.style import STYLES
from studies.unsupervised.batch import ChosenNumber
from studies.unsupervised.config import NOISY, USUAL
from studies.unsupervised.labels import CLAMPED, FOUND_FIRST, FRACTIONS, HMM, LabelsSeed
from studies.unsupervised.online import BIN, EXACT, UNLABELLED, OnlineSeed
from studies.unsupervised.streams import MEANS, Condition


def draw_online(found: Mapping[Condition, Sequence[OnlineSeed]]) -> Figure:
    """Draw one stream as it is learned, and the accuracy step by step over seeds."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplot_mosaic("AA;BB;CD")
    steps = found[Condition(2, NOISY)][0].first_steps
    plots.stream(
        *(steps.x, steps.z, MEANS[2], axes["A"]),
        prediction=steps.mean,
        title=f"A   A stream of noise {NOISY:g}, predicted without labels from its past",
    )
    plots.task_probs(
        *(steps.filtered, steps.exact, steps.z, 1, axes["B"]),
        title="B   The filter learned without labels, and the exact one",
    )
    for letter, sigma in zip("CD", (USUAL, NOISY), strict=True):
        records = found[Condition(2, sigma)]
        curves = {name: np.stack([r.curves[name] for r in records]) for name in (EXACT, UNLABELLED)}
        plots.curves(
            *(curves, axes[letter]),
            x=BIN * (np.arange(curves[EXACT].shape[-1]) + 0.5),
            xlabel="step of the stream",
            ylabel="Z accuracy",
            styles=STYLES,
            title=f"{letter}   Noise {sigma:g}",
        )
    axes["D"].sharey(axes["C"])
    return figure


def draw_labels(found: Mapping[Condition, Sequence[LabelsSeed]]) -> Figure:
    """Draw each data set's divergence from the exact filter by fraction of the labels, K = 5."""
    cases = {c: records for c, records in found.items() if c.num_tasks == 5}
    figure = Figure(figsize=(4 * len(cases), 3.6), layout="constrained")
    panels = figure.subplots(1, len(cases), sharey=True, squeeze=False)[0]
    at = np.arange(len(FRACTIONS), dtype=float)
    for letter, ax, (c, records) in zip(ascii_uppercase, panels, cases.items(), strict=False):
        curves = {
            method: [[r.divergence[method].get(f, np.nan) for f in FRACTIONS] for r in records]
            for method in (FOUND_FIRST, CLAMPED, HMM)
        }
        plots.every_seed(
            *(at, curves, ax),
            xlabel="labels known",
            ylabel="filtered KL (nats)",
            log=True,
            styles=STYLES,
            title=f"{letter}   Noise {c.sigma:g}",
            better="lower",
        )
        ax.set_xticks(at, [f"{f:.0%}" for f in FRACTIONS])
        ax.label_outer()
    return figure


def draw_number(found: Mapping[Condition, Sequence[ChosenNumber]], most_tasks: int) -> Figure:
    """Draw which numbers of tasks were chosen, by the true one."""
    counts = np.zeros((most_tasks, most_tasks))
    for condition, records in found.items():
        for record in records if condition.num_tasks <= most_tasks else ():
            counts[condition.num_tasks - 1, record.num_tasks - 1] += 1
    figure = Figure(figsize=(4.4, 4.0), layout="constrained")
    names = [str(K) for K in range(1, most_tasks + 1)]
    ax = plots.confusion(counts, figure.subplots(), names=names)
    ax.set(xlabel="number of tasks chosen", ylabel="true number of tasks")
    return figure
