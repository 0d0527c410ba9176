"""Exact answers on switching streams, and evidence of trained networks compared with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gbi_pyro.data.switching import SwitchingStream
from gbi_pyro.inference.calibration import Calibration, calibrate
from gbi_pyro.inference.chain import BayesFilter
from gbi_pyro.inference.chain_posterior import Output
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.inference.stepwise import stepwise
from gbi_pyro.inference.task_chain import TaskChain
from gbi_pyro.logjoint import Passes
from gbi_pyro.metrics.agreement import kl
from gbi_pyro.models.sequence import SequenceLSTM
from gbi_pyro.models.switching import SwitchingGaussian
from gbi_pyro.posterior import TaskPosterior

ESTIMATES = ("one step", "second order", "calibrated", "K forward passes")


def gaussian(stream: SwitchingStream) -> SwitchingGaussian:
    """Return the generator of a stream as a Pyro model: the exact reference."""
    return SwitchingGaussian(torch.tensor(stream.means), stream.sigma)


def in_filter(
    stream: SwitchingStream,
    infer: Callable[..., TaskPosterior],
    output: Output = "filtered",
) -> BayesFilter:
    """Put an inference of single steps into the Bayes filter of a stream's own chain."""
    law = stream.log_initial, stream.log_transition
    return BayesFilter(infer, TaskChain(*law, log_duration=stream.log_duration), output)


def exact_filter(stream: SwitchingStream, x: Tensor) -> TaskPosterior:
    """Return the exact p(z_t | x_1..t) of a stream."""
    return in_filter(stream, Enumeration())(gaussian(stream), x)


def exact_predictions(stream: SwitchingStream, x: Tensor) -> Tensor:
    """Return E[x_t | x_1..t-1] of the exact filter, ``x.shape``: the best that can be predicted."""
    ahead = in_filter(stream, Enumeration(), "predicted")(gaussian(stream), x)
    return ahead.probs().to(x.dtype) @ torch.tensor(stream.means)


def calibrate_network(stream: SwitchingStream, network: SequenceLSTM, x: Tensor) -> Calibration:
    """Fit temperature and offsets of a network's steps to the exact posterior of the steps."""
    return calibrate(OneStepGradient()(stepwise(network, x)), Enumeration()(gaussian(stream), x))


def filtered_estimates(
    stream: SwitchingStream, network: SequenceLSTM, x: Tensor, calibration: Calibration
) -> dict[str, tuple[float, Passes]]:
    """Compare the evidence of steps, in the Bayes filter, with the exact filter.

    Args:
        stream: where ``x`` comes from.
        network: trained and frozen.
        x: test sequences, ``(sequence, time)``.
        calibration: fitted on other sequences.

    Returns:
        For each of ``ESTIMATES`` the mean KL(exact || estimate) per step, in nats, and its passes.
    """
    steps, exact = stepwise(network, x), exact_filter(stream, x).logits()
    infers: tuple[Any, ...] = (
        OneStepGradient(),
        OneStepGradient(order=2),
        OneStepGradient(calibration=calibration),
        Enumeration(),
    )
    found = [in_filter(stream, infer)(steps) for infer in infers]
    pairs = [(kl(exact, q.logits()).mean().item(), q.passes) for q in found]
    return dict(zip(ESTIMATES, pairs, strict=True))
