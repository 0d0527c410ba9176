"""How well the tasks of a stream were found: they come in any order."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gbi_pyro.learning.labels import match_labels
from gbi_pyro.metrics.agreement import kl

RECALL = 0.8  # a task is found where one task of the network, its own, explains so much of it


@dataclass(frozen=True)
class Scores:
    """How well one method predicted the scored steps of one stream.

    Attributes:
        accuracy: share of steps whose most probable task is the true one.
        error: squared error of the prediction E[x_t | x_1..t-1], mean.
        divergence: KL(exact filter || filtered), mean, in nats.
    """

    accuracy: float
    error: float
    divergence: float


def match_tasks(filtered: Tensor, z: Tensor, tail: int) -> Tensor:
    """Return posteriors ``(T, K)`` with their tasks in the order of the true ones.

    They are matched on the later half of the steps before the tail, which alone is scored.
    """
    before = slice((len(z) - tail) // 2, len(z) - tail)
    return filtered[:, match_labels(filtered[before], z[before])[:-1]]


def score(
    matched: Tensor, mean: Tensor, x: Tensor, z: Tensor, log_exact: Tensor, tail: int
) -> Scores:
    """Score the tail of one stream.

    Args:
        matched: p(z_t | x_1..t), by ``match_tasks``, ``(T, K)``.
        mean: E[x_t | x_1..t-1], ``(T,)``.
        x: ``(T,)``.
        z: true task ids, ``(T,)``.
        log_exact: log p(z_t | x_1..t) of the stream's own generator, ``(T, K)``.
        tail: how many steps are scored.
    """
    q = matched[-tail:].double()
    # Where a task is all but ruled out, float32 rounds it to zero, and the divergence to infinity.
    log_q = q.clamp_min(1e-12).log().log_softmax(-1)
    return Scores(
        (q.argmax(-1) == z[-tail:]).double().mean().item(),
        (mean[-tail:] - x[-tail:]).double().square().mean().item(),
        kl(log_exact[-tail:], log_q).mean().item(),
    )


def found_all(q: Tensor, z: Tensor) -> bool:
    """Return whether every true task has one of the network's own.

    Args:
        q: posterior, ``(..., K)``.
        z: true task ids, ``(...)``.

    >>> import torch
    >>> q = torch.eye(2)[[0, 0, 1, 1]]
    >>> found_all(q, torch.tensor([1, 1, 0, 0])), found_all(q[:1].expand(4, 2), z=q[:, 0].long())
    (True, False)
    """
    right = q.argmax(-1) == match_labels(q, z)[z]
    return all(right[z == k].double().mean().item() >= RECALL for k in z.unique().tolist())
