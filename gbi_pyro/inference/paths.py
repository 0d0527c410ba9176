"""The joint posterior of a chain's tasks: draws of whole paths, and their probabilities."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.inference._kernels import chain_fast as fast
from gbi_pyro.inference._kernels import chain_log_space as log_space
from gbi_pyro.inference._kernels.chain_log_space import LOG_ZERO
from gbi_pyro.joint import draw_tasks


class Paths:
    """The joint posterior p(z_1..T | x_1..T) of a chain, to draw paths from.

    The last state is drawn from the filter, then each earlier one from p(z_t | z_t+1, x_1..t)
    (Fruehwirth-Schnatter 1994, Data augmentation and dynamic linear models, J. Time Ser. Anal. 15).
    Steps drawn one by one from the smoother would switch too often.
    """

    def sample(self, n: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Draw paths.

        Args:
            n: how many.
            generator: a seeded generator; torch's own random state without one.

        Returns:
            Task ids, ``(n, ..., T)``.

        >>> from gbi_pyro import hmm_posterior
        >>> half, stay = torch.tensor([0.5, 0.5]).log(), torch.eye(2).log()
        >>> paths = hmm_posterior(half, stay, torch.zeros(4, 2)).paths.sample(3)
        >>> bool((paths == paths[:, :1]).all())  # this chain never leaves its task
        True
        """
        raise NotImplementedError

    def log_prob(self, tasks: Tensor) -> Tensor:
        """Return the log probability of each step of a path, which sum to that of the path.

        Those of ordinary chains are log p(z_t | z_t+1..T, x). A path that is impossible has -inf at
        one step.

        Args:
            tasks: ids, ``(lead, ..., T)``.

        Returns:
            ``(lead, ..., T)``, float64.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class StatePaths(Paths):
    """Paths drawn step by step in log space, on any device.

    Attributes:
        log_states: log p(z_t, d_t | x_1..t), over tasks and elapsed steps, ``(..., T, K, D)``.
        log_transition: log A between blocks, ``(..., 1 or T - 1, K, K)``.
        log_end: log probability that a block ends at its d-th step, ``(..., K, D)``.
    """

    log_states: Tensor = field(repr=False)
    log_transition: Tensor = field(repr=False)
    log_end: Tensor = field(repr=False)

    def sample(self, n: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Draw paths, see ``Paths``."""
        *batch, T, K, D = self.log_states.shape
        last = self.log_states[..., -1, :, :].flatten(-2)
        state = draw_tasks(last.expand(n, *batch, K * D), generator)
        path = [state]
        for t in reversed(range(T - 1)):
            ending = self.log_states[..., t, :, :] + self.log_end
            transition = self.log_transition[..., t % self.log_transition.shape[-3], :, :].mT
            entered = (state // D)[..., None, None].expand(n, *batch, 1, K)
            rows = transition.expand(n, *batch, K, K).gather(-2, entered).squeeze(-2)
            before = draw_tasks((ending + rows.unsqueeze(-1)).flatten(-2), generator)
            state = torch.where(state % D == 0, before, state - 1)
            path.append(state)
        return torch.stack(path[::-1], -1) // D

    def log_prob(self, tasks: Tensor) -> Tensor:
        """Return the log probability of each step, see ``Paths``.

        Backwards over p(z_t..T, d_t | x), the elapsed steps of the present block summed out.
        """
        shape, T = tasks.shape[:-1], tasks.shape[-1]
        K, D = self.log_states.shape[-2:]
        states = self.log_states.double().expand(*shape, T, K, D)
        now = _at(states[..., -1, :, :], tasks[..., -1])
        totals = [now.logsumexp(-1)]
        for t in reversed(range(T - 1)):
            here, after = tasks[..., t], tasks[..., t + 1]
            transition = self.log_transition[..., t % self.log_transition.shape[-3], :, :].mT
            rows = _at(transition.double().expand(*shape, K, K), after)
            ending = states[..., t, :, :] + self.log_end + rows.unsqueeze(-1)
            chosen = _at(ending, here) - ending.logsumexp((-2, -1)).unsqueeze(-1)
            begun = now[..., :1] + chosen
            staying = torch.nn.functional.pad(now[..., 1:], (0, 1), value=LOG_ZERO)
            staying = staying.masked_fill((here != after).unsqueeze(-1), LOG_ZERO)
            now = torch.logaddexp(begun, staying).clamp_min(LOG_ZERO)
            totals.append(now.logsumexp(-1))
        later = torch.stack(totals, -1)
        later = later.masked_fill(~(later > LOG_ZERO / 2), -torch.inf)
        steps = later.diff(dim=-1, prepend=torch.zeros_like(later[..., :1])).flip(-1)
        return steps.nan_to_num(nan=0.0, neginf=-torch.inf)  # after an impossible step


@dataclass(frozen=True)
class TaskPaths(Paths):
    """Paths of an ordinary chain, drawn by compiled code.

    Attributes:
        log_filtered: log p(z_t | x_1..t), ``(..., T, K)``.
        log_transition: log A, ``(..., 1 or T - 1, K, K)``.
    """

    log_filtered: Tensor = field(repr=False)
    log_transition: Tensor = field(repr=False)

    def sample(self, n: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Draw paths, see ``Paths``."""
        from gbi_pyro.inference._kernels import path_kernel as kernel  # late: numba is slow to load

        *batch, T, _ = self.log_filtered.shape
        shape = torch.Size(batch)
        args = fast.array(self.log_transition, 3, shape), fast.array(self.log_filtered, 2, shape)
        uniform = _uniform((n, shape.numel(), T), generator)
        paths = np.empty(uniform.shape, dtype=np.int64)
        kernel.draw_tasks(*args, uniform, paths)
        return torch.from_numpy(paths.reshape(n, *batch, T))

    def log_prob(self, tasks: Tensor) -> Tensor:
        """Return the log probability of each step, see ``Paths``."""
        *shape, T = tasks.shape
        K = self.log_filtered.shape[-1]
        weights = self.log_filtered.double().expand(*shape, T, K)
        rows = self.log_transition.mT.double().expand(*shape, T - 1, K, K)
        before = weights[..., :-1, :] + _at(rows, tasks[..., 1:])
        weights = torch.cat([before, weights[..., -1:, :]], -2)
        steps = _at(weights.unsqueeze(-1), tasks).squeeze(-1) - weights.logsumexp(-1)
        return steps.nan_to_num(nan=-torch.inf, neginf=-torch.inf)  # of an impossible task


@dataclass(frozen=True)
class BlockPaths(Paths):
    """Paths of a semi-Markov chain, drawn block by block by compiled code.

    Attributes:
        log_transition: log A between blocks, ``(..., 1 or T - 1, K, K)``.
        log_duration: log p(a block of task k lasts d steps), ``(..., K, D)``.
        begun, ended, gain: see ``_kernels.block_fast.solve``, ``(..., T, K)``.
    """

    log_transition: Tensor = field(repr=False)
    log_duration: Tensor = field(repr=False)
    begun: Tensor = field(repr=False)
    ended: Tensor = field(repr=False)
    gain: Tensor = field(repr=False)

    def sample(self, n: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Draw paths, see ``Paths``."""
        from gbi_pyro.inference._kernels import path_kernel as kernel  # late: numba is slow to load

        *batch, T, _ = self.begun.shape
        shape = torch.Size(batch)
        chain = fast.array(self.log_transition, 3, shape), fast.array(self.log_duration, 2, shape)
        blocks = (fast.array(x, 2, shape) for x in (self.begun, self.ended, self.gain))
        uniform = _uniform((n, shape.numel(), T), generator)
        paths = np.empty(uniform.shape, dtype=np.int64)
        kernel.draw_blocks(*chain, *blocks, uniform, paths)
        return torch.from_numpy(paths.reshape(n, *batch, T))

    def log_prob(self, tasks: Tensor) -> Tensor:
        """Return the log probability of each step, see ``Paths``.

        With the gain as likelihood log p(x) is 0; that of a single path is its probability.
        """
        gain = self.gain.log().expand(*tasks.shape, self.gain.shape[-1])
        others = torch.nn.functional.one_hot(tasks, gain.shape[-1]) == 0
        found = log_space.solve(
            self.begun[..., 0, :].log().clamp_min(LOG_ZERO),
            self.log_transition.double().clamp_min(LOG_ZERO),
            gain.clamp_min(LOG_ZERO).masked_fill(others, LOG_ZERO),
            self.log_duration.double().clamp_min(LOG_ZERO),
        ).step_log_evidence
        return found.masked_fill(found < LOG_ZERO / 2, -torch.inf)


@dataclass(frozen=True)
class ReorderedPaths(Paths):
    """Paths whose tasks have other ids.

    Attributes:
        paths: the paths.
        order: at k the former id of task k, ``(K,)``.
    """

    paths: Paths
    order: Tensor

    def sample(self, n: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Draw paths, see ``Paths``."""
        drawn = self.paths.sample(n, generator)
        return self.order.argsort().to(drawn.device)[drawn]

    def log_prob(self, tasks: Tensor) -> Tensor:
        """Return the log probability of each step, see ``Paths``."""
        return self.paths.log_prob(self.order.to(tasks.device)[tasks])


def _at(rows: Tensor, tasks: Tensor) -> Tensor:
    """Return the row of a task: ``(..., K, D)`` at ``(...)``, ``(..., D)``."""
    index = tasks[..., None, None].to(rows.device).expand(*tasks.shape, 1, rows.shape[-1])
    return rows.gather(-2, index).squeeze(-2)


def _uniform(shape: tuple[int, ...], generator: torch.Generator | None) -> np.ndarray:
    device = None if generator is None else generator.device
    drawn = torch.rand(shape, dtype=torch.float64, generator=generator, device=device)
    found: np.ndarray = drawn.cpu().numpy()
    return found
