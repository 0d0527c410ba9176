"""Prequential code length: the log loss of predicting each step from its past."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gbi_pyro._arrays import as_tensor

State = TypeVar("State")
ROUNDING = 1e-9  # neighbours on the grid are as far apart as it says only within this
LARGEST_TABLE = 200_000  # sets of means; the filter keeps K numbers for each and each stream


class OnlineLearner(Protocol[State]):
    """A learner that predicts each step before observing it."""

    def start(self, batch_shape: torch.Size) -> State:
        """Return what is known before the first step of streams ``batch_shape``."""

    def learn(self, state: State, x: Tensor) -> tuple[Tensor, State]:
        """Return log p(x_t | x_1..t-1), ``batch_shape``, and what is known after x_t."""


def prequential_code(learner: OnlineLearner[State], x: Tensor | ArrayLike) -> Tensor:
    """Return the log loss of each step of a stream, in nats.

    L(x) = sum_t -log p(x_t | x_1..t-1) is the length of the code that the learner's predictions
    give (Dawid 1984, Statistical theory: the prequential approach; Rissanen 1984, Universal
    coding). For an exact Bayesian learner it is -log p(x), minus the log marginal likelihood, by
    the chain rule; for any other it is its own score, which needs no prior and no held-out data.

    Args:
        learner: predicts, then learns, step by step.
        x: streams, ``batch_shape + (T,)``.

    Returns:
        One-step-ahead losses, ``batch_shape + (T,)``; ``.sum(-1)`` is the code length.

    Raises:
        ValueError: for a stream without steps, or losses that are no numbers.

    Example:
        A coin of unknown bias, uniform a priori, that shows heads, heads: 1/2, then 2/3.

        >>> class Coin:
        ...     def start(self, batch_shape):
        ...         return torch.ones(2, *batch_shape)
        ...     def learn(self, counts, x):
        ...         shown = torch.stack([x, 1 - x])
        ...         return (counts * shown).sum(0).log() - counts.sum(0).log(), counts + shown
        >>> prequential_code(Coin(), torch.tensor([1.0, 1.0])).exp()
        tensor([2.0000, 1.5000])
    """
    x = as_tensor(x, "x")
    if x.ndim == 0 or not x.shape[-1]:
        raise ValueError(f"x should be streams, (..., T) with T >= 1; got {tuple(x.shape)}")
    state, losses = learner.start(x.shape[:-1]), []
    for t, observed in enumerate(x.unbind(-1)):
        log_prob, state = learner.learn(state, observed)
        if log_prob.shape != observed.shape or bool(log_prob.isnan().any()):
            raise ValueError(
                f"the learner should give one log probability for each stream, "
                f"{tuple(observed.shape)}; got {tuple(log_prob.shape)} at step {t} (counted from "
                f"0), {int(log_prob.isnan().sum())} of them NaN: look at what it does to its state"
            )
        losses.append(-log_prob)
    return torch.stack(losses, -1)


class SwitchingState(NamedTuple):
    """What a ``SwitchingMeans`` learner knows of H hazards, M sets of means and K tasks.

    Attributes:
        log_weights: log p(hazard, means | x_1..t-1), ``batch_shape + (H, M)``.
        tasks: p(z_t | hazard, means, x_1..t-1), ``batch_shape + (H, M, K)``.
    """

    log_weights: Tensor
    tasks: Tensor


@dataclass(frozen=True)
class SwitchingMeans:
    r"""Exact Bayesian learner of K switching Gaussians with unknown means and unknown hazard.

    x_t ~ Normal(mu_{z_t}, sigma); at each step the task changes with probability h to one of the
    K - 1 others. A priori the means are a set of K points of a grid, no two nearer than
    ``separation``, each such set as probable as any other, and h is one of a few hazards. The
    filter carries p(h, mu, z_t | x_1..t) for all of them, so its code length is minus the log
    marginal likelihood of this model, and no approximation (beyond the grid, which *is* the prior).
    Since the chain and the prior treat all tasks alike, the order of the means does not count.

    The code of the true K is shortest once the stream is long enough: a task more spreads the prior
    over more sets of means (Occam's factor), a task less leaves its data unexplained. Two tasks of
    nearly the same mean explain what one does, at nearly the same cost: without ``separation``
    the shortest code often has a task too many. About 2 sigma is what tells two tasks apart; that
    is a prior, to be chosen before the stream is seen.

    Args:
        num_tasks: K >= 1.
        sigma: the noise, known.
        grid: the points that a mean may be.
        hazards: the probabilities that a hazard may be, equally probable; one task has none.
        separation: how far apart two means are at least.

    Raises:
        ValueError: for options out of range, or more sets of means than memory is for.

    Example:
        >>> learner = SwitchingMeans(1, sigma=0.3, grid=(0.0, 1.0))
        >>> prequential_code(learner, torch.zeros(1, 2)).sum(-1)  # two halves, then nearly sure
        tensor([0.1231])
    """

    num_tasks: int
    sigma: float
    grid: tuple[float, ...] = tuple(i / 20 for i in range(-4, 25))
    hazards: tuple[float, ...] = (0.01, 0.03, 0.1)
    separation: float = 0.0

    def __post_init__(self) -> None:
        if self.num_tasks < 1:
            raise ValueError(f"num_tasks should be at least 1; got {self.num_tasks}")
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma should be positive and finite; got {self.sigma}")
        if len(set(self.grid)) != len(self.grid) or len(self.grid) < self.num_tasks:
            raise ValueError(
                f"grid should hold at least num_tasks = {self.num_tasks} different points; got "
                f"{len(self.grid)}, {len(set(self.grid))} of them different"
            )
        if not self.hazards or not all(0 < h < 1 for h in self.hazards):
            raise ValueError(f"hazards should lie between 0 and 1; got {self.hazards}")
        if math.comb(len(self.grid), self.num_tasks) > LARGEST_TABLE:
            raise ValueError(
                f"grid should be coarser: {len(self.grid)} points have "
                f"{math.comb(len(self.grid), self.num_tasks)} sets of {self.num_tasks}, more than "
                f"{LARGEST_TABLE}"
            )
        if not self.separation >= 0 or not len(self.means):
            raise ValueError(
                f"separation should be at least 0 and allow {self.num_tasks} points of "
                f"the grid; got {self.separation}, and a grid from {min(self.grid):g} to "
                f"{max(self.grid):g}"
            )

    @property
    def means(self) -> Tensor:
        """All sets of means, ``(M, K)``, float64."""
        sets = itertools.combinations(sorted(self.grid), self.num_tasks)
        found = torch.tensor(list(sets), dtype=torch.float64)
        apart = found.diff(dim=-1) >= self.separation * (1 - ROUNDING)
        return found[apart.all(-1)]

    @property
    def hazard(self) -> Tensor:
        """The hazards, ``(H, 1, 1)``, float64; that of a single task does not count."""
        hazards = self.hazards if self.num_tasks > 1 else self.hazards[:1]
        return torch.tensor(hazards, dtype=torch.float64)[:, None, None]

    def start(self, batch_shape: torch.Size) -> SwitchingState:
        """Return the prior, for each stream."""
        sizes = len(self.hazard), *self.means.shape
        tasks = self.means.new_full((*batch_shape, *sizes), 1 / self.num_tasks)
        flat = -math.log(math.prod(sizes[:2]))
        return SwitchingState(torch.full_like(tasks[..., 0], flat), tasks)

    def learn(self, state: SwitchingState, x: Tensor) -> tuple[Tensor, SwitchingState]:
        """Return log p(x_t | x_1..t-1) and the state after x_t and one move of the chain."""
        distance = x.double()[..., None, None, None] - self.means
        exponent = -0.5 * (distance / self.sigma).square()
        # Scaled for each set of means: however unlikely, it may still turn out to be the right one.
        largest = exponent.amax(-1, keepdim=True)
        joint = state.tasks * (exponent - largest).exp()
        total = joint.sum(-1, keepdim=True)
        constant = math.log(self.sigma * math.sqrt(2 * math.pi))
        log_joint = state.log_weights + (total.log() + largest)[..., 0] - constant
        log_prob = log_joint.logsumexp((-2, -1))
        log_weights = log_joint - log_prob[..., None, None]
        moved = SwitchingState(log_weights, self._move(joint / total))
        return log_prob.to(torch.promote_types(x.dtype, torch.float32)), moved

    def _move(self, tasks: Tensor) -> Tensor:
        """Let the task change with the probability of the hazard."""
        if self.num_tasks == 1:
            return tasks
        return (1 - self.hazard) * tasks + self.hazard * (1 - tasks) / (self.num_tasks - 1)


def fewest_nats(code_lengths: Mapping[int, Tensor | ArrayLike]) -> Tensor:
    """Return the number of tasks whose code is shortest, of each stream.

    Args:
        code_lengths: for each candidate K the code length of each stream, ``batch_shape``.

    Returns:
        K, ``batch_shape`` int64; the smaller of two that tie.

    Raises:
        ValueError: for no candidates, or different shapes.

    Example:
        >>> fewest_nats({1: torch.tensor([5.0, 9.0]), 2: torch.tensor([6.0, 7.0])})
        tensor([1, 2])
    """
    lengths = {k: as_tensor(v, f"code_lengths[{k}]") for k, v in code_lengths.items()}
    shapes = {k: tuple(v.shape) for k, v in lengths.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(
            f"code_lengths should have one number for each stream and candidate; got {shapes}"
        )
    candidates: Sequence[int] = sorted(lengths)
    best = torch.stack([lengths[k] for k in candidates]).argmin(0)
    return torch.tensor(candidates)[best]
