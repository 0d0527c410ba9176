"""Figures of the study, from its results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gbi_pyro import plots
from studies.unsupervised.config import MEANS, NOISY, USUAL, DiscoverConfig
from studies.unsupervised.labels import CLAMPED, FOUND_FIRST, HMM
from studies.unsupervised.online import BIN, Condition, exact_filter, learn

SHOWN = 400  # steps of a stream


def figure_online(folder: Path, config: DiscoverConfig, found: Mapping[Condition, Any]) -> Path:
    """Draw one stream as it is learned, and accuracy step by step over seeds."""
    condition = Condition(2, NOISY)
    data = condition.sample(config, config.first_seed)
    run = learn(config, condition, config.first_seed, data.x[0])["run"]
    exact = exact_filter(condition.stream(config), data.x).log_filtered.exp()
    q = run.filtered.numpy()
    # The tasks come in any order: of the two, that which agrees with the truth.
    if np.mean(q[len(q) // 2 :].argmax(-1) == data.z[0, len(q) // 2 :].numpy()) < 0.5:
        q = q[:, ::-1]
    steps = slice(0, SHOWN)
    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(3, 1)
    x, z = data.x[0, steps].numpy(), data.z[0, steps].numpy()
    plots.stream(x, z, MEANS[2], axes[0], prediction=run.mean[steps].numpy())
    plots.task_probs(q[steps], exact[0, steps].numpy(), z, task=1, ax=axes[1])
    curves = {
        f"sigma {c.sigma:g}, {name}": np.array(values)
        for c, result in found.items()
        if c in (Condition(2, USUAL), Condition(2, NOISY))
        for name, values in result["curves"].items()
    }
    bins = BIN * (np.arange(np.shape(next(iter(curves.values())))[-1]) + 0.5)
    plots.curves(curves, axes[2], x=bins, xlabel="step of the stream", ylabel="Z accuracy")
    return plots.save_figure(figure, folder, "online")


def figure_labels(folder: Path, found: Mapping[tuple[int, float], Any]) -> Path:
    """Draw each data set's divergence from the exact filter by fraction of the labels, K = 5."""
    cases = [(case, result) for case, result in found.items() if case[0] == 5]
    figure = Figure(figsize=(4 * len(cases), 3.6), layout="constrained")
    for ax, ((_, sigma), result) in zip(
        np.atleast_1d(figure.subplots(1, len(cases), sharey=True)), cases, strict=True
    ):
        fractions = list(result["divergence"][FOUND_FIRST])
        curves = {}
        for way in (FOUND_FIRST, CLAMPED, HMM):
            by_fraction = result["divergence"][way]
            nothing = np.full(len(next(iter(by_fraction.values()))), np.nan)
            curves[way] = np.stack([by_fraction.get(f, nothing) for f in fractions], -1)
        at = np.arange(len(fractions), dtype=float)
        label = f"labels known, sigma {sigma:g}"
        plots.every_seed(at, curves, ax, xlabel=label, ylabel="filtered KL (nats)", log=True)
        ax.set_xticks(at, [f"{float(f):.0%}" for f in fractions])
    return plots.save_figure(figure, folder, "labels")


def figure_number(folder: Path, config: DiscoverConfig, found: Mapping[Any, Any]) -> Path:
    """Draw which numbers of tasks were chosen, by the true one."""
    counts = np.zeros((config.most_tasks, config.most_tasks))
    for (true, _), result in found.items():
        for chosen in result["chosen"]:
            if true <= config.most_tasks:
                counts[true - 1, chosen - 1] += 1
    names = [str(K) for K in range(1, config.most_tasks + 1)]
    figure = Figure(figsize=(4.4, 4.0), layout="constrained")
    ax = plots.confusion(counts, figure.subplots(), names=names)
    ax.set(xlabel="number of tasks chosen", ylabel="true number of tasks")
    return plots.save_figure(figure, folder, "number")
