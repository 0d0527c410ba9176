"""One gradient step per trial in the chain, compared with the exact chain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor

from gbi_pyro.data import Sessions
from gbi_pyro.inference import (
    BayesFilter,
    Enumeration,
    OneStepGradient,
    calibrate,
    log_likelihoods,
)
from gbi_pyro.metrics import kl
from gbi_pyro.posterior import TaskPosterior
from studies.sequences.fits import Fitted
from studies.sequences.models import TIME
from studies.sequences.sessions import trials

EXACT, STEP, CALIBRATED, SECOND = "exact", "one step", "calibrated", "second order"
ESTIMATES = (STEP, CALIBRATED, SECOND)


@dataclass(frozen=True)
class ChainEstimate:
    """How far one way to infer states lies from the exact posterior, on held-out sessions.

    Attributes:
        filtered: sum over the trials of a session of KL(exact || it), p(z_t | x_1..t), ``(S,)``.
        smoothed: the same of p(z_t | x_1..T).
        score: log p(choices) of each session, where it predicts the state of each trial, ``(S,)``.
        forward: forward passes that the log likelihoods take.
        backward: backward passes.
    """

    filtered: Tensor
    smoothed: Tensor
    score: Tensor
    forward: int
    backward: int


def compare_one_step(
    fitted: Fitted, training: Sessions, held_out: Sessions
) -> dict[str, ChainEstimate]:
    """Compare one step, calibrated on training sessions or not, with enumeration of the states.

    Args:
        fitted: a model of several states.
        training: to calibrate on.
        held_out: to compare on.
    """
    model = poutine.condition(fitted.model, data=fitted.weights)
    known, new = trials(training), trials(held_out)
    calibration = calibrate(
        OneStepGradient()(model, *known), Enumeration(check=False)(model, *known)
    )
    inferences: dict[str, Callable[..., TaskPosterior]] = {
        EXACT: Enumeration(check=False),
        STEP: OneStepGradient(),
        CALIBRATED: OneStepGradient(calibration=calibration),
        SECOND: OneStepGradient(order=2),
    }
    chain, real = fitted.chain(held_out), held_out.mask
    by_state = log_likelihoods(inferences[EXACT](model, *new))
    found = {
        name: BayesFilter(infer, chain, output="smoothed", time=TIME)(model, *new)
        for name, infer in inferences.items()
    }
    exact = found[EXACT]

    def summed(by_trial: Tensor) -> Tensor:
        return torch.where(real, by_trial, 0.0).sum(-1)

    return {
        name: ChainEstimate(
            filtered=summed(kl(exact.log_filtered, one.log_filtered)),
            smoothed=summed(kl(exact.log_smoothed, one.log_smoothed)),
            score=summed((one.log_predicted + by_state).logsumexp(-1)),
            forward=one.passes.forward,
            backward=one.passes.backward,
        )
        for name, one in found.items()
    }
