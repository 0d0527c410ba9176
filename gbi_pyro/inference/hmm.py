"""Exact posterior over a chain of tasks: pure functions of tensors, no model and no Pyro.

One recursion serves both chains. A state is a task k together with the number d of steps that its
current block has lasted::

    (k, d) --1 - h_k(d)--> (k, d + 1)            the block goes on
    (k, d) ----h_k(d)----> (j, 1) with A[k, j]   it ends and a block of task j begins

where h_k(d) = p(D = d) / p(D >= d) is the hazard. An ordinary hidden Markov chain is the case in
which every block lasts one step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gbi_pyro._arrays import as_tensor
from gbi_pyro.inference.paths import Paths
from gbi_pyro.sites import simplex_tolerance

# Inside, -inf is this: logsumexp over nothing but -inf has gradient NaN. It is far below any log
# probability and far above overflow, even when thousands of them add up.
LOG_ZERO = -1e30


class HMMPosterior(NamedTuple):
    """The exact posterior over the tasks z_1..T of a chain; ``...`` is the batch.

    Attributes:
        log_filtered: log p(z_t | x_1..t), from the present and the past, (..., T, K).
        log_predicted: log p(z_t | x_1..t-1), before x_t is seen, (..., T, K); log p(z_1) at t = 1.
        log_smoothed: log p(z_t | x_1..T), from past and future, (..., T, K).
        log_evidence: log p(x_1..T), (...). Its gradient with respect to ``log_emission`` is the
            smoothed probability, which makes it a training objective too.
        viterbi: task ids of argmax p(z_1..T, block ends | x_1..T), (..., T) int64; None where it
            was not asked for.
        paths: the joint posterior, ``.sample(n)`` draws paths from it.
    """

    log_filtered: Tensor
    log_predicted: Tensor
    log_smoothed: Tensor
    log_evidence: Tensor
    viterbi: Tensor | None
    paths: Paths


def hmm_posterior(
    log_initial: Tensor | ArrayLike,
    log_transition: Tensor | ArrayLike,
    log_emission: Tensor | ArrayLike,
    *,
    viterbi: bool = True,
) -> HMMPosterior:
    """Return the exact posterior over the tasks of a hidden Markov chain.

    p(z, x) = p(z_1) p(x_1 | z_1) prod_{t > 1} A[z_{t-1}, z_t] p(x_t | z_t), by forward-backward and
    Viterbi (Rabiner 1989, A tutorial on hidden Markov models, Proc. IEEE 77, sec. III).

    Args:
        log_initial: log p(z_1), (..., K). No transition comes before the first observation; Pyro's
            ``DiscreteHMM`` applies one there, so the two agree when this is the product of its
            initial distribution and its first transition.
        log_transition: log A, rows the task left, columns the task entered, (..., K, K).
        log_emission: log p(x_t | z_t = k), (..., T, K). Densities need not be below one; -inf
            forbids a task.
        viterbi: whether to look for the most probable path too, about a quarter of the work.

    Returns:
        The posterior, on the device of ``log_emission`` and in the promoted dtype of the arguments,
        float32 at least.
        Leading dimensions broadcast.

    Raises:
        ValueError: for invalid shapes, dtypes, NaN, unnormalised rows, or data of probability zero.

    Example:
        >>> import torch
        >>> initial, transition = torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.1, 0.9]])
        >>> emission = torch.tensor([[1.0, 3.0], [1.0, 1.0]])
        >>> posterior = hmm_posterior(initial.log(), transition.log(), emission.log())
        >>> posterior.log_filtered.exp()
        tensor([[0.2500, 0.7500], [0.3000, 0.7000]])
    """
    log_initial = as_tensor(log_initial, "log_initial")
    one_step = log_initial.new_zeros((*log_initial.shape[-1:], 1))
    return hsmm_posterior(log_initial, log_transition, log_emission, one_step, viterbi=viterbi)


def hsmm_posterior(
    log_initial: Tensor | ArrayLike,
    log_transition: Tensor | ArrayLike,
    log_emission: Tensor | ArrayLike,
    log_duration: Tensor | ArrayLike,
    *,
    viterbi: bool = True,
) -> HMMPosterior:
    """Return the exact posterior over the tasks of a chain with explicit block lengths.

    A block of task k lasts D steps with p_k(D); the next block's task is drawn from A[k]. The first
    block begins at t = 1 and the last one may go on after T, where it contributes p(D >= d): a
    right-censored hidden semi-Markov model (Yu 2010, Hidden semi-Markov models, Artificial
    Intelligence 174), solved in O(T (K D + K^2)) time and O(T K D) memory on the states (k, d) of
    this module.

    Args:
        log_initial: log p(z_1), (..., K).
        log_transition: log A between *blocks*, rows the task left, (..., K, K). A[k, k] > 0 lets a
            block of task k follow another one.
        log_emission: log p(x_t | z_t = k), (..., T, K).
        log_duration: log p(a block of task k lasts d steps) at ``[k, d - 1]``, (..., K, D). -inf
            forbids a length.
        viterbi: whether to look for the most probable path too, about a quarter of the work.

    Returns:
        The posterior, on the device of ``log_emission`` and in the promoted dtype of the arguments,
        float32 at least.
        Leading dimensions broadcast. ``viterbi`` holds the tasks of the most probable blocks.

    Raises:
        ValueError: for invalid shapes, dtypes, NaN, unnormalised rows, or data of probability zero.

    Example:
        Blocks of exactly two steps, alternating: one clear observation settles every step.

        >>> import torch
        >>> swap, pairs = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0]] * 2)
        >>> emission = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [1.0, 0.0]])
        >>> start = torch.tensor([0.5, 0.5])
        >>> hsmm_posterior(start.log(), swap.log(), emission.log(), pairs.log()).viterbi
        tensor([1, 1, 0, 0])
    """
    log_initial, log_transition, log_emission, log_duration = _checked(
        log_initial, log_transition, log_emission, log_duration
    )
    T = log_emission.shape[-2]
    blocks = _Blocks.from_durations(log_transition, log_duration, T)
    batch = torch.broadcast_shapes(
        log_emission.shape[:-2], log_initial.shape[:-1], blocks.batch_shape
    )
    first = log_initial.new_full((*batch, log_initial.shape[-1], blocks.num_elapsed), LOG_ZERO)
    first[..., 0] = log_initial
    emission = log_emission.movedim(-2, 0).unsqueeze(-1).unbind(0)  # T times (..., K, 1)

    states, step_log_evidence, filtered, predicted = [], [], [], []
    for state, log_norm, prediction in _forward(first, emission, blocks, torch.logsumexp):
        states.append(state)
        step_log_evidence.append(log_norm)
        filtered.append(_any_elapsed(state, torch.logsumexp))
        predicted.append(_any_elapsed(prediction, torch.logsumexp))
    norms = torch.stack(step_log_evidence)  # log p(x_t | x_1..t-1), (T, ..., 1, 1)
    _check_possible(norms[..., 0, 0])
    return HMMPosterior(
        _finish(filtered),
        _finish(predicted),
        _finish(_smooth(states, norms, emission, blocks)),
        norms.sum(0)[..., 0, 0],
        _viterbi(first, emission, blocks) if viterbi else None,
        blocks.paths(states),
    )


@dataclass(frozen=True)
class _Blocks:
    """Moves between the states (task, elapsed); a message over them has shape (..., K, D)."""

    log_transition: Tensor  # (..., K, K)
    log_end: Tensor  # log h_k(d), (..., K, D)
    log_stay: Tensor  # log (1 - h_k(d)) for d < D, (..., K, D - 1)

    @classmethod
    def from_durations(cls, log_transition: Tensor, log_duration: Tensor, T: int) -> _Blocks:
        log_survival = log_duration.flip(-1).logcumsumexp(-1).flip(-1)  # log p(D >= d)
        end, stay = log_duration - log_survival, log_survival.diff()
        # Within T steps no block is seen to last longer than T.
        return cls(log_transition, end[..., :T], stay[..., : T - 1])

    def paths(self, states: list[Tensor]) -> Paths:
        """Return the joint posterior of a chain, given its filtered states."""
        kept = tuple(state.detach() for state in states)
        return Paths(kept, self.log_transition.detach(), self.log_end.detach())

    @property
    def num_elapsed(self) -> int:
        return self.log_end.shape[-1]

    @property
    def batch_shape(self) -> torch.Size:
        shapes = self.log_transition.shape[:-2], self.log_end.shape[:-2]
        return torch.Size(torch.broadcast_shapes(*shapes))

    def forward(self, state: Tensor, reduce: Callable[..., Tensor]) -> Tensor:
        """Carry log p(z_t, d_t | x_1..t) to t + 1; ``reduce`` sums over paths or takes the best."""
        ended = _any_elapsed(state + self.log_end, reduce).unsqueeze(-1)
        begun = reduce(ended + self.log_transition, -2).unsqueeze(-1)
        if self.num_elapsed == 1:
            return begun
        return torch.cat([begun, state[..., :-1] + self.log_stay], -1)

    def backward(self, message: Tensor) -> Tensor:
        """Carry log p(x_t+1..T | z_t+1, d_t+1) back to t."""
        begun = torch.logsumexp(self.log_transition + message[..., None, :, 0], -1, keepdim=True)
        ending = self.log_end + begun
        if self.num_elapsed == 1:
            return ending
        staying = self.log_stay + message[..., 1:]
        return torch.cat([torch.logaddexp(ending[..., :-1], staying), ending[..., -1:]], -1)


def _any_elapsed(message: Tensor, reduce: Callable[..., Tensor]) -> Tensor:
    """Reduce (..., K, D) over the elapsed steps."""
    return message.squeeze(-1) if message.shape[-1] == 1 else reduce(message, -1)


def _forward(
    predicted: Tensor, emission: tuple[Tensor, ...], blocks: _Blocks, reduce: Callable[..., Tensor]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the state normalised by ``reduce``, its normaliser and the prediction of each step."""
    for log_likelihood in emission:
        joint = predicted + log_likelihood
        norm = reduce(joint, (-2, -1), keepdim=True)
        state = joint - norm
        yield state, norm, predicted
        predicted = blocks.forward(state, reduce)


def _smooth(
    states: list[Tensor], norms: Tensor, emission: tuple[Tensor, ...], blocks: _Blocks
) -> list[Tensor]:
    """Return log p(z_t | x_1..T) of each step, (..., K)."""
    smoothed = [_any_elapsed(states[-1], torch.logsumexp)]
    future = torch.zeros_like(states[-1])
    for t in reversed(range(len(states) - 1)):
        future = blocks.backward(future + (emission[t + 1] - norms[t + 1]))
        smoothed.append(_any_elapsed(states[t] + future, torch.logsumexp))
    return smoothed[::-1]


def _finish(messages: list[Tensor]) -> Tensor:
    """Stack over time, (..., T, K), without a trace of LOG_ZERO or of the rows' tolerance."""
    log_probs = torch.stack(messages, -2).log_softmax(-1)
    return log_probs.masked_fill(log_probs < LOG_ZERO / 2, -math.inf)


@torch.no_grad()
def _viterbi(first: Tensor, emission: tuple[Tensor, ...], blocks: _Blocks) -> Tensor:
    """Return the tasks of the most probable path of states, (..., T); a state is k D + d - 1."""
    D, origins = blocks.num_elapsed, []
    for score, _, _ in _forward(first, emission, blocks, torch.amax):
        ended, elapsed = (score + blocks.log_end).max(-1)
        task = (ended.unsqueeze(-1) + blocks.log_transition).argmax(-2)
        origins.append(task * D + elapsed.gather(-1, task))  # of a block that begins, (..., K)
    state = score.flatten(-2).argmax(-1, keepdim=True)
    path = [state]
    for origin in reversed(origins[:-1]):
        begins = state % D == 0
        state = torch.where(begins, origin.gather(-1, state // D), state - 1)
        path.append(state)
    return torch.cat(path[::-1], -1) // D


def _checked(
    log_initial: Tensor | ArrayLike,
    log_transition: Tensor | ArrayLike,
    log_emission: Tensor | ArrayLike,
    log_duration: Tensor | ArrayLike,
) -> list[Tensor]:
    """Return the arguments in one dtype on one device, checked."""
    given = {
        "log_initial": log_initial,
        "log_transition": log_transition,
        "log_emission": log_emission,
        "log_duration": log_duration,
    }
    args = {name: as_tensor(value, name) for name, value in given.items()}
    log_initial, log_transition, log_emission, _ = args.values()
    K = log_initial.shape[-1] if log_initial.dim() else 0
    if K == 0:
        raise ValueError(f"log_initial should be (..., K), K >= 1; got {tuple(log_initial.shape)}")
    wanted = {
        "log_initial": (K,),
        "log_transition": (K, K),
        "log_emission": ("T", K),
        "log_duration": (K, "D"),
    }
    for name, value in args.items():
        tail = value.shape[-len(wanted[name]) :]
        if len(tail) != len(wanted[name]) or not all(
            got >= 1 if isinstance(want, str) else got == want
            for got, want in zip(tail, wanted[name], strict=True)
        ):
            shape = ", ".join(map(str, wanted[name]))
            raise ValueError(
                f"{name} should have shape (..., {shape}) with T, D >= 1 and K = {K} tasks as in "
                f"log_initial; got {tuple(value.shape)}: put tasks on the dimensions of size {K}"
            )
        if not value.is_floating_point():
            raise ValueError(
                f"{name} should hold log probabilities, floating numbers; got {value.dtype}: take "
                "the log of probabilities"
            )
        if not (value < math.inf).all():
            raise ValueError(
                f"{name} should hold log probabilities below +inf; got NaN or +inf: look for a log "
                "of a negative number or a network that diverged"
            )
        if name != "log_emission":
            _check_rows(name, value)
        if value.dtype.itemsize < 4:  # half precision: its rows sum to 1 within its rounding
            args[name] = value.float()
            if name != "log_emission":
                args[name] = args[name].log_softmax(-1)
    _check_transition(log_transition, log_emission)
    batches = {name: tuple(a.shape[: a.dim() - len(wanted[name])]) for name, a in args.items()}
    try:
        torch.broadcast_shapes(*batches.values())
    except RuntimeError:
        raise ValueError(
            f"the leading (batch) dimensions should broadcast; got {batches}: insert dimensions of "
            "size 1 where an argument is shared"
        ) from None
    dtype = functools.reduce(torch.promote_types, [a.dtype for a in args.values()])
    return [value.to(log_emission.device, dtype).clamp_min(LOG_ZERO) for value in args.values()]


def _check_transition(log_transition: Tensor, log_emission: Tensor) -> None:
    """Refuse transitions that may be one for each step, which look like one for each sequence."""
    steps, lead = log_emission.shape[-2], log_transition.shape[:-2]
    if lead and lead[-1] == steps > 1:
        K = log_transition.shape[-1]
        raise ValueError(
            f"log_transition of shape {tuple(log_transition.shape)} may hold one transition for "
            f"each of T = {steps} steps, which is not supported, or one for each sequence; "
            f"expected ({K}, {K}), the same at every step. For one of each sequence where there "
            "are T of them, infer the sequences in two parts"
        )


def _check_rows(name: str, value: Tensor) -> None:
    detached = value.detach() if value.dtype.itemsize > 2 else value.detach().float()
    total = detached.logsumexp(-1).exp()
    bad = (total - 1).abs() > simplex_tolerance(value.dtype)
    if bad.any():
        row = bad.nonzero()[0].tolist()
        raise ValueError(
            f"{name} should hold log probabilities normalised over the last dimension; those of "
            f"row {row} sum to {total[tuple(row)].item():.6g}: apply log_softmax(-1)"
        )


def _check_possible(step_log_evidence: Tensor) -> None:
    bad = step_log_evidence < LOG_ZERO / 2
    if bad.any():
        t, *element = bad.nonzero()[0].tolist()
        raise ValueError(
            f"the data should be possible under the chain; log p(x_t | earlier x) is -inf at step "
            f"{t} (counted from 0) of batch element {element}: every task still reachable there is "
            "forbidden by log_emission, so soften the emissions or the chain"
        )
