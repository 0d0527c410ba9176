"""Checks of what a chain is made of."""

from __future__ import annotations

import functools
import math

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gbi_pyro._arrays import as_tensor
from gbi_pyro.inference._chain_log_space import LOG_ZERO
from gbi_pyro.sites import simplex_tolerance


def checked(
    log_initial: Tensor | ArrayLike,
    log_transition: Tensor | ArrayLike,
    log_emission: Tensor | ArrayLike,
    log_duration: Tensor | ArrayLike,
    *,
    per_step: bool,
) -> list[Tensor]:
    """Return the arguments in one dtype on one device, checked, transitions with an axis of steps.

    Raises:
        ValueError: see ``hsmm_posterior``.
    """
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
    steps = (log_emission.shape[-2] - 1,) if per_step and log_emission.dim() > 1 else ()
    wanted = {
        "log_initial": (K,),
        "log_transition": (*steps, K, K),
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
    if not per_step:
        _check_transition(log_transition, log_emission)
        args["log_transition"] = args["log_transition"].unsqueeze(-3)
    ends = {**wanted, "log_transition": (1, K, K)}
    batches = {name: tuple(a.shape[: a.dim() - len(ends[name])]) for name, a in args.items()}
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
            f"each of T = {steps} steps, or one for each sequence; expected ({K}, {K}), the same "
            f"at every step, or with per_step=True ({steps - 1}, {K}, {K}), each from a step to "
            "the next. For one of each of T sequences expand it over the steps: (T, T - 1, K, K)"
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


def check_possible(step_log_evidence: Tensor) -> None:
    bad = step_log_evidence < LOG_ZERO / 2
    if bad.any():
        *element, t = bad.nonzero()[bad.nonzero()[:, -1].argmin()].tolist()
        raise ValueError(
            f"the data should be possible under the chain; log p(x_t | earlier x) is -inf at step "
            f"{t} (counted from 0) of batch element {element}: every task still reachable there is "
            "forbidden by log_emission, so soften the emissions or the chain"
        )
