"""Checks of activity, and why a number may mislead on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gbi_pyro._arrays import as_tensor

DOMINANT = 0.9  # share of the activity's self-similarity that one direction may have


def checked_activity(value: Any, name: str, least: int = 4) -> Tensor:
    """Return activity ``(N, units)`` in double precision on the CPU.

    Raises:
        ValueError: for another shape, too few samples, or numbers that are not finite.
    """
    found = as_tensor(value, name).detach().cpu().double()
    if found.dim() != 2 or len(found) < least or not found.shape[1]:
        raise ValueError(
            f"{name} should be (N, units), N >= {least} samples; got {tuple(found.shape)}: flatten "
            "time and trials together"
        )
    if not bool(found.isfinite().all()):
        raise ValueError(f"{name} should hold finite numbers; got NaN or infinite ones")
    return found


def checked_tasks(tasks: Any, num_samples: int) -> Tensor:
    """Return task ids ``(N,)`` on the CPU.

    Raises:
        ValueError: for another number of them.
    """
    found = as_tensor(tasks, "tasks").detach().cpu()
    if found.shape != (num_samples,):
        raise ValueError(
            f"tasks should be ({num_samples},), one id for each sample; got {tuple(found.shape)}"
        )
    return found


def centred(activity: Tensor) -> Tensor:
    """Return activity about its mean; exactly zero where it varies by rounding alone."""
    found = activity - activity.mean(0)
    size = found.square().sum()
    return found if size > 1e-24 * activity.square().sum() else torch.zeros_like(found)


def spectrum(centred_activity: Tensor) -> Tensor:
    """Return the eigenvalues of the covariance times N, largest first, ``(min(N, units),)``."""
    values: Tensor = torch.linalg.svdvals(centred_activity)
    return values.square()
