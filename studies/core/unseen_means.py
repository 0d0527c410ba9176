"""Blocks of means that no training saw, and frozen networks that adapt to them (T9, T10)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from gbi_pyro.inference.online import OnlineGradient, OnlineRun, StepsAhead

UNSEEN = torch.linspace(-0.2, 1.2, 15)
BETWEEN = torch.linspace(-0.15, 1.15, 14)  # of the validation streams, on which rates are chosen
RATES = (0.005, 0.01, 0.02, 0.05)
HORIZONS = (1, 3, 6)
EDGE = 20  # the first and the last steps of a block that are reported apart


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


def new_blocks(
    means: Tensor,
    known: float,
    sigma: float,
    steps: tuple[int, int],
    draws: Sequence[torch.Generator],
) -> Tensor:
    """Draw streams that end in a block of an unseen mean, after a block of a known one.

    Args:
        means: of the last blocks, ``(means,)``.
        known: the mean before.
        sigma: the noise.
        steps: of the known block and of the new one.
        draws: one generator for each seed.

    Returns:
        ``(seeds, means, sum of steps)``.
    """
    before, new = steps
    centres = torch.stack([torch.cat([torch.full((before,), known), m.expand(new)]) for m in means])
    noise = [torch.randn(centres.shape, generator=draw) for draw in draws]
    return centres + sigma * torch.stack(noise)


@dataclass(frozen=True)
class Rate:
    """How a frozen network moves its task: step size and horizon of ``OnlineGradient``."""

    rate: float
    horizon: int

    def online(self, space: str) -> OnlineGradient:
        """Return the online update in a space."""
        return OnlineGradient(self.rate, self.horizon, space)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"rate {self.rate:g}, horizon {self.horizon}, by validation"


def adapt(network: StepsAhead, start: Tensor, rate: Rate, space: str, x: Tensor) -> OnlineRun:
    """Predict streams ``(seeds, batch, time)``, moving the task from ``start``, ``(width,)``."""
    return rate.online(space)(network, x, start.expand(*x.shape[:-1], -1))


def choose_rate(network: StepsAhead, start: Tensor, space: str, x: Tensor, skip: int) -> Rate:
    """Choose rate and horizon by the error on validation streams, after their first steps."""

    def error(rate: Rate) -> float:
        value = (adapt(network, start, rate, space, x).mean - x).square()[..., skip:].mean().item()
        return value if np.isfinite(value) else float("inf")

    options = itertools.starmap(Rate, itertools.product(RATES, HORIZONS))
    return min(options, key=error)
