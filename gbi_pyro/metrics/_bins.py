"""Confidence of the most probable task, and bins of it."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Strategy = Literal["width", "mass"]


def top_label(log_q: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the confidence of each element, and whether it is right, (N,) each."""
    top = log_q.amax(-1)
    best = log_q == top.unsqueeze(-1)
    correct = best[torch.arange(len(y)), y].double() / best.sum(-1)
    return top.exp(), correct


def bin_members(values: Tensor, bins: int, strategy: Strategy) -> Tensor:
    """Return the number of the bin of each value in [0, 1], (N,).

    Raises:
        ValueError: for no bins, or an unknown strategy.
    """
    if bins < 1:
        raise ValueError(f"bins should be 1 or more; got {bins}: try 15")
    if strategy == "width":
        return ((values * bins).ceil().long() - 1).clamp(0, bins - 1)
    if strategy == "mass":
        last = [math.ceil((b + 1) * len(values) / bins) - 1 for b in range(bins)]
        return torch.searchsorted(values.sort().values[last], values.contiguous())
    raise ValueError(f"strategy should be 'width' or 'mass'; got {strategy!r}")
