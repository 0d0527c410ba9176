"""Frozen networks on means they never saw, and rivals on the same streams (T9, T10, T13)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from studies.toy.config import ToyConfig
from studies.toy.evidence import exact_predictions, gbi_predictions, test_stream
from studies.toy.training import Trained, generator
from gbi_pyro.inference.online import OnlineGradient, OnlineRun, StepsAhead
from gbi_pyro.models.sequence import SequenceLSTMStack

UNSEEN = torch.linspace(-0.2, 1.2, 15)
BETWEEN = torch.linspace(-0.15, 1.15, 14)  # of the validation streams, on which rates are chosen
RATES = (0.005, 0.01, 0.02, 0.05)
HORIZONS = (1, 3, 6)
VALIDATION_SEQUENCES, VALIDATION_STEPS = 8, 150
EDGE = 20  # the first and the last steps of a block that are reported apart

GBI = "GBI, free Z"
ON_SIMPLEX = "GBI, Z on the simplex"
LSTM = "LSTM"
MOVED_INPUT = "LSTM, inputs optimised"


class OptimisedInput:
    """The plain LSTM with a number added to its input: what an LSTM can move instead of a task."""

    def __init__(self, network: StepsAhead) -> None:
        self.network = network

    def step(self, previous: Tensor, z: Tensor, state: Any) -> tuple[Distribution, Any]:
        """Predict one step with ``z``, (..., 1), added to the input."""
        return self.network.step(previous + z.squeeze(-1), None, state)

    def initial_state(self, *batch_shape: int) -> Any:
        """Return the state before the first step."""
        return self.network.initial_state(*batch_shape)


def new_blocks(config: ToyConfig, means: Tensor, role: str) -> Tensor:
    """Draw streams that end in a block of an unseen mean, after a block of the first known one.

    Returns:
        ``(seeds, means, block_length + new_block)``.
    """
    known = torch.full((config.block_length,), config.means[0])
    centres = torch.stack([torch.cat([known, m.expand(config.new_block)]) for m in means])
    noise = [torch.randn(centres.shape, generator=generator(s, role)) for s in config.all_seeds]
    return centres + config.sigma * torch.stack(noise)


@dataclass(frozen=True)
class Adapter:
    """A way to predict a stream with frozen networks, moving something by the gradient.

    Attributes:
        network: the stack of networks that is moved along.
        start: where it starts, ``(width,)``.
        online: rate, horizon and space.
    """

    network: StepsAhead
    start: Tensor
    online: OnlineGradient

    def __call__(self, x: Tensor) -> OnlineRun:
        """Run along streams ``(seeds, batch, time)``."""
        return self.online(self.network, x, self.start.expand(*x.shape[:-1], -1))


def choose(network: StepsAhead, start: Tensor, space: str, x: Tensor, skip: int) -> Adapter:
    """Choose rate and horizon by the error on validation streams, after their first steps."""
    scores = {}
    for rate, horizon in itertools.product(RATES, HORIZONS):
        adapter = Adapter(network, start, OnlineGradient(rate, horizon, space))  # type: ignore[arg-type]
        error = (adapter(x).mean - x).square()[..., skip:].mean().item()
        scores[adapter] = error if np.isfinite(error) else float("inf")
    return min(scores, key=scores.__getitem__)


@dataclass(frozen=True)
class Adaptation:
    """How well unseen means were predicted.

    Attributes:
        means: the unseen means, ``(means,)``.
        predicted: the mean prediction over the last steps, by method, ``(seeds, means)``.
        errors: squared error by method, ``(seeds, means, new_block)``.
        chosen: the rate and horizon of each method that moves something.
    """

    means: np.ndarray
    predicted: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]
    chosen: dict[str, OnlineGradient]


def make_adapters(
    config: ToyConfig, told: Sequence[Trained], plain: Sequence[Trained], x: Tensor, skip: int
) -> dict[str, Adapter]:
    """Return every method that adapts, its rate and horizon chosen on streams ``x``."""
    tasks = SequenceLSTMStack([t.network for t in told])
    inputs = OptimisedInput(SequenceLSTMStack([t.network for t in plain]))
    middle = torch.full((len(config.means),), 1 / len(config.means))
    return {
        GBI: choose(tasks, middle, "free", x, skip),
        ON_SIMPLEX: choose(tasks, middle, "simplex", x, skip),
        MOVED_INPUT: choose(inputs, torch.zeros(1), "free", x, skip),
    }


def adapters_to_switches(
    config: ToyConfig, told: Sequence[Trained], plain: Sequence[Trained]
) -> dict[str, Adapter]:
    """Return the methods as they suit streams that switch between the known tasks."""
    length = min(VALIDATION_STEPS, config.test_length)
    streams = [
        t.stream.sample(VALIDATION_SEQUENCES, length, generator(s, "validate")).x
        for s, t in zip(config.all_seeds, told, strict=True)
    ]
    return make_adapters(config, told, plain, torch.stack(streams), 0)


def adapters_to_unseen(
    config: ToyConfig, told: Sequence[Trained], plain: Sequence[Trained]
) -> dict[str, Adapter]:
    """Return the methods as they suit blocks of unseen means; none of those tested is used."""
    x = new_blocks(config, BETWEEN, "validate")
    return make_adapters(config, told, plain, x, config.block_length)


def adapt(config: ToyConfig, adapters: dict[str, Adapter], plain: Sequence[Trained]) -> Adaptation:
    """Run every method on blocks of unseen means."""
    x = new_blocks(config, UNSEEN, "test")
    means = {name: adapter(x).mean for name, adapter in adapters.items()}
    means[LSTM] = torch.stack([t.network.mean(row, None) for t, row in zip(plain, x, strict=True)])
    last = {name: m[..., config.block_length :] for name, m in means.items()}
    return Adaptation(
        UNSEEN.numpy(),
        {name: m[..., -EDGE:].mean(-1).numpy() for name, m in last.items()},
        {name: (m - x[..., config.block_length :]).square().numpy() for name, m in last.items()},
        {name: adapter.online for name, adapter in adapters.items()},
    )


def inside_hull(config: ToyConfig) -> np.ndarray:
    """Whether each unseen mean lies within the hull of the training means, ``(means,)``."""
    low, high = min(config.means) - 1e-6, max(config.means) + 1e-6
    return ((low <= UNSEEN) & (high >= UNSEEN)).numpy()


def test_streams(config: ToyConfig, told: Sequence[Trained]) -> tuple[Tensor, Tensor]:
    """Return the switching test streams of all seeds, and their tasks one-hot."""
    streams = [
        test_stream(config, s, t.stream) for s, t in zip(config.all_seeds, told, strict=True)
    ]
    x = torch.stack([s.x for s in streams])
    return x, torch.stack([s.one_hot(len(config.means)) for s in streams])


def rivals(
    config: ToyConfig,
    online: dict[str, OnlineRun],
    told: Sequence[Trained],
    plain: Sequence[Trained],
) -> dict[str, np.ndarray]:
    """Return the squared error of one-step-ahead predictions on the switching test streams (T13).

    Args:
        config: the study.
        online: the methods that move something, run along the test streams.
        told: the networks with a task, by seed.
        plain: the networks without.

    Returns:
        One number per seed for each predictor; all see the same streams.
    """
    x, z = test_streams(config, told)
    two_ago = torch.nn.functional.pad(x, (2, 0))[..., :-2]
    one_ago = torch.nn.functional.pad(x, (1, 0))[..., :-1]
    predictions = {
        "knows task and means": z @ torch.tensor(config.means),
        "exact filter": torch.stack(
            [exact_predictions(t.stream, row) for t, row in zip(told, x, strict=True)]
        ),
        "network told the task": torch.stack(
            [t.network.mean(row, r) for t, row, r in zip(told, x, z, strict=True)]
        ),
        "GBI, one step in the filter": torch.stack(
            [gbi_predictions(t, row) for t, row in zip(told, x, strict=True)]
        ),
        "mean of the last two": (one_ago + two_ago) / 2,
        LSTM: torch.stack([t.network.mean(row, None) for t, row in zip(plain, x, strict=True)]),
        **{name: run.mean for name, run in online.items()},
    }
    # The first two steps have no two predecessors.
    return {
        name: (p - x).square()[..., 2:].mean((-1, -2)).numpy() for name, p in predictions.items()
    }
