"""What the states are and when they are on: over days, along a session, and in the choices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gbi_pyro.data import Sessions
from gbi_pyro.metrics import (
    DwellTimes,
    Psychometric,
    Survival,
    autocorrelation,
    dwell_law,
    dwell_times,
    kaplan_meier,
    path_statistics,
    predictive_check,
    psychometric,
)
from studies.sequences.fits import Fitted
from studies.sequences.sessions import S1, S2, trials

LAGS = 40
LONGEST = 200  # trials of a dwell time that is drawn


@dataclass(frozen=True)
class Strategies:
    """The states of one fitted model over all sessions, K of them.

    Attributes:
        smoothed: p(z_t | the whole session), ``(S, T, K)``, zero after a session's end.
        correct: whether a trial was answered correctly, ``(S, T)``.
        shares: of the trials of each session, ``(S, K)``.
        accuracy: share of correct answers in each state, weighted by its probability, ``(K,)``.
        choices: against how far both tones speak for right, the log odds of the GLM's tone weights.
        dwell: how long states last, by state, over draws of paths.
        law: P(D > t) of the chain, ``(K, LONGEST + 1)``.
        paths: statistics of paths given the choices, and of paths of the chain alone.
        residuals: autocorrelation of right - p(right) of the GLM, ``(LAGS + 1,)``.
        replicated: the same of choices that the models draw, by name, ``(draws, LAGS + 1)``.
    """

    smoothed: Tensor
    correct: Tensor
    shares: Tensor
    accuracy: Tensor
    choices: Psychometric
    dwell: list[Survival]
    law: Tensor
    paths: dict[str, tuple[Tensor, Tensor]]
    residuals: Tensor
    replicated: dict[str, Tensor]


def describe_states(
    fitted: Fitted, glm: Fitted, sessions: Sessions, *, draws: int, draw: torch.Generator
) -> Strategies:
    """Infer the states of all sessions, and describe them.

    Args:
        fitted: a model with constant transitions.
        glm: the model of one state, which residuals are of.
        sessions: all of them, in the order of days.
        draws: of paths and of choices.
        draw: their generator.
    """
    posterior, mask, K = fitted.infer(sessions), sessions.mask, fitted.num_states
    smoothed = posterior.probs() * mask.unsqueeze(-1)
    by_state = (smoothed * sessions["correct"].unsqueeze(-1)).sum((0, 1))
    covariates, right, _, _ = trials(sessions)
    tones = covariates[..., [S1, S2]] @ glm.weights["w"][0, [S1, S2]]
    paths = posterior.sample_paths(draws, generator=draw)
    blocks = dwell_times(paths, ~mask)
    replicated = posterior.sample_prior(draws, generator=draw)
    check = predictive_check(
        lambda z: path_statistics(z, K, ~mask, names=state_names(K)), paths, replicated
    )
    expected = _right(glm, sessions)[..., 0]
    return Strategies(
        smoothed=smoothed,
        correct=sessions["correct"],
        shares=smoothed.sum(1) / sessions.lengths.unsqueeze(-1),
        accuracy=by_state / smoothed.sum((0, 1)),
        choices=psychometric(tones, right, posterior.probs(), 8, ~mask),
        dwell=[_survival(blocks, k, draws) for k in range(K)],
        law=dwell_law(fitted.chain(sessions), LONGEST),
        paths={name: (check.observed[name], check.replicated[name]) for name in check.observed},
        residuals=autocorrelation(right - expected, LAGS, ~mask),
        replicated={
            "GLM": _redrawn(expected.expand(draws, *mask.shape), expected, mask, draw),
            f"{K} states": _redrawn(_along(fitted, sessions, replicated), expected, mask, draw),
        },
    )


def state_names(num_states: int) -> list[str]:
    """Return the names of states, counted from 1.

    >>> state_names(2)
    ['state 1', 'state 2']
    """
    return [f"state {k + 1}" for k in range(num_states)]


def _survival(blocks: DwellTimes, state: int, draws: int) -> Survival:
    found = blocks.of(state)
    weights = torch.full(found.length.shape, 1 / draws, dtype=torch.float64)
    return kaplan_meier(found.length, found.censored, weights)


def _right(fitted: Fitted, sessions: Sessions) -> Tensor:
    """Return p(right) of each trial under each state, ``(S, T, K)``."""
    return fitted.model.log_odds(fitted.weights, sessions["covariates"]).sigmoid()


def _along(fitted: Fitted, sessions: Sessions, paths: Tensor) -> Tensor:
    """Return p(right) of each trial along paths, ``(draws, S, T)``."""
    each = _right(fitted, sessions).expand(*paths.shape, -1)
    return each.gather(-1, paths.unsqueeze(-1)).squeeze(-1)


def _redrawn(right: Tensor, expected: Tensor, mask: Tensor, draw: torch.Generator) -> Tensor:
    """Return the autocorrelation of residuals of drawn choices, ``(draws, LAGS + 1)``."""
    choices = torch.bernoulli(right, generator=draw)
    return torch.stack([autocorrelation(c - expected, LAGS, ~mask) for c in choices])
