"""The compiled recursion for tensors, with the gradient of the evidence in closed form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.inference._kernels import chain_log_space as log_space
from gbi_pyro.sites import simplex_tolerance

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
_ALONE = torch.Size()
_DTYPES = torch.float32, torch.float64


def solve(log_initial: Tensor, log_transition: Tensor, log_emission: Tensor) -> Outputs | None:
    """Filter and smooth hidden Markov chains.

    The gradient of the log evidence is that of its definition in closed form: posterior counts of
    first tasks, of pairs and of tasks. Gradients of anything else, and second ones, go through the
    recursion in log space.

    Args:
        log_initial: ``(..., K)``.
        log_transition: ``(..., 1 or T - 1, K, K)``.
        log_emission: ``(..., T, K)``.

    Returns:
        Log filtered, predicted and smoothed, ``(..., T, K)``; log p(x_t | x_1..t-1), ``(..., T)``;
        and its sum, ``(...)``. None where numbers are too small for it, impossible data included,
        for what is no chain, and on other devices than the CPU.
    """
    args = log_initial, log_transition, log_emission
    if not runs_here(*args):
        return None
    if torch.is_grad_enabled() and any(a.requires_grad for a in args):
        found: Any = _Chain.apply(*args)  # type: ignore[no-untyped-call]
        return None if found[0] is None else found
    return _solve(*args)


def evidence(log_initial: Tensor, log_transition: Tensor, log_emission: Tensor) -> Tensor | None:
    """Return the log evidence alone, ``(...)``, with its gradient: half the work of ``solve``."""
    args = log_initial, log_transition, log_emission
    if not runs_here(*args):
        return None
    if torch.is_grad_enabled() and any(a.requires_grad for a in args):
        if log_transition.shape[-3] > 1 == log_transition.shape[:-3].numel():
            # Steps that sequences share are summed as they are counted, to save memory.
            solved = solve(*args)
            return None if solved is None else solved[4]
        found: Tensor | None = _Evidence.apply(*args)  # type: ignore[no-untyped-call]
        return found
    counted = counts(*args, pairs=False)
    return None if counted is None else counted[0]


def counts(
    log_initial: Tensor, log_transition: Tensor, log_emission: Tensor, *, pairs: bool = True
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return the log evidence and the posterior probabilities of tasks and of pairs of tasks.

    Returns:
        ``(...)``; ``(..., T, K)``; and ``(..., T - 1, K, K)``, or ``(..., 1, K, K)`` summed over
        steps with one transition for all, or ``(..., 0, K, K)`` without ``pairs``. None where
        ``solve`` says so.
    """
    from gbi_pyro.inference._kernels import count_kernel as kernel  # late: numba is slow to load

    args = log_initial, log_transition, log_emission
    batch, dtype = batch_shape(*args), log_emission.dtype
    initial, transition, emission = flat(*args, batch)
    B, M, K = len(emission), transition.shape[1], emission.shape[-1]
    total, tasks = np.empty(B), np.empty(emission.shape)
    counted, failed = np.zeros((B, M if pairs else 0, K, K)), np.zeros(B, dtype=np.bool_)
    tolerance = simplex_tolerance(dtype)
    kernel.evidence_and_counts(
        initial, transition, emission, tolerance, total, tasks, counted, failed
    )
    if failed.any():
        return None
    e, q, p = (tensor(x, batch, dtype) for x in (total, tasks, counted))
    return e, q, p


def runs_here(*args: Tensor) -> bool:
    """Whether the compiled code can read the arguments as they are."""
    dtype = args[0].dtype
    return dtype in _DTYPES and all(a.is_cpu and a.dtype == dtype for a in args)


def best_path(log_initial: Tensor, log_transition: Tensor, log_emission: Tensor) -> Tensor:
    """Return the tasks of the most probable path, ``(..., T)``; arguments as in ``solve``."""
    from gbi_pyro.inference._kernels import chain_kernel as kernel  # late: numba is slow to load

    args = log_initial, log_transition, log_emission
    batch = batch_shape(*args)
    initial, transition, emission = flat(*args, batch)
    path = torch.empty((*batch, log_emission.shape[-2]), dtype=torch.int64)
    kernel.best_path(initial, transition, emission, path.numpy().reshape(emission.shape[:-1]))
    return path


class _Chain(torch.autograd.Function):
    """``solve`` with gradients."""

    @staticmethod
    def forward(ctx: Any, *args: Tensor) -> Any:
        """Solve without a graph."""
        found = _solve(*args)
        ctx.set_materialize_grads(False)
        if found is None:
            return (None,) * 5
        ctx.save_for_backward(*args, *found[:3])
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of the arguments."""
        args, outputs = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
        total = grads[4]
        if total is None or any(g is not None for g in grads[:4]) or torch.is_grad_enabled():
            return through_log_space(args, grads)
        return _gradient(args, outputs, total, ctx.needs_input_grad)


class _Evidence(torch.autograd.Function):
    """``evidence`` with its gradient, which costs nothing more."""

    @staticmethod
    def forward(ctx: Any, *args: Tensor) -> Tensor | None:
        """Solve without a graph."""
        found = counts(*args, pairs=ctx.needs_input_grad[1])
        if found is None:
            return None
        ctx.save_for_backward(*args, *found[1:])
        return found[0]

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        """Return weighted posterior counts of first tasks, of pairs and of tasks."""
        *args, tasks, pairs = ctx.saved_tensors
        if torch.is_grad_enabled():  # second gradients
            return through_log_space(tuple(args), (None, None, None, None, weight))
        w = weight.unsqueeze(-1)
        weighted = w * tasks[..., 0, :], w[..., None, None] * pairs, w.unsqueeze(-1) * tasks
        return tuple(
            value.sum_to_size(a.shape).to(a.dtype) if wanted else None
            for value, a, wanted in zip(weighted, args, ctx.needs_input_grad, strict=True)
        )


def _solve(log_initial: Tensor, log_transition: Tensor, log_emission: Tensor) -> Outputs | None:
    from gbi_pyro.inference._kernels import chain_kernel as kernel  # late: numba is slow to load

    args = log_initial, log_transition, log_emission
    batch, dtype = batch_shape(*args), log_emission.dtype
    initial, transition, emission = flat(*args, batch)
    filtered, predicted, smoothed = (np.empty(emission.shape) for _ in range(3))
    steps, total = np.empty(emission.shape[:-1]), np.empty(len(emission))
    tolerance = simplex_tolerance(dtype)
    posterior = filtered, predicted, smoothed, steps, total
    if not kernel.forward_backward(initial, transition, emission, tolerance, *posterior):
        return None
    f, p, s, each, sums = (tensor(x, batch, dtype) for x in posterior)
    return f, p, s, each, sums


def tensor(value: np.ndarray, batch: torch.Size, dtype: torch.dtype) -> Tensor:
    """Return a tensor of an array whose first dimension is the batch."""
    found = torch.from_numpy(value.reshape(batch + value.shape[1:]))
    return found if dtype == torch.float64 else found.to(dtype)


def batch_shape(log_initial: Tensor, log_transition: Tensor, log_emission: Tensor) -> torch.Size:
    """Return the shape that the leading dimensions broadcast to."""
    shape = log_emission.shape[:-2]
    for other in (log_initial.shape[:-1], log_transition.shape[:-3]):
        if other and other != shape:
            shape = torch.Size(torch.broadcast_shapes(shape, other))
    return shape


def flat(
    log_initial: Tensor, log_transition: Tensor, log_emission: Tensor, batch: torch.Size
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return arrays with one dimension for the batch; what the batch shares is kept once."""
    if log_emission.shape[:-2] != batch:
        log_emission = log_emission.expand(*batch, *log_emission.shape[-2:])
    return (
        array(log_initial, 1, batch),
        array(log_transition, 3, batch),
        array(log_emission, 2, batch),
    )


def array(value: Tensor, rank: int, batch: torch.Size) -> np.ndarray:
    """Return a contiguous array of float64 with one dimension before the last ``rank``."""
    found: np.ndarray = (value.detach() if value.requires_grad else value).numpy()
    split = found.ndim - rank
    lead, end = found.shape[:split], found.shape[split:]
    if lead != batch and math.prod(lead) > 1:
        found, lead = np.broadcast_to(found, batch + end), batch
    found = np.ascontiguousarray(found, dtype=np.float64)
    return found.reshape(math.prod(lead), *end)


def _gradient(
    args: tuple[Tensor, ...],
    outputs: tuple[Tensor, ...],
    weight: Tensor,
    wanted: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Return weighted posterior counts of first tasks, of pairs and of tasks."""
    from gbi_pyro.inference._kernels import chain_kernel as kernel

    log_initial, log_transition, log_emission = args
    batch = outputs[0].shape[:-2]
    transition = array(log_transition, 3, batch)
    filtered, predicted, smoothed = (array(x, 2, batch) for x in outputs)
    tasks = np.empty(smoothed.shape)
    pairs = np.zeros(transition.shape if wanted[1] else (0, *transition.shape[1:]))
    weights = array(weight, 0, batch)
    kernel.gradient(transition, predicted, filtered, smoothed, weights, tasks, pairs)
    return (
        summed(tasks[:, 0], log_initial, batch) if wanted[0] else None,
        summed(pairs, log_transition, batch) if wanted[1] else None,
        summed(tasks, log_emission, batch) if wanted[2] else None,
    )


def summed(value: np.ndarray, like: Tensor, batch: torch.Size) -> Tensor:
    """Return a gradient as a tensor like its argument, summed over what that is shared by."""
    lead = like.shape[: like.ndim - value.ndim + 1]
    if lead.numel() == 1 and len(value) > 1:
        value = value.sum(0)
    elif lead != batch and lead.numel() > 1:
        return tensor(value, batch, like.dtype).sum_to_size(like.shape)
    return torch.from_numpy(value.reshape(like.shape)).to(like.dtype)


def through_log_space(
    args: tuple[Tensor, ...], grads: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the arguments, by the recursion in log space."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = args if again else tuple(a.detach().requires_grad_() for a in args)
        chain = [x.clamp_min(log_space.LOG_ZERO) for x in inputs]
        if len(chain) == 3:  # every block lasts one step
            chain.append(chain[0].new_zeros((chain[0].shape[-1], 1)))
        found = log_space.solve(*chain)
        outputs = (*found[:4], found.step_log_evidence.sum(-1))
        wanted = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None]
        needed = [x for x in inputs if x.requires_grad]
        some = iter(
            torch.autograd.grad(
                [o for o, _ in wanted],
                needed,
                [g for _, g in wanted],
                create_graph=again,
                allow_unused=True,
            )
        )
    return tuple(next(some) if x.requires_grad else None for x in inputs)
