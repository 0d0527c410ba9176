"""One stream learned block after block: what is left of the task before the last (T7, C1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.data.switching import FixedBlocks, SwitchingStream
from studies.ablations.config import AblationsConfig, generator
from studies.ablations.stack import LearningStack
from studies.ablations.task_inputs import TASK_INPUTS, TaskInput
from studies.ablations.training import new_network
from studies.core.blocks import LEFT_OUT, WINDOW
from studies.core.protocol import Report
from studies.core.training import descend

SIDE_BY_SIDE = 10  # seeds that learn in one tensor


class Schedule(NamedTuple):
    """One stream of alternating blocks.

    Attributes:
        steps: of a block.
        blocks: how many.
        rate: Adam's.
    """

    steps: int
    blocks: int
    rate: float

    @property
    def name(self) -> str:
        """Steps by blocks, and the rate."""
        return f"{self.steps} x {self.blocks} blocks, rate {self.rate:g}"


@dataclass(frozen=True)
class ForgettingSeed:
    """One stream learned with every kind of task input.

    Two tasks matter: a, of the last block but one, and b, of the last one.

    Attributes:
        errors: by kind the squared errors on a and b after the block of a and after that of b,
            ``(2, 2)``.
        untrained: those before learning, ``(2,)``.
    """

    errors: dict[str, np.ndarray]
    untrained: dict[str, np.ndarray]

    def forgotten(self, kind: str) -> float:
        """Return the error on a after the block of b."""
        return float(self.errors[kind][1, 0])


def schedules(config: AblationsConfig) -> list[Schedule]:
    """Return every stream that is learned, none left out."""
    return [Schedule(*s, rate) for rate in config.online_rates for s in config.schedules]


def measure_forgetting(
    config: AblationsConfig, schedule: Schedule, seeds: Sequence[int], report: Report
) -> list[ForgettingSeed]:
    """Learn one stream for each seed with every kind of task input, one weight update per step.

    Each update descends -log p of the last ``WINDOW`` steps, as in the toy study. Kinds and seeds
    learn side by side; each network's data and weights are its own.
    """
    inputs = [TaskInput(k, len(config.means), s) for k in TASK_INPUTS for s in seeds]
    stack = LearningStack([new_network(config, i) for i in inputs])
    optimiser = torch.optim.Adam(stack.parameters(), lr=schedule.rate, fused=True)
    errors = errors_while_learning(config, schedule, stack, inputs, optimiser)
    return records_by_seed(dict(zip(TASK_INPUTS, errors.chunk(len(TASK_INPUTS)), strict=True)))


def errors_while_learning(
    config: AblationsConfig,
    schedule: Schedule,
    stack: LearningStack,
    inputs: Sequence[TaskInput],
    optimiser: torch.optim.Optimizer,
    *,
    within_block: bool = False,
) -> Tensor:
    """Learn one stream for each network of a stack, and test it on the last two tasks.

    Args:
        config: the study.
        schedule: of the stream.
        stack: S networks.
        inputs: of each network.
        optimiser: over their weights.
        within_block: whether an update looks back on its own block only.

    Returns:
        Squared errors on the tasks of the last two blocks before learning, after the last block
        but one and after the last, ``(S, 3, 2)``.
    """
    stream = SwitchingStream(config.means, config.sigma, FixedBlocks(schedule.steps))
    steps = schedule.steps * schedule.blocks
    data = [stream.sample(1, steps, generator(i.seed, "train")) for i in inputs]
    x, true = torch.stack([d.x for d in data]), torch.stack([d.z for d in data])
    z = _stacked(
        [i(d.z, generator(i.seed, "task input")) for i, d in zip(inputs, data, strict=True)]
    )
    ends = true[:, 0, steps - schedule.steps - 1 :: schedule.steps]  # a and b
    found = [task_errors(config, stack, inputs, ends)]

    def windows() -> Iterator[tuple[Tensor, Tensor]]:
        for t in range(steps):
            start = t - t % schedule.steps if within_block else 0
            past = slice(max(start, t + 1 - WINDOW), t + 1)
            yield x[..., past], z[..., past, :]
            if t + 1 in (steps - schedule.steps, steps):
                found.append(task_errors(config, stack, inputs, ends))

    descend(stack.loss, windows(), optimiser)
    return torch.stack(found, -2)


def records_by_seed(errors: Mapping[str, Tensor]) -> list[ForgettingSeed]:
    """Return a record for each seed of errors by kind, ``(seeds, 3, 2)``."""
    found = {kind: values.double().numpy() for kind, values in errors.items()}
    num_seeds = len(next(iter(found.values())))
    return [
        ForgettingSeed(
            {k: e[i, 1:] for k, e in found.items()}, {k: e[i, 0] for k, e in found.items()}
        )
        for i in range(num_seeds)
    ]


@torch.no_grad()
def task_errors(
    config: AblationsConfig, stack: LearningStack, inputs: Sequence[TaskInput], tasks: Tensor
) -> Tensor:
    """Return the squared error of each network on fresh sequences of single tasks.

    The sequences are the same for every kind of a seed; their first steps, in which the plain LSTM
    finds out which task it is, do not count.

    Args:
        config: the study.
        stack: S networks.
        inputs: of each network.
        tasks: ids, ``(S, n)``.

    Returns:
        ``(S, n)``.
    """
    shape = (config.probe_sequences, config.probe_length)
    noise = torch.stack([torch.randn(shape, generator=generator(i.seed, "test")) for i in inputs])
    errors = []
    for task in tasks.unbind(-1):
        x = torch.tensor(config.means)[task][:, None, None] + config.sigma * noise
        # As pieces of one stream, so that a frozen point is the one of training.
        true = task[:, None, None].expand(-1, 1, noise[0].numel())
        given = [
            i.on_one_task(z, generator(i.seed, "validate"))
            for i, z in zip(inputs, true, strict=True)
        ]
        z = _stacked(given).reshape(*x.shape, -1)
        errors.append((stack.mean(x, z) - x).square()[..., LEFT_OUT:].mean((-1, -2)))
    return torch.stack(errors, -1)


def _stacked(given: Sequence[Tensor | None]) -> Tensor:
    """Put the inputs of all networks together; that of the plain LSTM is zero."""
    some = next(z for z in given if z is not None)
    return torch.stack([torch.zeros_like(some) if z is None else z for z in given])
