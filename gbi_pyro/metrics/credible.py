"""Credible sets of tasks: their coverage and their size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gbi_pyro.metrics._validate import check_level, checked_forecast, checked_rows
from gbi_pyro.metrics.intervals import jeffreys_interval

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
ROUNDING = 1e-12  # a sum of probabilities that reaches a level up to this reaches it


class CredibleCoverage(NamedTuple):
    """Credible sets judged by labels; one row per nominal level, (levels,) each.

    Attributes:
        level: the nominal level a.
        claimed: mean probability of the sets, at least a: what a calibrated posterior covers.
        coverage: share of the sets that hold the label.
        coverage_low: lower end of Jeffreys' 95 % interval of the coverage.
        coverage_high: upper end.
        mean_size: mean number of tasks in a set.
    """

    level: Tensor
    claimed: Tensor
    coverage: Tensor
    coverage_low: Tensor
    coverage_high: Tensor
    mean_size: Tensor


def credible_set(log_probs: Tensor | ArrayLike, level: float) -> Tensor:
    """Return the highest-probability set of tasks of each element.

    {k : q_k >= c} with the largest c for which the set has probability ``level`` or more (Hyndman
    1996, Computing and graphing highest density regions). Equally probable tasks are in it
    together, so that it does not depend on how tasks are numbered.

    Args:
        log_probs: normalised log probabilities, (..., K).
        level: nominal level, in (0, 1).

    Returns:
        Whether each task is in the set, (..., K), bool.

    Raises:
        ValueError: for an invalid level, or rows that are not log probabilities.

    Example:
        >>> credible_set(torch.tensor([0.1, 0.6, 0.3]).log(), 0.8)
        tensor([False,  True,  True])
    """
    check_level(level, 0.9)
    q = checked_rows(log_probs).softmax(-1)
    ordered = q.sort(-1, descending=True).values
    before = ordered.cumsum(-1) - ordered
    size = (before < level - ROUNDING).sum(-1, keepdim=True)
    return q >= ordered.gather(-1, size - 1)


def credible_coverage(
    log_probs: Tensor | ArrayLike,
    labels: Tensor | ArrayLike,
    levels: Sequence[float] = LEVELS,
) -> CredibleCoverage:
    """Compare the nominal with the true coverage of highest-probability sets.

    A set of tasks seldom has probability a exactly: the sets of a calibrated posterior hold the
    label in a share ``claimed`` >= a of cases. Compare coverage with that, not with a.

    Args:
        log_probs: normalised log probabilities, (N, K).
        labels: true task ids, (N,), integers.
        levels: nominal levels a, in (0, 1).

    Raises:
        ValueError: as ``accuracy``, and for invalid levels or none.

    Example:
        >>> log_probs = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.1, 0.8]]).log()
        >>> found = credible_coverage(log_probs, [1, 2], levels=[0.5, 0.8])
        >>> found.coverage, found.mean_size
        (tensor([0.5000, 1.0000], dtype=torch.float64), tensor([1.0000, 1.5000],
        dtype=torch.float64))
    """
    log_q, y = checked_forecast(log_probs, labels)
    if not len(levels):
        raise ValueError(f"levels should hold at least one level; got none: try {LEVELS}")
    sets = torch.stack([credible_set(log_q, level) for level in levels])
    held = sets[:, torch.arange(len(y)), y].sum(-1)
    ends = jeffreys_interval(held, torch.full_like(held, len(y)))
    return CredibleCoverage(
        torch.tensor(list(levels), dtype=torch.float64),
        (sets * log_q.softmax(-1)).sum(-1).mean(-1),
        held.double() / len(y),
        *ends,
        sets.sum(-1).double().mean(-1),
    )
