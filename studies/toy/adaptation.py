"""Frozen networks that move something online, on switching streams and unseen means (T8-T13)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.inference.online import OnlineRun, StepsAhead
from gbi_pyro.inference.stepwise import stepwise
from gbi_pyro.models.sequence import SequenceLSTM, SequenceLSTMStack
from studies.core.streams import exact_predictions, in_filter
from studies.core.unseen_means import (
    BETWEEN,
    EDGE,
    UNSEEN,
    OptimisedInput,
    Rate,
    adapt,
    choose_rate,
    new_blocks,
)
from studies.toy.config import ToyConfig, generator
from studies.toy.training import Trained, test_stream, train_network

GBI = "GBI, free Z"
ON_SIMPLEX = "GBI, Z on the simplex"
LSTM = "LSTM"
MOVED_INPUT = "LSTM, inputs optimised"
VALIDATION_SEEDS = range(1000, 1010)  # no result uses them
VALIDATION_SEQUENCES, VALIDATION_STEPS = 8, 150
SPACES = {GBI: "free", ON_SIMPLEX: "simplex", MOVED_INPUT: "free"}


@dataclass(frozen=True)
class Rates:
    """Rates and horizons of each method that moves something, chosen on validation seeds.

    Attributes:
        switches: by the error on streams that switch between the known tasks.
        unseen: by the error on blocks of means that are neither trained nor tested.
    """

    switches: dict[str, Rate]
    unseen: dict[str, Rate]


@dataclass(frozen=True)
class UnseenBlocks:
    """How well one method predicted blocks of unseen means.

    Attributes:
        error: squared error, ``(means, new_block)``.
        predicted: the mean prediction over the last steps, ``(means,)``.
    """

    error: np.ndarray
    predicted: np.ndarray


def movers(
    config: ToyConfig, conditioned: Sequence[SequenceLSTM], plain: Sequence[SequenceLSTM]
) -> dict[str, tuple[StepsAhead, Tensor]]:
    """Return by method the networks of some seeds, stacked, and where what moves starts."""
    tasks = SequenceLSTMStack(conditioned)
    middle = torch.full((len(config.means),), 1 / len(config.means))
    inputs = OptimisedInput(SequenceLSTMStack(plain)), torch.zeros(1)
    return {GBI: (tasks, middle), ON_SIMPLEX: (tasks, middle), MOVED_INPUT: inputs}


def choose_rates(config: ToyConfig) -> Rates:
    """Train networks of the validation seeds and choose what moves them best."""
    stream = config.stream()
    kinds = [
        [train_network(config, s, stream, conditioned=c).network for s in VALIDATION_SEEDS]
        for c in (True, False)
    ]
    length = min(VALIDATION_STEPS, config.test_length)
    draws = [generator(s, "validate") for s in VALIDATION_SEEDS]
    switching = torch.stack([stream.sample(VALIDATION_SEQUENCES, length, d).x for d in draws])
    between = blocks_of(config, BETWEEN, "validate", VALIDATION_SEEDS)

    def choose(x: Tensor, skip: int) -> dict[str, Rate]:
        return {
            name: choose_rate(network, start, SPACES[name], x, skip)
            for name, (network, start) in movers(config, *kinds).items()
        }

    return Rates(choose(switching, 0), choose(between, config.block_length))


def blocks_of(config: ToyConfig, means: Tensor, role: str, seeds: Sequence[int]) -> Tensor:
    """Draw streams that end in a block of a new mean, ``(seeds, means, time)``."""
    steps = config.block_length, config.new_block
    draws = [generator(seed, role) for seed in seeds]
    return new_blocks(means, config.means[0], config.sigma, steps, draws)


def run_online(
    config: ToyConfig, rates: Mapping[str, Rate], trained: Trained, plain: Trained, x: Tensor
) -> dict[str, OnlineRun]:
    """Run each method along the streams of one seed, ``(1, batch, time)``."""
    networks = movers(config, [trained.network], [plain.network])
    return {
        name: adapt(network, start, rates[name], SPACES[name], x)
        for name, (network, start) in networks.items()
    }


def on_unseen_means(
    config: ToyConfig, seed: int, rates: Mapping[str, Rate], trained: Trained, plain: Trained
) -> dict[str, UnseenBlocks]:
    """Run every method on blocks of unseen means."""
    x = blocks_of(config, UNSEEN, "test", [seed])
    means = {n: run.mean[0] for n, run in run_online(config, rates, trained, plain, x).items()}
    means[LSTM] = plain.network.mean(x[0], None)
    found = {}
    for name, mean in means.items():
        new, truth = mean[..., config.block_length :], x[0, ..., config.block_length :]
        error = (new - truth).square().numpy()
        found[name] = UnseenBlocks(error, new[..., -EDGE:].mean(-1).numpy())
    return found


def inside_hull(config: ToyConfig) -> np.ndarray:
    """Whether each unseen mean lies within the hull of the training means, ``(means,)``."""
    low, high = min(config.means) - 1e-6, max(config.means) + 1e-6
    return ((low <= UNSEEN) & (high >= UNSEEN)).numpy()


def prediction_errors(
    config: ToyConfig, seed: int, online: Mapping[str, OnlineRun], trained: Trained, plain: Trained
) -> dict[str, float]:
    """Return the squared error of one-step-ahead predictions on the switching test stream (T13).

    Args:
        config: the study.
        seed: whose stream it is.
        online: the methods that move something, run along it.
        trained: the network with a task.
        plain: the network without.
    """
    stream = trained.stream
    data = test_stream(config, seed, stream)
    x, z = data.x, data.one_hot(len(config.means))
    two_ago = torch.nn.functional.pad(x, (2, 0))[..., :-2]
    one_ago = torch.nn.functional.pad(x, (1, 0))[..., :-1]
    ahead = in_filter(stream, OneStepGradient(), "predicted")(stepwise(trained.network, x))
    predictions = {
        "knows task and means": z @ torch.tensor(config.means),
        "exact filter": exact_predictions(stream, x),
        "network given the task": trained.network.mean(x, z),
        "GBI, one step in the filter": trained.network.mean(x, ahead.probs().to(x.dtype)),
        "mean of the last two": (one_ago + two_ago) / 2,
        LSTM: plain.network.mean(x, None),
        **{name: run.mean[0] for name, run in online.items()},
    }
    # The first two steps have no two predecessors.
    return {
        name: (p - x).square()[..., 2:].mean((-1, -2)).item() for name, p in predictions.items()
    }
