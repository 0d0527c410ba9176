"""The filter of a chain for live streams: one step at a time, with a state that can be kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gbi_pyro._arrays import as_tensor
from gbi_pyro.inference.task_chain import TaskChain


@dataclass(frozen=True)
class StreamState:
    """What a filter remembers of a stream after step t: a few tensors in float64.

    ``vars(state)`` are its tensors by name, for ``safetensors`` say; ``StreamState(**tensors)``
    restores it.

    Attributes:
        log_states: log p(z_t, d_t | x_1..t), ``(..., K, D)``, d_t the steps that the block has
            lasted, D = 1 where blocks have no explicit length.
        left: u_t, ``(..., D)``, where the input of the step left drives the transition; else None.
    """

    log_states: Tensor
    left: Tensor | None = None


class StreamStep(NamedTuple):
    """What one step of a stream says; ``...`` are the streams.

    Attributes:
        log_filtered: log p(z_t | x_1..t), ``(..., K)``.
        log_predicted: log p(z_t | x_1..t-1), before x_t is seen, ``(..., K)``.
        log_evidence: log p(x_t | x_1..t-1), ``(...)``.
    """

    log_filtered: Tensor
    log_predicted: Tensor
    log_evidence: Tensor


class ChainStream:
    """Filter a chain one step at a time: what ``TaskChain.posterior`` finds, as the steps arrive.

    The cost of a step does not grow with the length of the stream. It runs in float64 without a
    gradient.

    Args:
        chain: the prior over tasks. Where inputs drive it, each step brings its own; those of the
            chain itself are not used.
        state: where to go on; None begins a stream.

    Attributes:
        state: what to keep; None before the first step.

    Raises:
        ValueError: for a state of another chain.

    >>> stream = ChainStream(TaskChain.sticky(2, hazard=0.1))
    >>> for x in (0.1, -0.2, 1.2, 0.9):
    ...     found = stream.step(-2 * (x - torch.tensor([0.0, 1.0])) ** 2)
    >>> found.log_filtered.exp()
    tensor([0.1003, 0.8997])
    >>> kept = vars(stream.state)  # tensors by name
    >>> again = ChainStream(stream.chain, StreamState(**kept))
    """

    def __init__(self, chain: TaskChain, state: StreamState | None = None) -> None:
        self.chain, self.state = chain, state
        self._initial, self._transition = chain.log_initial.detach(), chain.log_transition.detach()
        self._end = self._stay = None
        if chain.log_duration is not None:
            self._end, self._stay = _hazards(chain.log_duration.detach())
        K, D = chain.num_tasks, 1 if self._end is None else self._end.shape[-1]
        if state is not None and state.log_states.shape[-2:] != (K, D):
            raise ValueError(
                f"state.log_states should be (..., {K}, {D}), tasks and elapsed steps of this "
                f"chain; got {tuple(state.log_states.shape)}: restore it with the chain it is of"
            )

    @torch.no_grad()
    def step(self, log_likelihood: Tensor, inputs: Tensor | None = None) -> StreamStep:
        """Take the next step.

        Args:
            log_likelihood: log p(x_t | z_t = k), ``(..., K)``, of one stream or of a batch; zero
                where x_t is missing.
            inputs: u_t, ``(..., D)``, where inputs drive the transitions.

        Returns:
            The posterior over z_t, in the dtype of ``log_likelihood``.

        Raises:
            ValueError: for another K, an input that is missing or not wanted, numbers that are no
                log likelihoods, and data that no task can have made. The state stays as it was.
        """
        given = as_tensor(log_likelihood, "log_likelihood")
        inputs = None if inputs is None else as_tensor(inputs, "inputs")
        self._check_shapes(given, inputs)
        u = None if inputs is None else self._checked(inputs)
        predicted = self._predicted(u)
        x = given.to(self._transition)
        if self._end is None:
            joint = predicted + x
            evidence = joint.logsumexp(-1, keepdim=True)
        else:
            joint = predicted + x.unsqueeze(-1)
            evidence = joint.logsumexp((-2, -1), keepdim=True)
        _check_possible(evidence, given)
        states = joint - evidence
        if self._end is None:
            found = states, predicted, evidence.squeeze(-1)
            states = states.unsqueeze(-1)
        else:
            found = states.logsumexp(-1), predicted.logsumexp(-1), evidence[..., 0, 0]
        if predicted.shape != joint.shape:  # the first step, the same for all streams
            found = found[0], found[1].expand(found[0].shape), found[2]
        self.state = StreamState(states, u if self.chain.of == "left" else None)
        same = given.dtype == torch.float64 and given.is_cpu
        return StreamStep(*(found if same else (f.to(given) for f in found)))

    def _check_shapes(self, log_likelihood: Tensor, inputs: Tensor | None) -> None:
        shape, K = log_likelihood.shape, len(self._initial)
        if not shape or shape[-1] != K or not log_likelihood.is_floating_point():
            raise ValueError(
                f"log_likelihood should be floating numbers, (..., {K}), one for each task; got "
                f"{log_likelihood.dtype}, {tuple(shape)}"
            )
        if self.state is not None and self.state.log_states.shape[:-2] != shape[:-1]:
            raise ValueError(
                f"log_likelihood should be of the streams that went before, "
                f"{(*self.state.log_states.shape[:-2], K)}; got {tuple(shape)}: begin another "
                "stream for others"
            )
        if (inputs is None) == self.chain.driven:
            raise ValueError(
                "inputs drive this chain: expected u_t, got none"
                if self.chain.driven
                else "no inputs drive this chain: expected none, got some; drop them"
            )
        if inputs is not None and inputs.shape[:-1] not in ((), shape[:-1]):
            raise ValueError(
                f"inputs should be one row for all streams or one for each of {tuple(shape[:-1])}; "
                f"got {tuple(inputs.shape)}"
            )

    def _checked(self, inputs: Tensor) -> Tensor:
        assert self.chain.slopes is not None
        D = len(self.chain.slopes)
        if inputs.shape[-1:] != (D,) or not bool(inputs.isfinite().all()):
            raise ValueError(
                f"inputs should be finite numbers, (..., {D}); got {tuple(inputs.shape)} with "
                f"{int(inputs.isfinite().sum())} finite ones: fill what is missing, with 0 say"
            )
        # A copy: the caller may fill the same buffer at each step.
        return inputs.to(self._transition).clone(memory_format=torch.contiguous_format)

    def _predicted(self, inputs: Tensor | None) -> Tensor:
        """Return log p(z_t, d_t | x_1..t-1), ``(..., K)``, or ``(..., K, D)`` with durations."""
        state = self.state
        if state is None:
            if self._end is None:
                return self._initial
            first = torch.full_like(self._end, -math.inf)
            first[:, 0] = self._initial
            return first
        A = self._transition
        if inputs is not None:
            drive = state.left if self.chain.of == "left" else inputs
            assert drive is not None
            A = self.chain.transitions_at(drive).detach()
        if self._end is None or self._stay is None:
            return (state.log_states + A).logsumexp(-2)
        ended = (state.log_states + self._end).logsumexp(-1, keepdim=True)
        begun = (ended + A).logsumexp(-2).unsqueeze(-1)
        staying = state.log_states[..., :-1] + self._stay
        return torch.cat([begun, staying.expand(*begun.shape[:-1], -1)], -1)


def _hazards(log_duration: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log probabilities that a block ends at its d-th step or goes on, ``(K, D)``."""
    log_survival = log_duration.flip(-1).logcumsumexp(-1).flip(-1)  # log p(D >= d)
    never = log_survival.isneginf()
    end = (log_duration - log_survival).masked_fill(never, 0.0)
    return end, log_survival.diff().masked_fill(never[..., 1:], -math.inf)


def _check_possible(log_evidence: Tensor, log_likelihood: Tensor) -> None:
    if log_evidence.numel() == 1:  # the usual case of a live stream, in which time counts
        if math.isfinite(log_evidence.item()):
            return
    elif bool(log_evidence.isfinite().all()):
        return
    if not bool((log_likelihood < math.inf).all()):
        raise ValueError(
            "log_likelihood should be below +inf; got NaN or +inf: look for a log of a negative "
            "number or a network that diverged"
        )
    raise ValueError(
        "x_t should be possible under the chain; log p(x_t | x_1..t-1) is -inf: every task still "
        "reachable is forbidden by log_likelihood, so soften the likelihood or the chain"
    )
