"""Figures 1-3 of the toy study, from its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gbi_pyro import plots
from studies.toy.adaptation import EDGE, Adaptation
from studies.toy.blocks import BlockRun
from studies.toy.config import ToyConfig
from studies.toy.evidence import Responses, log_odds
from studies.toy.training import Trained

SHOWN = 120  # time steps in a panel


def _letters(axes: Sequence[Axes]) -> None:
    for letter, ax in zip("ABCDEFGH", axes, strict=False):
        ax.set_title(letter, loc="left", fontweight="bold", x=-0.12, y=1.1)


def _shown(response: Responses) -> tuple[int, slice]:
    """Choose the sequence that switches most within the steps shown."""
    steps = slice(0, min(SHOWN, response.x.shape[1]))
    return int((np.diff(response.z[:, steps]) != 0).sum(1).argmax()), steps


def figure_1(folder: Path, config: ToyConfig, response: Responses) -> Path:
    """Draw the task: stream, likelihood, exact posterior and the one-step one in front (T1-T3)."""
    at = _shown(response)
    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    plots.plot_stream(response.x[at], response.z[at], config.means, axes[0])
    plots.plot_likelihood(response.log_likelihood[at], axes[1])
    probs, exact = response.filtered.probs().numpy(), response.exact.probs().numpy()
    plots.plot_task_probs(probs[at], exact[at], response.z[at], task=1, ax=axes[2])
    for ax in axes[:2]:
        ax.set_xlabel("")
    _letters(axes)
    return plots.save_figure(figure, folder, "figure-1")


def figure_2(
    folder: Path,
    config: ToyConfig,
    told: Sequence[Trained],
    plain: Sequence[Trained],
    blocks: Mapping[str, Sequence[BlockRun]],
) -> Path:
    """Draw learning: training error, error per block, units shared between blocks (T4-T6)."""
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    axes = figure.subplots(1, 3)
    by_name = dict(zip(blocks, (told, plain), strict=True))
    curves = {name: np.stack([t.train_mse for t in nets]) for name, nets in by_name.items()}
    noise = config.sigma**2
    plots.plot_curves(curves, axes[0], noise, xlabel="weight update", log=True)
    errors = {name: np.stack([r.block_mse for r in runs]) for name, runs in blocks.items()}
    plots.plot_blocks(errors, axes[1], noise, ylabel="mean squared error from step 21")
    shared = {name: np.stack([r.shared_units for r in runs]) for name, runs in blocks.items()}
    plots.plot_binned(shared, 5, axes[2], ylabel="units shared with the next block")
    axes[2].tick_params(axis="x", labelsize=8)
    _letters(axes)
    return plots.save_figure(figure, folder, "figure-2")


def figure_3(
    folder: Path,
    config: ToyConfig,
    response: Responses,
    adaptation: Adaptation,
    predicted: np.ndarray,
    values: np.ndarray,
) -> Path:
    """Draw inference: gradients, Z, unseen means, and the two modes of a network (T8-T11).

    Args:
        folder: where to.
        config: the study.
        response: what one network shows on its test stream.
        adaptation: unseen means.
        predicted: that network's predictions with Z optimised online, ``(sequences, time)``.
        values: that Z, ``(sequences, time, K)``.
    """
    at = _shown(response)
    z, exact = response.z[at], response.exact.probs().numpy()
    figure = Figure(figsize=(15, 11), layout="constrained")
    grid = figure.add_gridspec(3, 6)
    a, b, c, f, g, h = (
        figure.add_subplot(grid[row, column : column + 2]) for row in (0, 2) for column in (0, 2, 4)
    )
    d, e = (figure.add_subplot(grid[1, column : column + 3]) for column in (0, 3))
    plots.plot_stream(response.x[at], z, config.means, a, prediction=predicted[at])
    plots.plot_gradients(response.evidence[at], z, b)
    plots.plot_task_probs(values[at], exact[at], z, task=1, ax=c)
    c.set_ylabel("Z of task 1, optimised")
    hull = (min(config.means), max(config.means))
    last = {name: v[..., -EDGE:].mean(-1) for name, v in adaptation.errors.items()}
    noise = config.sigma**2
    label = f"mean squared error, last {EDGE} steps"
    plots.plot_by_mean(adaptation.means, last, hull, d, noise, ylabel=label, log=True)
    plots.plot_predicted_mean(adaptation.means, adaptation.predicted, e, hull=hull)
    plots.plot_stream(response.x[at], z, config.means, f, prediction=response.middle[at])
    f.set_ylabel("observation x, Z = [.5, .5]")
    plots.plot_likelihood(response.log_likelihood[at], g)
    plots.plot_evidence(log_odds(response.log_likelihood), log_odds(response.evidence), h)
    _letters((a, b, c, d, e, f, g, h))
    return plots.save_figure(figure, folder, "figure-3")
