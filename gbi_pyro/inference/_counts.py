"""Expected counts of tasks, and what the learned priors over tasks share."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from pyro.poutine.util import is_validation_enabled
from torch import Tensor

from gbi_pyro._arrays import as_tensor
from gbi_pyro.sites import simplex_tolerance


class Counts(NamedTuple):
    """How often each task begins and follows another, in expectation under a posterior.

    Attributes:
        initial: of the first (or the only) task, ``(K,)``.
        transition: of pairs of neighbours, rows the task left, ``(K, K)``; zero without a chain.
    """

    initial: Tensor
    transition: Tensor

    def discounted(self, rate: float, new: Counts) -> Counts:
        """Return (1 - rate) self + new: the memory of 1 / rate batches."""
        return Counts(*(n + (1 - rate) * old for old, n in zip(self, new, strict=True)))


class Explained(NamedTuple):
    """The exact posterior over tasks under a prior.

    Attributes:
        log_probs: log q(z), ``(..., K)``.
        log_evidence: log p(x) of each element, or of each sequence of a chain, ``(...)``.
        entropy: H(q) of all tasks together, a scalar.
        counts: what the prior learns from.
    """

    log_probs: Tensor
    log_evidence: Tensor
    entropy: Tensor
    counts: Counts


def real_elements(q: Tensor, padding: Tensor | None) -> Tensor:
    """Return 1 for each element that counts, 0 for padding: ``q.shape[:-1]``."""
    return torch.ones_like(q[..., 0]) if padding is None else (~padding).to(q).expand(q.shape[:-1])


def most_probable(counts: Tensor, log_probs: Tensor, pseudo: Tensor | float) -> Tensor:
    """Return log of (counts + pseudo), normalised; forbidden tasks stay so, empty rows as is."""
    total = (counts.to(log_probs) + pseudo).masked_fill(log_probs.isneginf(), 0.0)
    norm = total.sum(-1, keepdim=True)
    return torch.where(norm > 0, (total / norm.masked_fill(norm == 0, 1.0)).log(), log_probs)


def times_log(counts: Tensor, log_probs: Tensor) -> Tensor:
    """Return sum counts log p, where what never happens may be forbidden."""
    log_probs = log_probs.to(counts)
    return torch.where(counts == 0, 0.0, counts * log_probs).sum()


def where_allowed(pseudo: Tensor, log_probs: Tensor) -> Tensor:
    return pseudo.masked_fill(log_probs.isneginf(), 0.0)


def forbid(log_probs: Tensor, tasks: list[int]) -> Tensor:
    log_probs = log_probs.clone()
    log_probs[..., tasks] = -torch.inf
    total = log_probs.logsumexp(-1, keepdim=True)
    if bool(total.isneginf().any()):
        raise ValueError(
            "no task is left: expected to keep at least one task that the prior allows, and that "
            "every kept task can be followed by one"
        )
    return log_probs - total


def checked_log_probs(name: str, value: Tensor | ArrayLike, ndim: int) -> Tensor:
    """Return log probabilities in float64: a few numbers, whose rows should sum to 1 exactly.

    Checked where Pyro's validation is on.
    """
    value = as_tensor(value, name)
    if not is_validation_enabled():
        return value.double().log_softmax(-1)
    total = torch.tensor(1.0)
    if value.ndim == ndim and value.shape[-1] and value.is_floating_point():
        total = value.double().logsumexp(-1)
    tolerance = simplex_tolerance(value.dtype) if value.is_floating_point() else 0.0
    # Written so that a NaN fails it.
    if not bool((total.abs() < tolerance).all()):
        raise ValueError(
            f"{name} must hold log probabilities over its last dimension, with {ndim} "
            f"dimension(s); got shape {tuple(value.shape)}: apply log_softmax(-1)"
        )
    return value.double().log_softmax(-1)


def check_counts(**counts: float) -> None:
    for name, value in counts.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a pseudo-count >= 0, got {value}")
