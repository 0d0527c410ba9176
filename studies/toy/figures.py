"""Figures 1-3 of the toy study, from its records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gbi_pyro import plots
from studies.core.unseen_means import EDGE, UNSEEN
from studies.toy.config import ToyConfig
from studies.toy.record import CONDITIONED, PLAIN, ToySeed
from studies.toy.responses import Responses, log_odds

SHOWN = 120  # time steps in a panel
NETWORKS = (CONDITIONED, PLAIN)


def _letters(axes: Sequence[Axes]) -> None:
    for letter, ax in zip("ABCDEFGH", axes, strict=False):
        ax.set_title(letter, loc="left", fontweight="bold", x=-0.12, y=1.1)


def _shown(response: Responses) -> tuple[int, slice]:
    """Choose the sequence that switches most within the steps shown."""
    steps = slice(0, min(SHOWN, response.x.shape[1]))
    return int((np.diff(response.z[:, steps]) != 0).sum(1).argmax()), steps


def figure_1(config: ToyConfig, response: Responses) -> Figure:
    """Draw the task: stream, likelihood, exact posterior and one gradient step (T1-T3)."""
    at = _shown(response)
    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    plots.stream(response.x[at], response.z[at], config.means, axes[0])
    plots.likelihood(response.log_likelihood[at], axes[1])
    probs, exact = np.exp(response.filtered), np.exp(response.exact)
    plots.task_probs(probs[at], exact[at], response.z[at], task=1, ax=axes[2])
    for ax in axes[:2]:
        ax.set_xlabel("")
    _letters(axes)
    return figure


def figure_2(config: ToyConfig, records: Sequence[ToySeed]) -> Figure:
    """Draw learning: training error, error per block, units shared between blocks (T4-T6)."""
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    axes, noise = figure.subplots(1, 3), config.sigma**2
    curves = {name: np.stack([r.curves[name].train_mse for r in records]) for name in NETWORKS}
    plots.curves(curves, axes[0], noise, xlabel="weight update", log=True)
    errors = {name: np.stack([r.blocks[name].block_mse for r in records]) for name in NETWORKS}
    plots.blocks(errors, axes[1], noise, ylabel="mean squared error from step 21")
    shared = {name: np.stack([r.blocks[name].shared_units for r in records]) for name in NETWORKS}
    plots.binned(shared, 5, axes[2], ylabel="units shared with the next block")
    axes[2].tick_params(axis="x", labelsize=8)
    _letters(axes)
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
    plots.stream(response.x[at], z, config.means, a, prediction=first.predicted[at])
    plots.gradients(response.gradient[at], z, b)
    plots.task_probs(first.values[at], exact[at], z, task=1, ax=c)
    c.set_ylabel("Z of task 1, optimised")
    means, hull = UNSEEN.numpy(), (min(config.means), max(config.means))
    last = {
        name: np.stack([r.unseen[name].error[:, -EDGE:].mean(-1) for r in records])
        for name in first.unseen
    }
    predicted = {name: np.stack([r.unseen[name].predicted for r in records]) for name in last}
    label = f"mean squared error, last {EDGE} steps"
    plots.by_mean(means, last, hull, d, config.sigma**2, ylabel=label, log=True)
    plots.predicted_mean(means, predicted, e, hull=hull)
    plots.stream(response.x[at], z, config.means, f, prediction=response.middle[at])
    f.set_ylabel("observation x, Z = [.5, .5]")
    plots.likelihood(response.log_likelihood[at], g)
    plots.binary_log_odds(log_odds(response.log_likelihood), log_odds(response.gradient), h)
    _letters((a, b, c, d, e, f, g, h))
    return figure
