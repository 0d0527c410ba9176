"""The device that networks run on.

One rule for all studies: data are drawn on the CPU by seeded generators and moved batch by batch;
networks are built on the CPU and moved; results come back to the CPU.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from studies.core.processes import num_processes

CPU = torch.device("cpu")
_RUNNING: ContextVar[torch.device] = ContextVar("device of the run", default=CPU)


def check_device(name: str) -> torch.device:
    """Return a device by its name.

    Raises:
        ValueError: for what is no device, or none of this machine.

    >>> check_device("cpu")
    device(type='cpu')
    """
    available = [kind for kind in ("cpu", "cuda", "mps") if _missing(kind) is None]
    expected = f"device: expected one of {', '.join(available)}, which this machine has"
    reason = _missing(name)
    if reason is not None:
        raise ValueError(f"{expected}; got {name!r}: {reason}")
    return torch.device(name)


def _missing(name: str) -> str | None:
    """Return why there is no such device, in one line; None where there is one."""
    try:
        device = torch.device(name)
        if device.type == "meta":
            return "it holds no numbers"
        with warnings.catch_warnings():  # about drivers that are too old
            warnings.simplefilter("ignore")
            torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        return str(error).splitlines()[0].rstrip(".:")
    return None


def describe_device(device: torch.device) -> str:
    """Return a device in words, with the name of its hardware where torch knows it.

    >>> describe_device(CPU)
    'cpu'
    """
    if device.type != "cuda":
        return str(device)
    return f"{device} ({torch.cuda.get_device_name(device)})"


@contextlib.contextmanager
def running_on(device: torch.device) -> Iterator[None]:
    """Have networks run on a device inside."""
    token = _RUNNING.set(device)
    try:
        yield
    finally:
        _RUNNING.reset(token)


def run_device() -> torch.device:
    """Return the device that networks run on, and batches are moved to."""
    return _RUNNING.get()


def run_key() -> dict[str, Any]:
    """Return what finished units depend on by where they ran: digits differ between devices.

    Nothing on one CPU, so that units without a word on it are of one.
    """
    device = {} if run_device() == CPU else {"device": run_device().type}
    return device if num_processes() == 1 else {**device, "processes": num_processes()}


def moved(batch: tuple[Any, ...], device: torch.device) -> tuple[Any, ...]:
    """Return a batch with its tensors on a device; anything else stays as it is."""
    return tuple(part.to(device) if isinstance(part, Tensor) else part for part in batch)


@contextlib.contextmanager
def seeded_noise(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global random state inside, which noise within a network comes from."""
    own = [] if device.type == "cpu" else [device]
    kind = "cuda" if device.type == "cpu" else device.type
    with torch.random.fork_rng(devices=own, device_type=kind):
        torch.manual_seed(seed)
        yield
