"""The figures of the study of sequences, from its records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gbi_pyro import plots
from gbi_pyro.data import Sessions
from studies.core.style import STYLES
from studies.sequences.choices import state_words
from studies.sequences.fits import Fitted
from studies.sequences.one_step import EXACT
from studies.sequences.scores import per_trial
from studies.sequences.sessions import COVARIATES
from studies.sequences.strategies import Strategies, state_names
from studies.sequences.table import GLM, Results

NORMAL = 1.96  # standard errors to either side of a 95 % interval


def figure_scores(found: Results) -> Figure:
    """Draw what each model gains over the GLM on held-out sessions."""
    names = [name for name in found.scores if name != GLM]
    gains = [found.gain(name)[1][:3] for name in names]
    figure = Figure(figsize=(6.4, 1.2 + 0.36 * len(names)), layout="constrained")
    ax = plots.intervals(
        names,
        {"model": gains},
        figure.subplots(),
        xlabel="bits a trial over the GLM, held-out sessions, with 95 % intervals over sessions",
        styles={"model": plots.Style("black")},
        better="higher",
    )
    if legend := ax.get_legend():
        legend.remove()
    return figure


def figure_states(fit: Fitted, found: Strategies, sessions: Sessions) -> Figure:
    """Draw what the states are: weights, choices, transitions, days, and one session."""
    K = fit.num_states
    names = state_names(K)
    figure = Figure(figsize=(12, 10.5), layout="constrained")
    grid = figure.add_gridspec(3, 3)
    weights, choices, moves = (figure.add_subplot(grid[0, i]) for i in range(3))
    days, session = (figure.add_subplot(grid[row, :]) for row in (1, 2))
    _draw_weights(fit, weights, names)
    plots.psychometric(
        found.choices,
        None,
        choices,
        names=names,
        xlabel="log odds of right from both tones (GLM)",
        ylabel="share of choices to the right",
        title="B  Choices in each state",
    )
    plots.transitions(
        fit.transition.exp(), moves, names=names, title="C  Probability of each transition"
    ).set(xlabel="to state", ylabel="from state")
    _draw_days(found, days, names)
    at = shown_session(found)
    T = int(sessions.lengths[at])
    plots.session(
        found.smoothed[at, :T],
        session,
        marks={"error": 1 - np.asarray(found.correct[at, :T])},
        names=names,
        xlabel="trial",
        title=f"E  Session {at + 1}",
    ).set_ylabel("probability of each state")
    return figure


def _draw_weights(fit: Fitted, ax: Axes, names: Sequence[str]) -> None:
    w, half = fit.weights["w"], NORMAL * fit.errors["w"]
    ends = np.stack([w, w - half, w + half], -1)
    plots.intervals(
        list(COVARIATES.values()),
        dict(zip(names, ends, strict=True)),
        ax,
        xlabel="weight in the log odds of right, 95 % intervals",
        title="A  Weights of each state",
    )


def _draw_days(found: Strategies, ax: Axes, names: Sequence[str]) -> None:
    plots.session(
        found.shares, ax, names=names, xlabel="session", title="D  Share of trials over days"
    ).set_ylabel("share of trials")


def shown_session(found: Strategies) -> int:
    """Return the session in which the states are most evenly on: one that shows all of them."""
    shares = np.asarray(found.shares)
    return int(np.argmax(shares.min(-1)))


def figure_checks(found: Strategies) -> Figure:
    """Draw dwell times with the law of the chain, and the autocorrelation of residuals."""
    K = len(found.dwell)
    figure = Figure(figsize=(max(3.2 * K, 9.6), 6.4), layout="constrained")
    grid = figure.add_gridspec(2, 2 * K)
    upper = [figure.add_subplot(grid[0, 2 * k : 2 * k + 2]) for k in range(K)]
    names = state_names(K)
    tables, laws = (dict(zip(names, of, strict=True)) for of in (found.dwell, found.law))
    plots.dwell_times(tables, laws, upper, xlabel="dwell time t (trials)")
    lower = [figure.add_subplot(grid[1, K * i : K * i + K]) for i in range(2)]
    for ax, (name, drawn) in zip(lower, found.replicated.items(), strict=True):
        title = f"Residuals of the GLM; replicated by {name}"
        plots.autocorrelation(found.residuals, drawn, ax, xlabel="lag (trials)", title=title)
    return figure


def figure_one_step(found: Results) -> Figure:
    """Draw the divergence of one step in the chain from the exact chain."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    groups = [
        (prefix + state_words(K), [r.one_step[K] for r in records])
        for prefix, records in (("", found.linear), ("neural, ", found.neural))
        for K in records[0].one_step
    ]
    for ax, what in zip(axes, ("filtered", "smoothed"), strict=True):
        values = {
            way: [
                per_trial(
                    np.mean([np.asarray(getattr(r[way], what)) for r in records], 0),
                    found.lengths,
                )[:3]
                for _, records in groups
            ]
            for way in groups[0][1][0]
            if way != EXACT
        }
        plots.intervals(
            [name for name, _ in groups],
            values,
            ax,
            xlabel="KL(exact || one step), nats a trial",
            reference=None,
            styles={way: replace(STYLES[way], width=1.5) for way in values},
            title=f"{what}, held-out sessions",
            better="lower",
            log=True,
        )
    return figure
