"""Online adaptation of a frozen recurrent network: its task moves as the data arrive."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.distributions import Distribution

from gbi_pyro._arrays import as_tensor, floating_weight
from gbi_pyro.inference._options import check_numbers
from gbi_pyro.logjoint import Passes
from gbi_pyro.sites import SIMPLEX_TOLERANCE


class StepsAhead(Protocol):
    """A recurrent network that predicts one step at a time."""

    def step(self, previous: Tensor, z: Any, state: Any) -> tuple[Distribution, Any]:
        """Return p(x_t | x_t-1, z, state) and the next state."""

    def initial_state(self, *batch_shape: int) -> Any:
        """Return the state before the first step."""


class OnlineRun(NamedTuple):
    """The predictions of a stream, and the tasks they used.

    Attributes:
        mean: predicted mean of x_t before it is seen, ``(..., T)``.
        log_prob: log p(x_t) under that prediction, ``(..., T)``.
        values: the task that the prediction used, ``(..., T, K)``.
        gradients: d log p(x_t-h+1..t) / dz after x_t is seen, ``(..., T, K)``.
        passes: single steps of the network run, and backward passes.
    """

    mean: Tensor
    log_prob: Tensor
    values: Tensor
    gradients: Tensor
    passes: Passes


@dataclass(frozen=True)
class OnlineGradient:
    """Move a task along the gradient of the recent log likelihood, one update per observation.

    Before x_t arrives it is predicted with the present task; then the last ``horizon`` steps are
    run again from the state carried to them, all with that task z, and

        z <- z + rate * d log p(x_t-h+1 .. x_t | z) / dz.

    Nothing after t ever moves the task at t, and the weights stay as they are.

    Args:
        rate: step size. A likelihood of noise sigma has curvature of order horizon / sigma^2, so a
            useful rate is of order sigma^2.
        horizon: h >= 1, how many of the last observations count.
        space: ``"free"`` moves z itself, which may leave the hull of the training tasks;
            ``"simplex"`` moves the logits of z.

    Raises:
        ValueError: for options out of range.
        TypeError: for an option that is no number.
    """

    rate: float = 0.02
    horizon: int = 3
    space: Literal["free", "simplex"] = "free"

    def __post_init__(self) -> None:
        check_numbers(self, "rate", integers=("horizon",))
        if not self.rate > 0:
            raise ValueError(f"rate must be positive, got {self.rate}")
        if self.horizon < 1:
            raise ValueError(f"horizon must be at least 1, got {self.horizon}")
        if self.space not in ("free", "simplex"):
            raise ValueError(f"space must be 'free' or 'simplex', got {self.space!r}")

    def __call__(
        self, network: StepsAhead, x: Tensor | ArrayLike, start: Tensor | ArrayLike
    ) -> OnlineRun:
        """Run a network along a stream.

        Args:
            network: a recurrent network, or a stack of them with its leading dimension in ``x``.
            x: the stream, ``(..., T)``.
            start: the task before the first step, ``(..., K)``: a point of the simplex.

        Returns:
            Predictions and tasks, step by step.

        Raises:
            TypeError: for a network that cannot predict one step at a time.
            ValueError: for shapes that do not fit, numbers that are not finite, or a start that
                is not inside the simplex it is to move on.
        """
        if not (hasattr(network, "step") and hasattr(network, "initial_state")):
            raise TypeError(
                f"{type(network).__name__} has no step(previous, z, state) and initial_state(): "
                "expected a recurrent network that predicts one step at a time; see StepsAhead"
            )
        simplex = self.space == "simplex"
        like = floating_weight(network)
        x, start = as_tensor(x, "x", like=like), as_tensor(start, "start", like=like)
        if like is not None:
            x, start = x.to(like.device), start.to(like.device)
        _check(x, start, on_simplex=simplex)
        moving = start.detach().log() if simplex else start.detach().clone()
        state, previous = network.initial_state(*x.shape[:-1]), torch.zeros_like(x[..., 0])
        window: deque[tuple[Tensor, Any, Tensor]] = deque(maxlen=self.horizon)
        runs: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        steps = 0
        for observed in x.unbind(-1):
            window.append((previous, state, observed))
            z = moving.softmax(-1) if simplex else moving
            with torch.no_grad():
                predicted, state = network.step(previous, z, state)
            gradient = self._gradient(network, window, moving)
            runs.append((predicted.mean, predicted.log_prob(observed), z, gradient))
            moving = moving + self.rate * gradient
            previous, steps = observed, steps + 1 + len(window)
        mean, log_prob, values, gradients = zip(*runs, strict=True)
        return OnlineRun(
            torch.stack(mean, -1),
            torch.stack(log_prob, -1),
            torch.stack(values, -2),
            torch.stack(gradients, -2),
            Passes(forward=steps, backward=x.shape[-1]),
        )

    def _gradient(
        self, network: StepsAhead, window: deque[tuple[Tensor, Any, Tensor]], moving: Tensor
    ) -> Tensor:
        with torch.enable_grad():
            leaf = moving.detach().requires_grad_()
            z = leaf.softmax(-1) if self.space == "simplex" else leaf
            state, total = window[0][1], torch.zeros(())
            for previous, _, observed in window:
                predicted, state = network.step(previous, z, state)
                total = total + predicted.log_prob(observed).sum()
        (gradient,) = torch.autograd.grad(total, leaf)
        return gradient


def _check(x: Tensor, start: Tensor, *, on_simplex: bool) -> None:
    if x.ndim == 0 or not x.numel():
        raise ValueError(f"the stream has no step: x has shape {tuple(x.shape)}, expected (..., T)")
    if start.shape[:-1] != x.shape[:-1]:
        raise ValueError(
            f"start has shape {tuple(start.shape)}, expected {tuple(x.shape[:-1])} + (K,): one "
            "task for each stream"
        )
    for name, numbers in (("the stream", x), ("start", start)):
        if not bool(numbers.isfinite().all()):
            raise ValueError(f"{name} has NaN or infinite elements; expected finite numbers")
    if not on_simplex:
        return
    if bool(((start.sum(-1) - 1).abs() > SIMPLEX_TOLERANCE).any() | (start < 0).any()):
        raise ValueError(
            "start lies off the simplex; expected numbers >= 0 that sum to 1: apply a softmax, or "
            "take space='free'"
        )
    if bool((start == 0).any()):
        raise ValueError(
            "start lies at the edge of the simplex, where the logits are infinite; mix in a little "
            "of every task, or take space='free'"
        )
