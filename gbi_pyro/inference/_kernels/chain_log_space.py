"""The recursion of a hidden (semi-)Markov chain in log space: slow, and good for any numbers.

A state is a task k together with the number d of steps that its current block has lasted::

    (k, d) --1 - h_k(d)--> (k, d + 1)            the block goes on
    (k, d) ----h_k(d)----> (j, 1) with A[k, j]   it ends and a block of task j begins

where h_k(d) = p(D = d) / p(D >= d) is the hazard. An ordinary hidden Markov chain is the case in
which every block lasts one step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# Inside, -inf is this: logsumexp over nothing but -inf has gradient NaN. It is far below any log
# probability and far above overflow, even when thousands of them add up.
LOG_ZERO = -1e30


class Solved(NamedTuple):
    """What the recursion finds.

    Attributes:
        log_filtered, log_predicted, log_smoothed: ``(..., T, K)``.
        step_log_evidence: log p(x_t | x_1..t-1), ``(..., T)``.
        log_states: log p(z_t, d_t | x_1..t), ``(..., T, K, D)``, -inf as ``LOG_ZERO``.
        log_end: log h_k(d), ``(..., K, D)``.
    """

    log_filtered: Tensor
    log_predicted: Tensor
    log_smoothed: Tensor
    step_log_evidence: Tensor
    log_states: Tensor
    log_end: Tensor


def solve(
    log_initial: Tensor, log_transition: Tensor, log_emission: Tensor, log_duration: Tensor
) -> Solved:
    """Filter and smooth chains.

    Args:
        log_initial: ``(..., K)``.
        log_transition: between blocks, ``(..., 1 or T - 1, K, K)``.
        log_emission: ``(..., T, K)``.
        log_duration: ``(..., K, D)``.
    """
    first, emission, blocks = _prepared(log_initial, log_transition, log_emission, log_duration)
    states, norms, filtered, predicted = [], [], [], []
    for state, log_norm, prediction in _forward(first, emission, blocks, torch.logsumexp):
        states.append(state)
        norms.append(log_norm)
        filtered.append(_any_elapsed(state, torch.logsumexp))
        predicted.append(_any_elapsed(prediction, torch.logsumexp))
    return Solved(
        _finish(filtered),
        _finish(predicted),
        _finish(_smooth(states, norms, emission, blocks)),
        torch.stack([norm[..., 0, 0] for norm in norms], -1),
        torch.stack([state.detach() for state in states], -3),
        blocks.log_end,
    )


def _prepared(
    log_initial: Tensor, log_transition: Tensor, log_emission: Tensor, log_duration: Tensor
) -> tuple[Tensor, tuple[Tensor, ...], Blocks]:
    blocks = Blocks.from_durations(log_transition, log_duration, log_emission.shape[-2])
    batch = torch.broadcast_shapes(
        log_emission.shape[:-2], log_initial.shape[:-1], blocks.batch_shape
    )
    first = log_initial.new_full((*batch, log_initial.shape[-1], blocks.num_elapsed), LOG_ZERO)
    first[..., 0] = log_initial
    return first, log_emission.movedim(-2, 0).unsqueeze(-1).unbind(0), blocks  # T times (..., K, 1)


@torch.no_grad()
def best_path(
    log_initial: Tensor, log_transition: Tensor, log_emission: Tensor, log_duration: Tensor
) -> Tensor:
    """Return the tasks of the most probable path of states, ``(..., T)``; see ``solve``."""
    first, emission, blocks = _prepared(log_initial, log_transition, log_emission, log_duration)
    D, origins = blocks.num_elapsed, []  # a state is k D + d - 1
    for t, (score, _, _) in enumerate(_forward(first, emission, blocks, torch.amax)):
        if t + 1 == len(emission):
            break
        ended, elapsed = (score + blocks.log_end).max(-1)
        task = (ended.unsqueeze(-1) + blocks.transition(t)).argmax(-2)
        origins.append(task * D + elapsed.gather(-1, task))  # of a block that begins, (..., K)
    state = score.flatten(-2).argmax(-1, keepdim=True)
    path = [state]
    for origin in reversed(origins):
        begins = state % D == 0
        state = torch.where(begins, origin.gather(-1, state // D), state - 1)
        path.append(state)
    return torch.cat(path[::-1], -1) // D


@dataclass(frozen=True)
class Blocks:
    """Moves between the states (task, elapsed); a message over them has shape (..., K, D)."""

    log_transition: Tensor  # (..., 1 or T - 1, K, K)
    log_end: Tensor  # log h_k(d), (..., K, D)
    log_stay: Tensor  # log (1 - h_k(d)) for d < D, (..., K, D - 1)

    @classmethod
    def from_durations(cls, log_transition: Tensor, log_duration: Tensor, T: int) -> Blocks:
        log_survival = log_duration.flip(-1).logcumsumexp(-1).flip(-1)  # log p(D >= d)
        end, stay = log_duration - log_survival, log_survival.diff()
        # Within T steps no block is seen to last longer than T.
        return cls(log_transition, end[..., :T], stay[..., : T - 1])

    def transition(self, t: int) -> Tensor:
        """Return log A from step t to the next, ``(..., K, K)``; any, after the last step."""
        return self.log_transition[..., t % self.log_transition.shape[-3], :, :]

    @property
    def num_elapsed(self) -> int:
        return self.log_end.shape[-1]

    @property
    def batch_shape(self) -> torch.Size:
        shapes = self.log_transition.shape[:-3], self.log_end.shape[:-2]
        return torch.Size(torch.broadcast_shapes(*shapes))

    def forward(self, t: int, state: Tensor, reduce: Callable[..., Tensor]) -> Tensor:
        """Carry log p(z_t, d_t | x_1..t) to t + 1; ``reduce`` sums over paths or takes the best."""
        ended = _any_elapsed(state + self.log_end, reduce).unsqueeze(-1)
        begun = reduce(ended + self.transition(t), -2).unsqueeze(-1)
        if self.num_elapsed == 1:
            return begun
        return torch.cat([begun, state[..., :-1] + self.log_stay], -1)

    def backward(self, t: int, message: Tensor) -> Tensor:
        """Carry log p(x_t+1..T | z_t+1, d_t+1) back to t."""
        begun = torch.logsumexp(self.transition(t) + message[..., None, :, 0], -1, keepdim=True)
        ending = self.log_end + begun
        if self.num_elapsed == 1:
            return ending
        staying = self.log_stay + message[..., 1:]
        return torch.cat([torch.logaddexp(ending[..., :-1], staying), ending[..., -1:]], -1)


def _any_elapsed(message: Tensor, reduce: Callable[..., Tensor]) -> Tensor:
    """Reduce (..., K, D) over the elapsed steps."""
    return message.squeeze(-1) if message.shape[-1] == 1 else reduce(message, -1)


def _forward(
    predicted: Tensor, emission: tuple[Tensor, ...], blocks: Blocks, reduce: Callable[..., Tensor]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the state normalised by ``reduce``, its normaliser and the prediction of each step."""
    for t, log_likelihood in enumerate(emission):
        joint = predicted + log_likelihood
        norm = reduce(joint, (-2, -1), keepdim=True)
        state = joint - norm
        yield state, norm, predicted
        if t + 1 < len(emission):
            predicted = blocks.forward(t, state, reduce)


def _smooth(
    states: list[Tensor], norms: list[Tensor], emission: tuple[Tensor, ...], blocks: Blocks
) -> list[Tensor]:
    """Return log p(z_t | x_1..T) of each step, (..., K)."""
    smoothed = [_any_elapsed(states[-1], torch.logsumexp)]
    future = torch.zeros_like(states[-1])
    for t in reversed(range(len(states) - 1)):
        future = blocks.backward(t, future + (emission[t + 1] - norms[t + 1]))
        smoothed.append(_any_elapsed(states[t] + future, torch.logsumexp))
    return smoothed[::-1]


def _finish(messages: list[Tensor]) -> Tensor:
    """Stack over time, (..., T, K), without a trace of LOG_ZERO or of the rows' tolerance."""
    log_probs = torch.stack(messages, -2).log_softmax(-1)
    return log_probs.masked_fill(log_probs < LOG_ZERO / 2, -math.inf)
