"""Joint draws of a chain's tasks: forward filtering, backward sampling."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.inference import _chain_fast as fast
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
        from gbi_pyro.inference import _path_kernel as kernel  # late: numba is slow to load

        *batch, T, _ = self.log_filtered.shape
        shape = torch.Size(batch)
        args = fast.array(self.log_transition, 3, shape), fast.array(self.log_filtered, 2, shape)
        uniform = _uniform((n, shape.numel(), T), generator)
        paths = np.empty(uniform.shape, dtype=np.int64)
        kernel.draw_tasks(*args, uniform, paths)
        return torch.from_numpy(paths.reshape(n, *batch, T))


@dataclass(frozen=True)
class BlockPaths(Paths):
    """Paths of a semi-Markov chain, drawn block by block by compiled code.

    Attributes:
        log_transition: log A between blocks, ``(..., 1 or T - 1, K, K)``.
        log_duration: log p(a block of task k lasts d steps), ``(..., K, D)``.
        begun, ended, gain: see ``_block_fast.solve``, ``(..., T, K)``.
    """

    log_transition: Tensor = field(repr=False)
    log_duration: Tensor = field(repr=False)
    begun: Tensor = field(repr=False)
    ended: Tensor = field(repr=False)
    gain: Tensor = field(repr=False)

    def sample(self, n: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Draw paths, see ``Paths``."""
        from gbi_pyro.inference import _path_kernel as kernel  # late: numba is slow to load

        *batch, T, _ = self.begun.shape
        shape = torch.Size(batch)
        chain = fast.array(self.log_transition, 3, shape), fast.array(self.log_duration, 2, shape)
        blocks = (fast.array(x, 2, shape) for x in (self.begun, self.ended, self.gain))
        uniform = _uniform((n, shape.numel(), T), generator)
        paths = np.empty(uniform.shape, dtype=np.int64)
        kernel.draw_blocks(*chain, *blocks, uniform, paths)
        return torch.from_numpy(paths.reshape(n, *batch, T))


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


def _uniform(shape: tuple[int, ...], generator: torch.Generator | None) -> np.ndarray:
    device = None if generator is None else generator.device
    drawn = torch.rand(shape, dtype=torch.float64, generator=generator, device=device)
    found: np.ndarray = drawn.cpu().numpy()
    return found


@dataclass(frozen=True)
class ChainJoint:
    """The joint posterior of one task site along time.

    Attributes:
        site: its name.
        paths: of the chain.
        time: the batch dimension (negative) that is time.
    """

    site: str
    paths: Paths
    time: int

    def sample(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw task ids, ``(n,) + batch_shape``."""
        return {self.site: self.paths.sample(n, generator).movedim(-1, self.time)}
