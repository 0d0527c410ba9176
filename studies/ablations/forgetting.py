"""One stream learned block after block: what is left of the task before the last (T7, C1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gbi_pyro.data.switching import FixedBlocks, SwitchingStream
from studies.ablations.config import ControlsConfig, generator
from studies.ablations.task_inputs import KINDS, TaskInput
from studies.ablations.stack import LearningStack
from studies.ablations.training import new_network
from studies.toy.blocks import LEFT_OUT, WINDOW


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


def schedules(config: ControlsConfig) -> list[Schedule]:
    """Return every stream that is learned, none left out."""
    return [Schedule(*s, rate) for rate in config.online_rates for s in config.schedules]


def measure(config: ControlsConfig, schedule: Schedule) -> dict[str, Any]:
    """Learn one stream for each seed with every kind of task input, one weight update per step.

    Each update descends -log p of the last ``WINDOW`` steps, as in the toy study. Two tasks
    matter: a, of the last block but one, and b, of the last one.

    Returns:
        ``errors``, by kind the squared errors on a and b after the block of a and after that of b,
        ``(seeds, 2, 2)``; ``untrained``, those before learning, ``(seeds, 2)``.
    """
    stream = SwitchingStream(config.means, config.sigma, FixedBlocks(schedule.steps))
    steps = schedule.steps * schedule.blocks
    inputs = [TaskInput(k, stream.num_tasks, s) for k in KINDS for s in config.all_seeds]
    data = [stream.sample(1, steps, generator(i.seed, "train")) for i in inputs]
    x, true = torch.stack([d.x for d in data]), torch.stack([d.z for d in data])
    given = [i(d.z, generator(i.seed, "task input")) for i, d in zip(inputs, data, strict=True)]
    z = _stacked(given)
    stack = LearningStack([new_network(config, i) for i in inputs])
    ends = true[:, 0, steps - schedule.steps - 1 :: schedule.steps]  # a and b
    optimiser = torch.optim.Adam(stack.parameters(), lr=schedule.rate, fused=True)
    found = [task_errors(config, stack, inputs, ends)]
    for t in range(steps):
        past = slice(max(0, t + 1 - WINDOW), t + 1)
        loss = stack.loss(x[..., past], z[..., past, :])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if t + 1 in (steps - schedule.steps, steps):
            found.append(task_errors(config, stack, inputs, ends))
    by_kind = torch.stack(found, -2).unflatten(0, (len(KINDS), config.seeds))
    named = dict(zip(KINDS, by_kind, strict=True))
    return {
        "errors": {kind: e[:, 1:].tolist() for kind, e in named.items()},
        "untrained": {kind: e[:, 0].tolist() for kind, e in named.items()},
    }


@torch.no_grad()
def task_errors(
    config: ControlsConfig, stack: LearningStack, inputs: Sequence[TaskInput], tasks: Tensor
) -> Tensor:
    """Return the squared error of each network on fresh sequences of single tasks.

    The sequences are the same for every kind of a seed; their first steps, in which the plain LSTM
    finds out, do not count.

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
