"""The compiled recursion for tensors, with the gradient of the evidence in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.inference import _chain_log_space as log_space

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


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
        and on other devices than the CPU.
    """
    args = log_initial, log_transition, log_emission
    if any(a.device.type != "cpu" for a in args):
        return None
    if torch.is_grad_enabled() and any(a.requires_grad for a in args):
        found: Any = _Chain.apply(*args)  # type: ignore[no-untyped-call]
        return None if found[0] is None else found
    return _solve(*args)


def best_path(log_initial: Tensor, log_transition: Tensor, log_emission: Tensor) -> Tensor:
    """Return the tasks of the most probable path, ``(..., T)``; arguments as in ``solve``."""
    from gbi_pyro.inference import _chain_kernel as kernel  # late: numba is slow to load

    batch = _batch_shape(log_initial, log_transition, log_emission)
    initial, transition, emission = _flat(log_initial, log_transition, log_emission, batch)
    path = np.empty(emission.shape[:-1], dtype=np.int64)
    kernel.best_path(initial, transition, emission, path)
    return torch.from_numpy(path).reshape([*batch, emission.shape[1]])


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
        args, (filtered, predicted, smoothed) = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
        total = grads[4]
        if total is None or any(g is not None for g in grads[:4]) or torch.is_grad_enabled():
            return _through_log_space(args, grads)
        return _counts(args, filtered, predicted, smoothed, total)


def _solve(log_initial: Tensor, log_transition: Tensor, log_emission: Tensor) -> Outputs | None:
    from gbi_pyro.inference import _chain_kernel as kernel  # late: numba is slow to load

    batch = _batch_shape(log_initial, log_transition, log_emission)
    initial, transition, emission = _flat(log_initial, log_transition, log_emission, batch)
    top = emission.max(-1, keepdims=True)
    if top.size and top.min() < log_space.LOG_ZERO / 2:  # impossible data, for log space to name
        return None
    likelihood = np.exp(emission - top)
    shape = emission.shape
    filtered, predicted, beta = (np.empty(shape) for _ in range(3))
    norms = np.empty(shape[:-1])
    possible = emission > log_space.LOG_ZERO / 2
    if not kernel.forward_backward(
        np.exp(initial), np.exp(transition), likelihood, possible, filtered, predicted, beta, norms
    ):
        return None
    predicted /= predicted.sum(-1, keepdims=True)  # rows of A may be off by their rounding
    with np.errstate(divide="ignore"):
        log_filtered, log_predicted = np.log(filtered), np.log(predicted)
        log_smoothed = log_filtered + np.log(beta)
        steps = np.log(norms) + top[..., 0]
    dtype = log_emission.dtype
    f, p, s, by_step, total = (
        torch.from_numpy(np.asarray(x)).to(dtype).reshape([*batch, *np.shape(x)[1:]])
        for x in (log_filtered, log_predicted, log_smoothed, steps, steps.sum(-1))
    )
    return f, p, s, by_step, total


def _batch_shape(log_initial: Tensor, log_transition: Tensor, log_emission: Tensor) -> torch.Size:
    leading = log_initial.shape[:-1], log_transition.shape[:-3], log_emission.shape[:-2]
    return torch.Size(torch.broadcast_shapes(*leading))


def _flat(
    log_initial: Tensor, log_transition: Tensor, log_emission: Tensor, batch: torch.Size
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return arrays with one dimension for the batch; what the batch shares is kept once."""

    def flat(value: Tensor, rank: int) -> np.ndarray:
        lead, end = value.shape[: value.ndim - rank], value.shape[value.ndim - rank :]
        if lead.numel() > 1:
            value = value.expand(*batch, *end)
        array: np.ndarray = value.detach().double().reshape(-1, *end).numpy()
        return np.ascontiguousarray(array)

    emission = log_emission.expand(*batch, *log_emission.shape[-2:])
    return flat(log_initial, 1), flat(log_transition, 3), flat(emission, 2)


def _counts(
    args: tuple[Tensor, ...], filtered: Tensor, predicted: Tensor, smoothed: Tensor, weight: Tensor
) -> tuple[Tensor, ...]:
    """Return weighted posterior counts of first tasks, of pairs and of tasks."""
    from gbi_pyro.inference import _chain_kernel as kernel

    log_initial, log_transition, log_emission = args
    q = smoothed.exp() * weight[..., None, None]
    batch = q.shape[:-2]
    moves, shared = log_transition.shape[-3:], log_transition.shape[:-3].numel() == 1
    _, transition, _ = _flat(log_initial, log_transition, log_emission, batch)
    counts = np.zeros((1 if shared else batch.numel(), *moves))
    f, p, s, w = (
        np.ascontiguousarray(x.double().exp().numpy() if e else x.double().numpy()).reshape(
            -1, *end
        )
        for x, e, end in (
            (filtered, True, q.shape[-2:]),
            (predicted, True, q.shape[-2:]),
            (smoothed, True, q.shape[-2:]),
            (weight, False, ()),
        )
    )
    kernel.pair_counts(np.exp(transition), f, p, s, w, counts)
    pairs = torch.from_numpy(counts).to(q.dtype)
    pairs = pairs.reshape(log_transition.shape) if shared else pairs.reshape(*batch, *moves)
    return (
        q[..., 0, :].sum_to_size(log_initial.shape),
        pairs.sum_to_size(log_transition.shape),
        q.sum_to_size(log_emission.shape),
    )


def _through_log_space(
    args: tuple[Tensor, ...], grads: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = args if again else tuple(a.detach().requires_grad_() for a in args)
        initial, transition, emission = inputs
        one_step = initial.new_zeros((initial.shape[-1], 1))
        found = log_space.solve(initial, transition, emission, one_step)
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
