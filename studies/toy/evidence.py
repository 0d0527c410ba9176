"""Gradients as evidence, held against the exact posterior (T2, T3, T8, T11, T12, M2, M8)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.data.switching import (
    BoundedBlocks,
    GeometricBlocks,
    Stream,
    SwitchingStream,
)
from gbi_pyro.metrics.agreement import kl
from studies.toy.config import ToyConfig
from studies.toy.training import Trained, generator
from gbi_pyro.inference.calibration import Calibration, calibrate
from gbi_pyro.inference.stepwise import stepwise
from gbi_pyro.inference.chain import BayesFilter
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.logjoint import Passes
from gbi_pyro.models.switching import SwitchingGaussian
from gbi_pyro.posterior import TaskPosterior


def gaussian(stream: SwitchingStream) -> SwitchingGaussian:
    """Return the generator of a stream as a Pyro model: the exact reference."""
    return SwitchingGaussian(torch.tensor(stream.means), stream.sigma)


def in_filter(stream: SwitchingStream, infer: object, give: str = "filtered") -> BayesFilter:
    """Put an inference of single steps into the Bayes filter of a stream's own chain."""
    return BayesFilter(
        infer,  # type: ignore[arg-type]
        stream.log_initial,
        stream.log_transition,
        stream.log_duration,
        output=give,  # type: ignore[arg-type]
    )


def exact_filter(stream: SwitchingStream, x: Tensor) -> TaskPosterior:
    """Return the exact p(z_t | x_1..t) of a stream."""
    return in_filter(stream, Enumeration())(gaussian(stream), x)


def calibrate_network(config: ToyConfig, seed: int, trained: Trained) -> Calibration:
    """Fit temperature and offsets of one network's steps to the exact posterior of the steps."""
    stream = trained.stream
    data = stream.sample(config.test_sequences, config.test_length, generator(seed, "calibrate"))
    one_step = OneStepGradient()(stepwise(trained.network, data.x))
    return calibrate(one_step, Enumeration()(gaussian(stream), data.x))


def test_stream(config: ToyConfig, seed: int, stream: SwitchingStream) -> Stream:
    """Return the test sequences of a seed."""
    return stream.sample(config.test_sequences, config.test_length, generator(seed, "test"))


def filtered_estimates(
    config: ToyConfig, seed: int, trained: Trained
) -> dict[str, tuple[float, Passes]]:
    """Hold step evidence in the Bayes filter against the exact filter.

    The estimates: one step as it is, second order, calibrated, and K forward passes.

    Returns:
        For each the mean KL(exact || estimate) per step, in nats, and what it spent.
    """
    stream = trained.stream
    x = test_stream(config, seed, stream).x
    steps = stepwise(trained.network, x)
    exact = exact_filter(stream, x).logits()
    calibration = calibrate_network(config, seed, trained)
    estimates = {
        "one step": OneStepGradient(),
        "second order": OneStepGradient(order=2),
        "calibrated": OneStepGradient(calibration=calibration),
        "K forward passes": Enumeration(),
    }
    found = {name: in_filter(stream, infer)(steps) for name, infer in estimates.items()}
    return {n: (kl(exact, q.logits()).mean().item(), q.passes) for n, q in found.items()}


LONG_BLOCKS = BoundedBlocks(minimum=20, maximum=60, hazard=0.03)


def semi_markov_divergences(config: ToyConfig, seed: int, trained: Trained) -> dict[str, float]:
    """Return filtered divergences where blocks have a shortest length, so that a switch is not due.

    The exact reference knows the block lengths (a hidden semi-Markov chain). A hidden Markov chain
    of the same mean block length is not exact any more, though it is given the true likelihoods.

    Returns:
        Mean KL(exact || estimate) per step, in nats.
    """
    stream = replace(trained.stream, blocks=LONG_BLOCKS)
    lengths = torch.arange(1, len(LONG_BLOCKS.log_lengths) + 1)
    mean_length = (LONG_BLOCKS.log_lengths.exp() * lengths).sum().item()
    markov = replace(stream, blocks=GeometricBlocks(1 / mean_length))
    x = test_stream(config, seed, stream).x
    exact = exact_filter(stream, x).logits()
    one_step = in_filter(stream, OneStepGradient())(stepwise(trained.network, x))
    return {
        "one step": kl(exact, one_step.logits()).mean().item(),
        "true likelihoods, hidden Markov": kl(exact, exact_filter(markov, x).logits())
        .mean()
        .item(),
    }


@dataclass(frozen=True)
class Responses:
    """What a trained two-task network shows on its test stream (Figure 3).

    Arrays are ``(sequences, time)`` or ``(sequences, time, K)``.

    Attributes:
        x: observations.
        z: true task ids.
        log_likelihood: log p(x_t | z), exact.
        exact: the exact filter, probabilities.
        evidence: gradient at the maximum-entropy point, step by step, centred over tasks.
        middle: the network's prediction at the maximum-entropy point.
        filtered: one-step evidence in the Bayes filter.
    """

    x: np.ndarray
    z: np.ndarray
    log_likelihood: np.ndarray
    exact: TaskPosterior
    evidence: np.ndarray
    middle: np.ndarray
    filtered: TaskPosterior


def respond(config: ToyConfig, seed: int, trained: Trained) -> Responses:
    """Run a two-task network on its test stream, at maximum entropy and one step from it."""
    stream, network = trained.stream, trained.network
    data = test_stream(config, seed, stream)
    steps = stepwise(network, data.x)
    # The log posterior is the gradient up to a constant, which centring takes away.
    gradient = OneStepGradient()(steps).logits()
    gradient = gradient - gradient.mean(-1, keepdim=True)
    return Responses(
        data.x.numpy(),
        data.z.numpy(),
        stream.log_emission(data.x).numpy(),
        exact_filter(stream, data.x),
        gradient.numpy(),
        network.mean(data.x, network.uniform(*data.x.shape)).numpy(),
        in_filter(stream, OneStepGradient())(steps),
    )


def log_odds(log_probs: np.ndarray) -> np.ndarray:
    """Return log q(second task) - log q(first task)."""
    return log_probs[..., 1] - log_probs[..., 0]


def flip_latency(scores: np.ndarray, z: np.ndarray) -> float:
    """Return the mean number of steps after a switch until scores favour the new task.

    A switch that is not followed before the next one counts as the length of its block, the least
    that it can be: leaving it out would flatter a slow method.

    Args:
        scores: larger for the likelier task, ``(sequences, time, K)``; 0 means that the first
            observation of the new block is enough.
        z: true task ids, ``(sequences, time)``.
    """
    latencies = []
    favoured = scores.argmax(-1) == z
    for row, tasks in zip(favoured, z, strict=True):
        starts = np.flatnonzero(np.diff(tasks)) + 1
        ends = [*starts[1:], len(tasks)][: len(starts)]
        for start, end in zip(starts, ends, strict=True):
            found = np.flatnonzero(row[start:end])
            latencies.append(found[0] if len(found) else end - start)
    return float(np.mean(latencies)) if latencies else float("nan")


def exact_predictions(stream: SwitchingStream, x: Tensor) -> Tensor:
    """Return E[x_t | x_1..t-1] of the exact filter, ``x.shape``: the best that can be predicted."""
    ahead = in_filter(stream, Enumeration(), "predicted")(gaussian(stream), x)
    return ahead.probs().to(x.dtype) @ torch.tensor(stream.means)


def gbi_predictions(trained: Trained, x: Tensor) -> Tensor:
    """Return the network's prediction with Z the one-step belief about z_t before x_t is seen."""
    ahead = in_filter(trained.stream, OneStepGradient(), "predicted")(stepwise(trained.network, x))
    return trained.network.mean(x, ahead.probs().to(x.dtype))
