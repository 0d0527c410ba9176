"""One step of an LSTM, and all of its steps cut apart, in plain differentiable maths."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class LSTMState(NamedTuple):
    """The carried state of an LSTM: hidden h and cell c, ``(..., H)`` each."""

    h: Tensor
    c: Tensor


class CellWeights(NamedTuple):
    """The weights of one step of a ``SequenceLSTM``; a stack of networks adds a leading dimension.

    The linear embedding has no nonlinearity after it, so it is folded into the input weights.

    Attributes:
        gates: of x_t-1, z_t and h_t-1 side by side, ``(4 H, 1 + K + H)``.
        gates_bias: ``(4 H,)``.
        head: ``(1, H)``.
        head_bias: ``(1,)``.
    """

    gates: Tensor
    gates_bias: Tensor
    head: Tensor
    head_bias: Tensor


class CarriedLSTM(NamedTuple):
    """The state before each step, and what it is in the gates whatever the task.

    Attributes:
        h: hidden, ``(sequence, time, H)``.
        c: cell, likewise.
        past: W h + bias for the four gates, ``(sequence, time, 4 H)``, of the weights at that time.
    """

    h: Tensor
    c: Tensor
    past: Tensor


def lstm_step(
    weights: CellWeights, previous: Tensor, z: Tensor | None, state: LSTMState | CarriedLSTM
) -> tuple[Tensor, LSTMState]:
    """Run one step of a ``SequenceLSTM``, or of a stack of them, in plain differentiable maths.

    Args:
        weights: of the network, or of the stack.
        previous: x_t-1, any shape ``batch``; ``(S, n)`` for a stack.
        z: the task, ``batch + (K,)`` with more dimensions on the left if it is enumerated, or None.
        state: the carried state, ``batch + (H,)``.

    Returns:
        The mean m_t, ``batch`` with z's further dimensions left of it, and the next state.
    """
    state = next_state(weights, inputs_of(previous, z), state)
    return _affine(state.h, weights.head, weights.head_bias).squeeze(-1), state


def next_state(weights: CellWeights, inputs: Tensor, state: LSTMState | CarriedLSTM) -> LSTMState:
    """Return h_t and c_t from the inputs of the gates beside h_t-1, ``batch + (.,)``."""
    past = state.past if isinstance(state, CarriedLSTM) else None
    if past is None or weights.gates.requires_grad:  # which learn from the product with h, too
        past = _affine(state.h, _of_hidden(weights), weights.gates_bias)
    i, f, g, o = _gates(weights, inputs, past)
    c = f.sigmoid() * state.c + i.sigmoid() * g.tanh()
    return LSTMState(o.sigmoid() * c.tanh(), c)


def carried(weights: CellWeights, inputs: Tensor, h: Tensor) -> CarriedLSTM:
    """Return the states before each step from every h_t-1 and the inputs, ``(S, T, .)``."""
    past = _affine(h, _of_hidden(weights), weights.gates_bias)
    i, f, g, _ = _gates(weights, inputs[:, :-1], past[:, :-1])
    c = _linear_recurrence(f.sigmoid(), i.sigmoid().mul_(g.tanh()))
    c = torch.cat([torch.zeros_like(h[:, :1]), c], 1)
    return CarriedLSTM(h, c, past)


def _linear_recurrence(f: Tensor, u: Tensor) -> Tensor:
    """Return c_t = f_t c_t-1 + u_t from c_-1 = 0, for ``(S, T, H)``, in place of u.

    Time is cut into about sqrt(T) blocks: the steps within run in all blocks at once, from zero,
    then what came before each block is added, block after block.
    """
    S, T, H = u.shape
    size = max(1, math.isqrt(T))
    blocks = -(-T // size)
    f, u = (
        torch.nn.functional.pad(v, (0, 0, 0, blocks * size - T)).reshape(S, blocks, size, H)
        for v in (f, u)
    )
    c, kept = u, f.cumprod(2)
    for t in range(1, size):
        c[:, :, t].addcmul_(f[:, :, t], c[:, :, t - 1])
    for b in range(1, blocks):
        c[:, b].addcmul_(kept[:, b], c[:, b - 1, -1:])
    return c.reshape(S, blocks * size, H)[:, :T]


def _of_hidden(weights: CellWeights) -> Tensor:
    return weights.gates[..., -(weights.gates.shape[-2] // 4) :]


def _gates(weights: CellWeights, inputs: Tensor, past: Tensor) -> tuple[Tensor, ...]:
    """Return the four gates before their nonlinearity; h has the part ``past`` in them."""
    of_inputs = weights.gates[..., : -(weights.gates.shape[-2] // 4)]
    return (inputs @ of_inputs.mT + past).chunk(4, -1)


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x @ weight.mT + (bias if weight.ndim == 2 else bias.unsqueeze(-2))


def inputs_of(previous: Tensor, z: Tensor | None) -> Tensor:
    """Return x_t-1 and the task side by side, ``batch + (1 + K,)``."""
    if z is None:
        return previous.unsqueeze(-1)
    # An enumerated task comes as (K, 1, .., K): it spans its own dimension and no plate.
    batch = torch.broadcast_shapes(previous.shape, z.shape[:-1])
    return torch.cat([previous.expand(batch).unsqueeze(-1), z.expand(*batch, -1)], -1)
