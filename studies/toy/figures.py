"""Figures 1-3 of the toy study, from its records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gbi_pyro import plots
from studies.core.style import STYLES
from studies.core.unseen_means import EDGE, UNSEEN
from studies.toy.config import NOISY, ToyConfig
from studies.toy.record import CONDITIONED, PLAIN, ToySeed
from studies.toy.responses import Responses, log_odds

SHOWN = 120  # time steps in a panel
NETWORKS = (CONDITIONED, PLAIN)


def _shown(response: Responses) -> tuple[int, slice]:
    """Choose the sequence that switches most within the steps shown."""
    steps = slice(0, min(SHOWN, response.x.shape[1]))
    return int((np.diff(response.z[:, steps]) != 0).sum(1).argmax()), steps


def figure_gradient(config: ToyConfig, response: Responses) -> Figure:
    """Draw how the gradient infers the task where single observations leave it open (T8, T12)."""
    at = _shown(response)
    steps = np.arange(1, len(response.z[at]) + 1)
    figure = Figure(figsize=(8, 6.4), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    title = f"A  A stream that switches between two tasks, noise {NOISY:g}"
    plots.stream(response.x[at], response.z[at], config.means, top, title=title)
    exact, gradient = log_odds(response.log_likelihood[at]), log_odds(response.gradient[at])
    middle.bar(steps, exact, width=0.9, color="0.8", label="true log likelihood ratio")
    dots = {"linestyle": "none", "marker": "o", "markersize": 3, "color": "k"}
    middle.plot(steps, gradient, label="gradient at maximum entropy", **dots)
    middle.axhline(0, color="0.3", linewidth=0.8)
    middle.set(ylabel="nats for task 1")
    middle.spines[["top", "right"]].set_visible(False)
    middle.legend(ncols=2, fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 1))
    middle.set_title("B  One gradient per step", loc="left", fontsize=10)
    probs, truth = np.exp(response.filtered), np.exp(response.exact)
    title = "C  The gradients in the Bayes filter"
    plots.task_probs(probs[at], truth[at], response.z[at], task=1, ax=bottom, title=title)
    _share_x_label(top, middle)
    return figure


def _share_x_label(*axes: Axes) -> None:
    for ax in axes:
        ax.set_xlabel("")


def figure_1(config: ToyConfig, response: Responses) -> Figure:
    """Draw the task: stream, likelihood, exact posterior and one gradient step (T1-T3)."""
    at = _shown(response)
    figure = Figure(figsize=(8, 7), layout="constrained")
    a, b, c = figure.subplots(3, 1, sharex=True)
    title = "A  A stream that switches between two tasks"
    plots.stream(response.x[at], response.z[at], config.means, a, title=title)
    plots.likelihood(response.log_likelihood[at], b, title="B  Likelihood of each task")
    probs, exact = np.exp(response.filtered), np.exp(response.exact)
    title = "C  Posterior by one gradient step in the Bayes filter, and exact"
    plots.task_probs(probs[at], exact[at], response.z[at], task=1, ax=c, title=title)
    _share_x_label(a, b)
    return figure


def figure_2(config: ToyConfig, records: Sequence[ToySeed]) -> Figure:
    """Draw learning: training error, error per block, units shared between blocks (T4-T6)."""
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    axes, noise = figure.subplots(1, 3), config.sigma**2
    curves = {name: np.stack([r.curves[name].train_mse for r in records]) for name in NETWORKS}
    title = "A  Training error"
    look: Any = {"styles": STYLES}
    plots.curves(curves, axes[0], noise, xlabel="weight update", log=True, title=title, **look)
    errors = {name: np.stack([r.blocks[name].block_mse for r in records]) for name in NETWORKS}
    label, title = "mean squared error from step 21", "B  Error in each block of one stream"
    plots.blocks(errors, axes[1], noise, ylabel=label, title=title, **look)
    shared = {name: np.stack([r.blocks[name].shared_units for r in records]) for name in NETWORKS}
    label, title = "share of units", "C  Units shared with the next block"
    plots.binned(shared, 5, axes[2], ylabel=label, title=title, **look)
    axes[2].tick_params(axis="x", labelsize=8)
    return figure


def figure_3(config: ToyConfig, records: Sequence[ToySeed]) -> Figure:
    """Draw inference: gradients, Z, unseen means, and the two modes of a network (T8-T11)."""
    first = records[0]
    response, at = first.responses, _shown(first.responses)
    z, exact = response.z[at], np.exp(response.exact)
    figure = Figure(figsize=(15, 11), layout="constrained")
    grid = figure.add_gridspec(3, 6)
    a, b, c, f, g, h = (
        figure.add_subplot(grid[row, column : column + 2]) for row in (0, 2) for column in (0, 2, 4)
    )
    d, e = (figure.add_subplot(grid[1, column : column + 3]) for column in (0, 3))
    observed = response.x[at], z, config.means
    plots.stream(*observed, a, prediction=first.predicted[at], title="A  Z optimised online")
    plots.gradients(response.gradient[at], z, b, title="B  Gradients at maximum entropy")
    plots.task_probs(first.values[at], exact[at], z, task=1, ax=c, title="C  Z and exact posterior")
    c.set_ylabel("Z of task 1, optimised")
    means, hull = UNSEEN.numpy(), (min(config.means), max(config.means))
    last = {
        name: np.stack([r.unseen[name].error[:, -EDGE:].mean(-1) for r in records])
        for name in first.unseen
    }
    predicted = {name: np.stack([r.unseen[name].predicted for r in records]) for name in last}
    look: Any = {"hull": hull, "styles": STYLES}
    title, label = "D  Error on unseen means", f"mean squared error, last {EDGE} steps"
    floor = config.sigma**2
    plots.by_mean(means, last, ax=d, floor=floor, ylabel=label, log=True, title=title, **look)
    plots.predicted_mean(means, predicted, e, title="E  Predicted mean", **look)
    plots.stream(*observed, f, prediction=response.middle[at], title="F  Z = [.5, .5]")
    plots.likelihood(response.log_likelihood[at], g, title="G  Likelihood of each task")
    odds = log_odds(response.log_likelihood), log_odds(response.gradient)
    plots.binary_log_odds(*odds, h, title="H  Gradient and log likelihood ratio")
    return figure
