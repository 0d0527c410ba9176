"""The training loop, and training with checkpoints that ends the same after an interruption."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gbi_pyro.files import replacing

Loss = Callable[..., Tensor]
Batches = Callable[[torch.Generator], Iterable[tuple[Tensor, ...]]]


def descend(
    loss: Loss,
    batches: Iterable[tuple[Any, ...]],
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> None:
    """Take one step of the optimiser down the loss of each batch.

    Args:
        loss: called with a batch.
        batches: as many as there are steps; what has to be looked at between two steps belongs
            into a generator, behind its ``yield``.
        optimiser: over the weights.
        schedule: of its rate, stepped at every batch.
    """
    for batch in batches:
        value = loss(*batch)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        if schedule is not None:
            schedule.step()


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
) -> None:
    """Train for some epochs; go on after the last finished one if a checkpoint says so.

    Each epoch draws everything it needs, the order of the data and any noise, from its own seed. So
    an interrupted training that is taken up again ends with the weights of an uninterrupted one.

    Args:
        module: what is trained; a checkpoint holds its weights and buffers.
        loss: called with a batch.
        batches: gives the batches of one epoch from the epoch's generator.
        optimiser: over the module's weights; stepped at every batch.
        schedule: of its rate; stepped at every batch.
        epochs: how many in all.
        seed: of the training.
        checkpoint: a file, written whole after every epoch; None keeps none.
        key: describes the training; a checkpoint of another one is not taken up.
        report: called with the number of epochs done, before the first and after each.
    """
    done = _load(module, optimiser, schedule, checkpoint, key) if checkpoint else 0
    report(done)
    for epoch in range(done, epochs):
        draw = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        with torch.random.fork_rng(devices=[]):  # noise inside a model comes from the global state
            torch.manual_seed(1_000_003 * seed + epoch)
            descend(loss, batches(draw), optimiser, schedule)
        if checkpoint:
            _save(module, optimiser, schedule, checkpoint, key, epoch + 1)
        report(epoch + 1)


def _save(
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    path: Path,
    key: str,
    epoch: int,
) -> None:
    state = optimiser.state_dict()
    tensors = {f"module/{name}": value for name, value in module.state_dict().items()}
    for index, moments in state["state"].items():
        tensors |= {f"optimiser/{index}/{name}": value for name, value in moments.items()}
    about = {
        "key": key,
        "epoch": epoch,
        "groups": state["param_groups"],
        "schedule": {k: v for k, v in schedule.state_dict().items() if _is_plain(v)},
    }
    with replacing(path) as temporary:
        save_file(
            {k: v.contiguous() for k, v in tensors.items()}, temporary, {"about": json.dumps(about)}
        )


def _load(
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    path: Path,
    key: str,
) -> int:
    """Take up a checkpoint; returns the epochs done, 0 without one of this training."""
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
        if about["key"] != key:
            return 0
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    module.load_state_dict(
        {k.removeprefix("module/"): v for k, v in tensors.items() if k.startswith("module/")}
    )
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimiser/"):
            _, index, kind = name.split("/")
            moments.setdefault(int(index), {})[kind] = value
    optimiser.load_state_dict({"state": moments, "param_groups": about["groups"]})
    schedule.load_state_dict({**schedule.state_dict(), **about["schedule"]})
    return int(about["epoch"])


def _is_plain(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, (bool, int, float, str))
        or (isinstance(value, (list, tuple)) and all(map(_is_plain, value)))
    )
