"""Checks of what a chain is made of."""

from __future__ import annotations

import functools
import math

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gbi_pyro._arrays import as_tensor
from gbi_pyro.inference._kernels.chain_log_space import LOG_ZERO
from gbi_pyro.sites import simplex_tolerance

Given = Tensor | ArrayLike


def shaped(
    log_initial: Given,
    log_transition: Given,
    log_emission: Given,
    log_duration: Given | None = None,
    *,
    per_step: bool,
) -> list[Tensor]:
    """Return the arguments as tensors of shapes that fit, transitions with an axis of steps.

    Raises:
        ValueError: for their shapes and kinds of numbers.
    """
    if log_duration is None and not per_step:
        plain = _plain(log_initial, log_transition, log_emission)
        if plain is not None:
            return plain
    initial = as_tensor(log_initial, "log_initial")
    transition = as_tensor(log_transition, "log_transition")
    emission = as_tensor(log_emission, "log_emission")
    args = {"log_initial": initial, "log_transition": transition, "log_emission": emission}
    if log_duration is not None:
        args["log_duration"] = as_tensor(log_duration, "log_duration")
    K = initial.shape[-1] if initial.ndim else 0
    if K == 0:
        raise ValueError(f"log_initial should be (..., K), K >= 1; got {tuple(initial.shape)}")
    steps = (emission.shape[-2] - 1,) if per_step and emission.ndim > 1 else ()
    wanted = {
        "log_initial": (K,),
        "log_transition": (*steps, K, K),
        "log_emission": ("T", K),
        "log_duration": (K, "D"),
    }
    leading = {}
    for name, value in args.items():
        want, shape = wanted[name], tuple(value.shape)
        split = len(shape) - len(want)
        if split < 0 or not all(
            g >= 1 if isinstance(w, str) else g == w
            for g, w in zip(shape[split:], want, strict=True)
        ):
            expected = ", ".join(map(str, want))
            raise ValueError(
                f"{name} should have shape (..., {expected}) with T, D >= 1 and K = {K} tasks as "
                f"in log_initial; got {shape}: put tasks on the dimensions of size {K}"
            )
        if not value.is_floating_point():
            raise ValueError(
                f"{name} should hold log probabilities, floating numbers; got {value.dtype}: take "
                "the log of probabilities"
            )
        leading[name] = shape[:split]
    if not per_step:
        _check_transition(transition, emission)
        args["log_transition"] = transition.unsqueeze(-3)
    if any(lead and lead != leading["log_emission"] for lead in leading.values()):
        _check_batch(leading)
    return list(args.values())


def _plain(initial: Given, transition: Given, emission: Given) -> list[Tensor] | None:
    """Return tensors that need no more: (K,), (K, K) and (..., T, K), on the CPU in float64.

    A short chain takes a tenth less time for it.
    """
    if not (
        isinstance(initial, Tensor)
        and isinstance(transition, Tensor)
        and isinstance(emission, Tensor)
        and initial.dtype == transition.dtype == emission.dtype == torch.float64
        and initial.is_cpu
        and transition.is_cpu
        and emission.is_cpu
        and initial.ndim == 1
        and emission.ndim > 1
    ):
        return None
    K = len(initial)
    if not K or not emission.shape[-2] or transition.shape != (K, K) or emission.shape[-1] != K:
        return None
    return [initial, transition.unsqueeze(0), emission]


def checked(args: list[Tensor]) -> list[Tensor]:
    """Return what ``shaped`` did, its values checked, in one dtype on one device, without -inf.

    Raises:
        ValueError: for NaN, +inf and rows that are not normalised.
    """
    names = "log_initial", "log_transition", "log_emission", "log_duration"
    found = []
    for name, value in zip(names, args, strict=False):
        if not (value < math.inf).all():
            raise ValueError(
                f"{name} should hold log probabilities below +inf; got NaN or +inf: look for a log "
                "of a negative number or a network that diverged"
            )
        if name != "log_emission":
            _check_rows(name, value.squeeze(-3) if name == "log_transition" else value)
        if value.dtype.itemsize < 4:  # half precision: its rows sum to 1 within its rounding
            value = value.float() if name == "log_emission" else value.float().log_softmax(-1)
        found.append(value)
    dtype = functools.reduce(torch.promote_types, [a.dtype for a in found])
    device = args[2].device
    return [value.to(device, dtype).clamp_min(LOG_ZERO) for value in found]


def _check_batch(leading: dict[str, tuple[int, ...]]) -> None:
    try:
        torch.broadcast_shapes(*leading.values())
    except RuntimeError:
        raise ValueError(
            f"the leading (batch) dimensions should broadcast; got {leading}: insert dimensions of "
            "size 1 where an argument is shared"
        ) from None


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
