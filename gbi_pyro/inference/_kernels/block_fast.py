"""The compiled semi-Markov recursion for tensors, with the gradient of the evidence."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.inference._kernels import chain_fast as fast
from gbi_pyro.inference._kernels import chain_log_space as log_space
from gbi_pyro.sites import simplex_tolerance

Blocks = tuple[Tensor, Tensor, Tensor]


def solve(*args: Tensor) -> tuple[fast.Outputs, Blocks] | None:
    """Filter and smooth semi-Markov chains; gradients as in ``chain_fast.solve``.

    Args:
        args: log_initial, log_transition, log_emission as in ``chain_fast.solve``, and
            log_duration, ``(..., K, D)``.

    Returns:
        What ``chain_fast.solve`` does, and what blocks are drawn from: p(a block of k begins at t
        | x_1..t-1), p(one ends at t | x_1..t) and p(x_t | k) / p(x_t | x_1..t-1), ``(..., T, K)``.
    """
    if not fast.runs_here(*args):
        return None
    if torch.is_grad_enabled() and any(a.requires_grad for a in args):
        counts: list[Any] = []
        found: Any = _Chain.apply(counts, *args)  # type: ignore[no-untyped-call]
        if not counts:
            return None
    else:
        solved = _solve(args, count=False)
        if solved is None:
            return None
        found, counts = solved
    batch = found[4].shape
    begun, ended, gain = (fast.tensor(x, batch, torch.float64) for x in counts[:3])
    return found, (begun, ended, gain)


def best_path(*args: Tensor) -> Tensor:
    """Return the tasks of the most probable blocks, ``(..., T)``; arguments as in ``solve``."""
    from gbi_pyro.inference._kernels import block_kernel as kernel  # late: numba is slow to load

    log_initial, log_transition, log_emission, log_duration = (
        a.detach().clamp_min(log_space.LOG_ZERO) for a in args
    )
    batch = _batch_shape(*args)
    T = log_emission.shape[-2]
    blocks = log_space.Blocks.from_durations(log_transition, log_duration, T)
    stay = torch.nn.functional.pad(blocks.log_stay, (0, 1), value=log_space.LOG_ZERO)
    end, going = (fast.array(x.flip(-1), 2, batch) for x in (blocks.log_end, stay))
    initial, transition, emission = fast.flat(log_initial, log_transition, log_emission, batch)
    path = np.empty(emission.shape[:-1], dtype=np.int64)
    kernel.best_path(initial, transition, emission, end, going, path)
    return torch.from_numpy(path.reshape(*batch, T))


class _Chain(torch.autograd.Function):
    """``solve`` with gradients."""

    @staticmethod
    def forward(ctx: Any, counts: list[np.ndarray], *args: Tensor) -> Any:
        """Solve without a graph."""
        solved = _solve(args, count=True)
        ctx.set_materialize_grads(False)
        if solved is None:
            return (None,) * 5
        found, counted = solved
        counts.extend(counted)
        ctx.save_for_backward(*args, found[2])
        ctx.counts = counted
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of the arguments."""
        *args, smoothed = ctx.saved_tensors
        total, wanted = grads[4], ctx.needs_input_grad[1:]
        if total is None or any(g is not None for g in grads[:4]) or torch.is_grad_enabled():
            return None, *fast.through_log_space(tuple(args), grads)
        return None, *_gradient(tuple(args), smoothed, ctx.counts, total, wanted)


def _batch_shape(*args: Tensor) -> torch.Size:
    batch, lead = fast.batch_shape(*args[:3]), args[3].shape[:-2]
    return batch if not lead else torch.Size(torch.broadcast_shapes(batch, lead))


def _solve(
    args: tuple[Tensor, ...], *, count: bool
) -> tuple[fast.Outputs, list[np.ndarray]] | None:
    from gbi_pyro.inference._kernels import block_kernel as kernel  # late: numba is slow to load

    log_initial, log_transition, log_emission, log_duration = args
    batch, dtype = _batch_shape(*args), log_emission.dtype
    initial, transition, emission = fast.flat(log_initial, log_transition, log_emission, batch)
    duration = fast.array(log_duration, 2, batch)
    B, T, K = emission.shape
    filtered, predicted, smoothed, *blocks = (np.empty(emission.shape) for _ in range(7))
    steps, total = np.empty((B, T)), np.empty(B)
    lengths, unfinished = (
        np.empty((B, K if count else 0, min(T, duration.shape[2]))) for _ in range(2)
    )
    posterior = filtered, predicted, smoothed, steps, total
    counts = [*blocks, lengths, unfinished]
    if not kernel.forward_backward(
        initial, transition, emission, duration, simplex_tolerance(dtype), *posterior, *counts
    ):
        return None
    f, p, s, each, sums = (fast.tensor(x, batch, dtype) for x in posterior)
    return (f, p, s, each, sums), counts


def _gradient(
    args: tuple[Tensor, ...],
    log_smoothed: Tensor,
    counts: list[np.ndarray],
    weight: Tensor,
    wanted: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Return weighted posterior counts of first tasks, of pairs, of tasks and of lengths."""
    batch = log_smoothed.shape[:-2]
    begun, ended, _, starts, lengths, unfinished = (torch.from_numpy(x) for x in counts)
    log_transition, log_duration, log_tasks, w = (
        torch.from_numpy(fast.array(x, rank, batch))
        for x, rank in ((args[1], 3), (args[3], 2), (log_smoothed, 2), (weight, 0))
    )
    w = w[:, None, None]
    tasks = w * log_tasks.exp()
    entered = torch.where(begun > 0, starts / begun, 0)[:, 1:]
    kept = "b" * (len(log_transition) > 1) + "t" * (log_transition.shape[1] > 1)
    pairs = torch.einsum(f"bti,btj->{kept}ij", w * ended[:, :-1], entered)
    pairs = pairs.reshape(log_transition.shape) * log_transition.exp()
    # The law counts as normalised: log p(d) - log sum p for a block that ends, the same of
    # p(D >= d) for the last one.
    law = log_duration.softmax(-1)
    survival = law.flip(-1).cumsum(-1).flip(-1)[..., : lengths.shape[-1]]
    beyond = (0, law.shape[-1] - lengths.shape[-1])
    going = torch.where(survival > 0, unfinished.flip(-1) / survival, 0)
    going = torch.nn.functional.pad(going, beyond).cumsum(-1) - starts.sum(1).unsqueeze(-1)
    ended_at = torch.nn.functional.pad(lengths.flip(-1), beyond) + law * going
    found = tasks[:, 0], pairs, tasks, w * ended_at
    return tuple(
        fast.summed(x.numpy(), like, batch) if want else None
        for x, like, want in zip(found, args, wanted, strict=True)
    )
