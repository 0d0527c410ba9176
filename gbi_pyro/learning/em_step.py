"""What a step of expectation maximisation records, and how much of it is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gbi_pyro.logjoint import Passes

MAX_HALVINGS = 12


@dataclass(frozen=True)
class EMStep:
    """What one step found before it moved the weights; sums over the batch, in nats.

    Attributes:
        log_evidence: log p(x, labels), where the E-step knows it.
        expected_log_joint: E_q log p(x, z); with ``m_step="relaxed"`` log p(x, Z = q) instead, and
            with ``"hard"`` log p(x, z) at the most probable tasks.
        entropy: H(q); zero with ``"hard"``.
        log_density: log density of the prior over tasks under its pseudo-counts, up to a constant.
        num_observations: observed values in the batch.
        accepted: how much of the optimiser's step was taken: 1, less after backtracking.
        promised: what the optimiser's whole step would gain by the gradient alone.
        passes: forward and backward passes of the whole step.
    """

    log_evidence: float | None
    expected_log_joint: float
    entropy: float
    log_density: float
    num_observations: float
    accepted: float
    promised: float
    passes: Passes

    @property
    def bound(self) -> float:
        """E_q log p(x, z) + H(q) <= log evidence, with equality for the exact posterior."""
        return self.expected_log_joint + self.entropy

    @property
    def objective(self) -> float:
        """The log evidence, or its bound where it is unknown, with the prior's log density."""
        log_evidence = self.bound if self.log_evidence is None else self.log_evidence
        return log_evidence + self.log_density


@torch.no_grad()
def first_order_gain(weights: list[Tensor], start: list[Tensor]) -> float:
    """Return how much less the loss is than at the start, by the gradient there."""
    moves = zip(weights, start, strict=True)
    gains = [(w.grad * (a - w)).sum().double() for w, a in moves if w.grad is not None]
    return torch.stack(gains).sum().item() if gains else 0.0


def backtrack(weights: list[Tensor], start: list[Tensor], falls: Callable[[], bool]) -> float:
    """Halve the step from the start to the weights while the objective falls.

    Args:
        weights: where a step has led; left at what is taken of it.
        start: where it began.
        falls: whether the objective is lower than before at the present weights.

    Returns:
        How much of the step is taken, 0 where no part of it raises the objective.
    """
    goal, taken = [w.detach().clone() for w in weights], 1.0
    for _ in range(MAX_HALVINGS):
        if not falls():
            return taken
        taken /= 2
        _place(weights, start, goal, taken)
    _place(weights, start, goal, 0.0)
    return 0.0


@torch.no_grad()
def _place(weights: list[Tensor], start: list[Tensor], goal: list[Tensor], part: float) -> None:
    for w, a, b in zip(weights, start, goal, strict=True):
        w.copy_(torch.lerp(a, b, part))
