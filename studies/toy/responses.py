"""What a trained network shows on its test stream, beside the exact posterior (T2, T3, T8, T11)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from gbi_pyro.data.switching import BoundedBlocks, GeometricBlocks
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.inference.stepwise import stepwise
from gbi_pyro.metrics.agreement import kl
from gbi_pyro.posterior import TaskPosterior
from studies.core.streams import exact_filter, in_filter
from studies.toy.config import ToyConfig
from studies.toy.training import Trained, test_stream

LONG_BLOCKS = BoundedBlocks(minimum=20, maximum=60, hazard=0.03)


@dataclass(frozen=True)
class Responses:
    """What a trained two-task network shows on its test stream (Figure 3).

    Arrays are ``(sequences, time)`` or ``(sequences, time, K)``.

    Attributes:
        x: observations.
        z: true task ids.
        log_likelihood: log p(x_t | z), exact.
        exact: the exact filter, log probabilities.
        gradient: at the maximum-entropy point, step by step, centred over tasks.
        middle: the network's prediction at the maximum-entropy point.
        filtered: one gradient step in the Bayes filter, log probabilities.
    """

    x: np.ndarray
    z: np.ndarray
    log_likelihood: np.ndarray
    exact: np.ndarray
    gradient: np.ndarray
    middle: np.ndarray
    filtered: np.ndarray


def filters(config: ToyConfig, seed: int, trained: Trained) -> tuple[TaskPosterior, TaskPosterior]:
    """Return one gradient step in the Bayes filter on the test stream, and the exact filter."""
    x = test_stream(config, seed, trained.stream).x
    one_step = in_filter(trained.stream, OneStepGradient())(stepwise(trained.network, x))
    return one_step, exact_filter(trained.stream, x)


def respond(config: ToyConfig, seed: int, trained: Trained) -> Responses:
    """Run a two-task network on its test stream, at maximum entropy and one step from it."""
    stream, network = trained.stream, trained.network
    data = test_stream(config, seed, stream)
    # The log posterior is the gradient up to a constant, which centring takes away.
    gradient = OneStepGradient()(stepwise(network, data.x)).logits()
    gradient = gradient - gradient.mean(-1, keepdim=True)
    one_step, exact = filters(config, seed, trained)
    return Responses(
        data.x.numpy(),
        data.z.numpy(),
        stream.log_emission(data.x).numpy(),
        exact.logits().numpy(),
        gradient.numpy(),
        network.mean(data.x, network.uniform(*data.x.shape)).numpy(),
        one_step.logits().numpy(),
    )


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
    estimates = {
        "one step": one_step,
        "true likelihoods, hidden Markov": exact_filter(markov, x),
    }
    return {name: kl(exact, q.logits()).mean().item() for name, q in estimates.items()}


def log_odds(log_probs: np.ndarray) -> np.ndarray:
    """Return log q(second task) - log q(first task)."""
    odds: np.ndarray = log_probs[..., 1] - log_probs[..., 0]
    return odds


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
