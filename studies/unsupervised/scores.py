"""How well the tasks of a stream were found: they come in any order."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from gbi_pyro.metrics.agreement import kl
from gbi_pyro.learning.labels import match_labels

RECALL = 0.8  # a task is found where one task of the network, its own, explains so much of it


class Scores(NamedTuple):
    """What is said of the scored steps of one stream.

    Attributes:
        accuracy: share of steps whose most probable task is the true one.
        error: squared error of the prediction E[x_t | x_1..t-1], mean.
        divergence: KL(exact filter || filtered), mean, in nats.
    """

    accuracy: float
    error: float
    divergence: float


def score(filtered: Tensor, mean: Tensor, x: Tensor, z: Tensor, exact: Tensor, tail: int) -> Scores:
    """Score the tail of one stream; its tasks are named on the half before, where it is known.

    Args:
        filtered: p(z_t | x_1..t), ``(T, K)``.
        mean: E[x_t | x_1..t-1], ``(T,)``.
        x: ``(T,)``.
        z: true task ids, ``(T,)``.
        exact: log p(z_t | x_1..t), the true generator known, ``(T, K)``.
        tail: how many steps are scored.
    """
    naming = slice((len(x) - tail) // 2, len(x) - tail)
    names = match_labels(filtered[naming], z[naming])[:-1]
    named = filtered[-tail:, names].double()
    # Where a task is all but ruled out, float32 rounds it to zero, and the divergence to infinity.
    log_named = named.clamp_min(1e-12).log().log_softmax(-1)
    return Scores(
        (named.argmax(-1) == z[-tail:]).double().mean().item(),
        (mean[-tail:] - x[-tail:]).double().square().mean().item(),
        kl(exact[-tail:], log_named).mean().item(),
    )


def found_all(q: Tensor, z: Tensor, names: Tensor | None = None) -> bool:
    """Say whether every true task has one of the network's own.

    Args:
        q: posterior, ``(..., K)``.
        z: true task ids, ``(...)``.
        names: of the true tasks, as ``match_labels`` gives them; matched here without.

    >>> import torch
    >>> q = torch.eye(2)[[0, 0, 1, 1]]
    >>> found_all(q, torch.tensor([1, 1, 0, 0])), found_all(q[:1].expand(4, 2), z=q[:, 0].long())
    (True, False)
    """
    names = match_labels(q, z) if names is None else names
    right = q.argmax(-1) == names[z]
    return all(right[z == k].double().mean().item() >= RECALL for k in z.unique().tolist())
