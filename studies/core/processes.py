"""Several processes that train one network on shares of each batch, started by ``torchrun``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@contextlib.contextmanager
def joined_processes(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that ``torchrun`` has started; without it there is one.

    Args:
        device: of the run; of several CUDA devices each process takes its own.

    Yields:
        The device of this process.
    """
    if dist.is_initialized() or not _started_by_torchrun():
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def _started_by_torchrun() -> bool:
    return dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1


def num_processes() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process among them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process writes files."""
    return rank() == 0


def wait_for_all() -> None:
    """Wait until all processes are here."""
    if num_processes() > 1:
        dist.barrier()


def own_share(batch: tuple[Any, ...]) -> tuple[tuple[Any, ...], float]:
    """Return this process's share of a batch, and its fraction of the batch.

    The fraction times the mean loss of the share, summed over processes, is the mean loss of the
    batch, shares of unequal size included.

    Raises:
        ValueError: for a batch smaller than the number of processes.
    """
    if num_processes() == 1:
        return batch, 1.0
    size, own, count = len(batch[0]), rank(), num_processes()
    if size < count:
        raise ValueError(
            f"a batch should hold at least one element for each process; got {size} for {count}: "
            "start fewer, or ask for larger batches"
        )
    part = slice(size * own // count, size * (own + 1) // count)
    return tuple(values[part] for values in batch), (part.stop - part.start) / size


def sum_over_processes(value: Tensor) -> Tensor:
    """Return the sum of a tensor over the processes."""
    if num_processes() > 1:
        dist.all_reduce(value)
    return value


def sum_gradients(optimiser: torch.optim.Optimizer) -> None:
    """Replace the gradients of an optimiser's weights by their sum over the processes."""
    if num_processes() == 1:
        return
    weights = [p for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    total = sum_over_processes(torch.cat([p.grad.flatten() for p in weights]))
    for weight, gradient in zip(weights, total.split([p.numel() for p in weights]), strict=True):
        weight.grad = gradient.view_as(weight)


def check_same(value: int, what: str) -> None:
    """Refuse a number that is not the same in all processes.

    Raises:
        ValueError: names what it is.
    """
    if num_processes() == 1:
        return
    found: list[Any] = [None] * num_processes()
    dist.all_gather_object(found, value)
    if len(set(found)) > 1:
        raise ValueError(
            f"{what} should be the same in all processes; got {found}: give a folder that all of "
            "them see"
        )
