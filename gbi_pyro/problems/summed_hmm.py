"""The distribution of a sequence of symbols from a hidden Markov model, states summed out."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints


class SummedHMM(TorchDistribution):
    r"""The law of T symbols of a hidden Markov model whose states are summed out.

        p(x_1..T) = \sum_{s_1..T} p(s_1) B[s_1, x_1] \prod_{t > 1} A[s_{t-1}, s_t] B[s_t, x_t]

    by the scaled forward recursion (Rabiner 1989, A tutorial on hidden Markov models, Proc. IEEE
    77, sec. V.A). It is differentiable any number of times in its parameters, as needed where they
    depend on a relaxed task. No transition comes before the first symbol; Pyro's ``DiscreteHMM``
    applies one there. The event is the whole sequence, ``(T,)``.

    Args:
        initial: p(s_1), ``(..., S)``.
        transition: A, rows the state left, ``(..., S, S)``.
        emission: B, ``(..., S, O)``.
        duration: T.

    Raises:
        ValueError: for shapes that do not fit, a duration below 1; where validation is on, for
            rows that are not probabilities.

    >>> half = torch.full((2,), 0.5)
    >>> law = SummedHMM(half, torch.eye(2), torch.tensor([[0.9, 0.1], [0.1, 0.9]]), 2)
    >>> law.log_prob(torch.tensor([0, 0])).exp()  # .5 x .9 x .9 + .5 x .1 x .1
    tensor(0.4100)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "initial": constraints.simplex,
        "transition": constraints.independent(constraints.simplex, 1),
        "emission": constraints.independent(constraints.simplex, 1),
    }

    def __init__(
        self,
        initial: Tensor,
        transition: Tensor,
        emission: Tensor,
        duration: int,
        validate_args: bool | None = None,
    ) -> None:
        S = initial.shape[-1]
        if transition.shape[-2:] != (S, S) or emission.ndim < 2 or emission.shape[-2] != S:
            raise ValueError(
                f"of {S} states transition should be (..., {S}, {S}) and emission (..., {S}, "
                f"symbols); got {tuple(transition.shape)} and {tuple(emission.shape)}"
            )
        if duration < 1:
            raise ValueError(f"duration should be a number of steps, 1 or more; got {duration}")
        self.initial, self.transition, self.emission = initial, transition, emission
        self.duration = duration
        batch = torch.broadcast_shapes(
            initial.shape[:-1], transition.shape[:-2], emission.shape[:-2]
        )
        super().__init__(batch, Size([duration]), validate_args=validate_args)

    @property
    def support(self) -> Any:
        """Sequences of symbol ids."""
        return constraints.independent(
            constraints.integer_interval(0, self.emission.shape[-1] - 1), 1
        )

    def expand(self, batch_shape: Any, _instance: Any = None) -> SummedHMM:
        """Return the distribution with another batch shape."""
        shape = Size(batch_shape)
        new: SummedHMM = self._get_checked_instance(SummedHMM, _instance)
        new.duration = self.duration
        new.initial = self.initial.expand(*shape, *self.initial.shape[-1:])
        new.transition = self.transition.expand(*shape, *self.transition.shape[-2:])
        new.emission = self.emission.expand(*shape, *self.emission.shape[-2:])
        super(SummedHMM, new).__init__(shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(x_1..T), ``(...)``; -inf where it is impossible."""
        if self._validate_args:
            self._validate_sample(value)
        batch = torch.broadcast_shapes(self.batch_shape, value.shape[:-1])
        S = self.initial.shape[-1]
        at = value.long().unsqueeze(-2).expand(*batch, S, self.duration)
        likelihood = self.emission.expand(*batch, *self.emission.shape[-2:]).gather(-1, at)
        scales, state = [], self.initial
        for t, seen in enumerate(likelihood.unbind(-1)):
            if t:
                state = (state.unsqueeze(-2) @ self.transition).squeeze(-2)
            state = state * seen
            scale = state.sum(-1)
            # 0 / 0 has no gradient: an impossible symbol leaves the state, which is zero, as it is
            state = state / torch.where(scale > 0, scale, 1.0).unsqueeze(-1)
            scales.append(scale)
        scale = torch.stack(scales, -1)
        log_scale = torch.where(scale > 0, scale, 1.0).log()
        return log_scale.masked_fill(~(scale > 0), -math.inf).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw sequences, ``sample_shape + batch_shape + (T,)``."""
        shape = (*sample_shape, *self.batch_shape)
        transition, emission = _cumulative(self.transition), _cumulative(self.emission)
        state, states = _draw(_cumulative(self.initial).expand(*shape, -1)), []
        for t in range(self.duration):
            if t:
                state = _draw(_rows(transition, state.unsqueeze(-1)).squeeze(-2))
            states.append(state)
        return _draw(_rows(emission, torch.stack(states, -1)))


def _cumulative(probs: Tensor) -> Tensor:
    """Return cumulative probabilities whose last is exactly 1."""
    total = probs.cumsum(-1)
    return total / total[..., -1:]


def _draw(cumulative: Tensor) -> Tensor:
    """Draw ids from cumulative probabilities, ``(..., M)``: ``(...)``."""
    uniform = torch.rand(cumulative.shape[:-1], dtype=cumulative.dtype, device=cumulative.device)
    return (uniform.unsqueeze(-1) >= cumulative).sum(-1)


def _rows(matrix: Tensor, states: Tensor) -> Tensor:
    """Return the rows of a matrix ``(..., S, M)`` at states ``(..., T)``: ``(..., T, M)``."""
    *batch, T = states.shape
    whole = matrix.expand(*batch, *matrix.shape[-2:])
    return whole.gather(-2, states.unsqueeze(-1).expand(*batch, T, whole.shape[-1]))
