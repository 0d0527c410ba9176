"""What diagnostics ask of log probabilities and labels before they compute anything."""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from torch import Tensor

ROW_TOLERANCE = 1e-4  # a float32 row of probabilities sums to 1 only within this


def checked_rows(log_probs: Tensor | ArrayLike, name: str = "log_probs") -> Tensor:
    """Return log probabilities in double precision, or say what is unfit.

    Args:
        log_probs: normalised log probabilities, (..., K).
        name: what the error message calls them.

    Raises:
        ValueError: for no tasks, or rows that are no log probabilities.

    Example:
        >>> checked_rows([-0.5, -0.5])
        Traceback (most recent call last):
        ValueError: log_probs should hold log probabilities normalised over the last dimension; ...
    """
    value = torch.as_tensor(log_probs).detach().double()
    if value.dim() == 0 or value.shape[-1] == 0:
        raise ValueError(f"{name} should be (..., K), tasks last; got {tuple(value.shape)}")
    total = value.exp().sum(-1)
    if not bool(((total - 1).abs() <= ROW_TOLERANCE).all()):
        worst = total.flatten()[(total - 1).abs().argmax()].item()
        raise ValueError(
            f"{name} should hold log probabilities normalised over the last dimension; got a row "
            f"that sums to {worst:.6g}: take the log of probabilities, log_softmax(-1) of scores"
        )
    return value


def checked_forecast(
    log_probs: Tensor | ArrayLike, labels: Tensor | ArrayLike
) -> tuple[Tensor, Tensor]:
    """Return both on the CPU, or say what is unfit."""
    log_q, y = checked_rows(log_probs).cpu(), torch.as_tensor(labels).detach().cpu()
    if log_q.dim() != 2:
        raise ValueError(
            f"log_probs should be (N, K), one row per element; got {tuple(log_q.shape)}: "
            ".flatten(0, -2) what has more dimensions, and the labels with .flatten()"
        )
    if y.shape != log_q.shape[:1]:
        raise ValueError(
            f"labels should be ({len(log_q)},), one task id per row of log_probs; got "
            f"{tuple(y.shape)}: take .argmax(-1) of one-hot labels"
        )
    if len(y) == 0:
        raise ValueError("log_probs should hold at least one element to judge; got none")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"labels should be integers, task ids; got {y.dtype}: try .long()")
    y = y.long()
    if bool(((y < 0) | (y >= log_q.shape[-1])).any()):
        raise ValueError(
            f"labels should be task ids 0 .. {log_q.shape[-1] - 1}, as log_probs has "
            f"{log_q.shape[-1]} tasks; got {y.min().item()} .. {y.max().item()}: number the tasks "
            "from 0"
        )
    return log_q, y
