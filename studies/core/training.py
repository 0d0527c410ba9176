"""The training loop, and training with checkpoints that ends the same after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from studies.core.cache import read_record, write_record
from studies.core.device import moved, seeded_noise
from studies.core.processes import check_same, own_share, rank, sum_gradients, sum_over_processes

Loss = Callable[..., Tensor]
Batches = Callable[[torch.Generator], Iterable[tuple[Tensor, ...]]]


def descend(
    loss: Loss,
    batches: Iterable[tuple[Any, ...]],
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    *,
    shared: bool = False,
) -> list[Tensor]:
    """Take one step of the optimiser down the loss of each batch, on the device of the weights.

    Args:
        loss: called with a batch.
        batches: as many as there are steps; what has to be looked at between two steps belongs
            into a generator, behind its ``yield``.
        optimiser: over the weights.
        schedule: of its rate, stepped at every batch.
        shared: whether processes that train together each take a share of a batch, of which the
            loss is a mean; else each of them takes all of it.

    Returns:
        The loss of each batch.
    """
    losses = []
    device = optimiser.param_groups[0]["params"][0].device
    for batch in batches:
        part, fraction = own_share(batch) if shared else (batch, 1.0)
        value = loss(*moved(part, device)) * fraction
        optimiser.zero_grad()
        value.backward()
        if shared:
            sum_gradients(optimiser)
        optimiser.step()
        if schedule is not None:
            schedule.step()
        losses.append(value.detach())
    return losses


def train_epochs(
    module: nn.Module,
    loss: Loss,
    batches: Batches,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    *,
    epochs: int,
    seed: int,
    checkpoint: Path | None = None,
    key: str = "",
    report: Callable[[int], None] = lambda _epoch: None,
    measure: Callable[[int, float], list[float]] = lambda _epoch, _loss: [],
) -> list[list[float]]:
    """Train for some epochs; go on after the last finished one if a checkpoint says so.

    Each epoch draws everything it needs, the order of the data and any noise, from its own seed. So
    an interrupted training that is taken up again ends with the weights of an uninterrupted one.
    Processes that train together each take a share of every batch; they end with the same weights,
    and those of one process up to rounding.

    Args:
        module: what is trained, on its device; a checkpoint holds its weights and buffers.
        loss: the mean over a batch.
        batches: gives the batches of one epoch from the epoch's generator.
        optimiser: over the module's weights; stepped at every batch.
        schedule: of its rate; stepped at every batch.
        epochs: how many in all.
        seed: of the training.
        checkpoint: a file, written whole after every epoch; None keeps none. A damaged one is set
            aside.
        key: describes the training, its data included; a checkpoint of another one is not taken up.
        report: called with the number of epochs done, before the first and after each.
        measure: called likewise after each epoch, with the mean loss of its batches, once whatever
            the interruptions; what it gives is kept with the weights.

    Returns:
        What ``measure`` gave after each epoch.
    """
    about = {"training": key, "seed": seed}
    device = next(module.parameters()).device
    if checkpoint and (found := read_record(checkpoint, about, _Checkpoint)):
        state, _ = found
        state.restore(module, optimiser, schedule)
        done, measured = state.epoch, state.measured
    else:
        done, measured = 0, []
    check_same(done, "the number of epochs that the checkpoint holds")
    report(done)
    for epoch in range(done, epochs):
        draw = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        with seeded_noise(1_000_003 * seed + epoch + 500_009 * rank(), device):
            losses = descend(loss, batches(draw), optimiser, schedule, shared=True)
        mean = float(np.mean(sum_over_processes(torch.stack(losses)).tolist()))
        measured.append(measure(epoch + 1, mean))
        if checkpoint:
            state = _Checkpoint.of(module, optimiser, schedule, epoch + 1, measured)
            write_record(checkpoint, about, _Checkpoint, state)
        report(epoch + 1)
    return measured


@dataclass(frozen=True)
class _Checkpoint:
    """A training as it is between two epochs.

    Attributes:
        epoch: how many are done.
        module: weights and buffers.
        moments: what the optimiser keeps of each parameter.
        groups: its options.
        schedule: how far it is.
        measured: what was measured so far.
    """

    epoch: int
    module: dict[str, Tensor]
    moments: dict[int, dict[str, Tensor]]
    groups: Any
    schedule: Any
    measured: list[list[float]]

    @classmethod
    def of(
        cls,
        module: nn.Module,
        optimiser: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        epoch: int,
        measured: list[list[float]],
    ) -> _Checkpoint:
        state = optimiser.state_dict()
        plain = {k: v for k, v in schedule.state_dict().items() if _is_plain(v)}
        groups = state["param_groups"]
        return cls(epoch, module.state_dict(), state["state"], groups, plain, measured)

    def restore(
        self,
        module: nn.Module,
        optimiser: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> None:
        module.load_state_dict(self.module)
        optimiser.load_state_dict({"state": self.moments, "param_groups": self.groups})
        schedule.load_state_dict({**schedule.state_dict(), **self.schedule})


def _is_plain(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, (bool, int, float, str))
        or (isinstance(value, (list, tuple)) and all(map(_is_plain, value)))
    )
