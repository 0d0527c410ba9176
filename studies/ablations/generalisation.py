"""Frozen networks of every kind of task input on means they never saw (T9, C1, C6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.inference.online import StepsAhead
from gbi_pyro.models.sequence import SequenceLSTM, SequenceLSTMStack
from studies.ablations.config import MOVED_SEEDS, AblationsConfig, frozen_generator, generator
from studies.ablations.task_inputs import TRUE, InputKind, TaskInput
from studies.ablations.training import train
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

AS_TRAINED = "input as in training"  # zero-shot: nothing moves
MOVED = "input optimised"  # adaptation
SPACE = "free"


@dataclass(frozen=True)
class UnseenErrors:
    """Squared error on blocks of unseen means, mean over the means.

    Attributes:
        block: over the whole new block.
        end: over its last ``EDGE`` steps.
    """

    block: float
    end: float


def choose_moved(config: AblationsConfig, kind: InputKind) -> Rate:
    """Choose how the input moves, on networks of the validation seeds and on other means."""
    moved = _moved([train(config, seed, kind).network for seed in MOVED_SEEDS])
    x = _blocks(config, BETWEEN, "validate", MOVED_SEEDS)
    return choose_rate(*moved, SPACE, x, config.block_length)


def generalise(
    config: AblationsConfig, kind: InputKind, rate: Rate, seed: int, network: SequenceLSTM
) -> dict[str, UnseenErrors]:
    """Predict blocks of unseen means, which follow a known one, with a frozen network.

    Zero-shot, a network is given what it was given in training; the true task of an unseen mean
    does not exist, so the network with the true task has no zero-shot value. Adapting, its Z moves
    freely by the gradient from maximum entropy on; of the plain LSTM a number that is added to its
    input moves instead.

    Args:
        config: the study.
        kind: of its task input.
        rate: and horizon of what moves, see ``choose_moved``.
        seed: of the streams.
        network: trained with that kind.

    Returns:
        By way.
    """
    x, found = _blocks(config, UNSEEN, "test", [seed]), {}
    if kind != TRUE:
        unknown = torch.zeros(x.shape[1:]).long()
        task = TaskInput(kind, len(config.means), seed)
        given = network.mean(x[0], task.on_one_task(unknown, generator(seed, "test")))
        found[AS_TRAINED] = _errors(config, given, x[0])
    moved = adapt(*_moved([network]), rate, SPACE, x)
    found[MOVED] = _errors(config, moved.mean[0], x[0])
    return found


def _blocks(config: AblationsConfig, means: Tensor, role: str, seeds: Sequence[int]) -> Tensor:
    steps = config.block_length, config.new_block
    draws = [frozen_generator(seed, role) for seed in seeds]
    return new_blocks(means, config.means[0], config.sigma, steps, draws)


def _moved(networks: Sequence[SequenceLSTM]) -> tuple[StepsAhead, Tensor]:
    """Return networks stacked, and where what moves starts."""
    stack, num_tasks = SequenceLSTMStack(networks), networks[0].num_tasks
    if num_tasks is None:
        return OptimisedInput(stack), torch.zeros(1)
    return stack, torch.full((num_tasks,), 1 / num_tasks)


def _errors(config: AblationsConfig, mean: Tensor, x: Tensor) -> UnseenErrors:
    error = (mean - x).square()[..., config.block_length :].numpy()
    return UnseenErrors(float(np.mean(error)), float(np.mean(error[..., -EDGE:])))
