"""Streams of the switching toy task, with the true task of every step and the chain behind it.

Observations scatter around the mean of the current task, and the task changes after a block of
random length (Hummos et al. 2024, Gradient-based inference of abstract task representations for
generalization in neural networks, arXiv:2407.17356). The generating chain comes with the stream, so
that the exact posterior over tasks can be computed for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from gbi_pyro.data._validate import check_count


def _check_hazard(hazard: float) -> None:
    if not 0 < hazard < 1:
        raise ValueError(
            f"hazard should be a probability per step between 0 and 1, both excluded; got "
            f"{hazard}: use 1 / (mean block length)"
        )


@runtime_checkable
class BlockLaw(Protocol):
    """How long a task lasts, as a chain of segments.

    A block is one or more segments of the same task. The two members both generate the stream and
    parametrise its exact posterior: a geometric block is a run of one-step segments, any other
    block is a single segment.
    """

    @property
    def stay(self) -> float:
        """The probability that the next segment keeps the task."""

    @property
    def log_lengths(self) -> Tensor:
        """Log p(a segment lasts d steps) at ``[d - 1]``, (D,), float64."""


@dataclass(frozen=True)
class GeometricBlocks:
    """Blocks that end after each step with the same probability.

    p(d) = hazard (1 - hazard)^(d - 1), d >= 1: mean 1 / hazard steps, no memory.

    Attributes:
        hazard: probability that the block ends at a step, in (0, 1).

    Example:
        >>> GeometricBlocks(hazard=0.25).stay
        0.75
    """

    hazard: float

    def __post_init__(self) -> None:
        _check_hazard(self.hazard)

    @property
    def stay(self) -> float:
        """The probability that the next step keeps the task: 1 - hazard."""
        return 1.0 - self.hazard

    @property
    def log_lengths(self) -> Tensor:
        """A segment is one step, (1,)."""
        return torch.zeros(1, dtype=torch.float64)


@dataclass(frozen=True)
class FixedBlocks:
    """Blocks that all last the same number of steps.

    p(d) = 1 for d = length.

    Attributes:
        length: steps of each block, >= 1.

    Example:
        >>> FixedBlocks(length=3).log_lengths.exp()
        tensor([0., 0., 1.], dtype=torch.float64)
    """

    length: int

    def __post_init__(self) -> None:
        check_count("length", self.length)

    @property
    def stay(self) -> float:
        """A block is one segment, so the next one is of another task."""
        return 0.0

    @property
    def log_lengths(self) -> Tensor:
        """All mass on ``length``, (length,)."""
        log_lengths = torch.full((self.length,), -math.inf, dtype=torch.float64)
        log_lengths[-1] = 0.0
        return log_lengths


@dataclass(frozen=True)
class BoundedBlocks:
    """Blocks of geometric length restricted to a range.

    p(d) proportional to hazard (1 - hazard)^(d - minimum), minimum <= d <= maximum.

    Attributes:
        minimum: shortest block, in steps, >= 1.
        maximum: longest block, in steps, >= ``minimum``.
        hazard: rate of the decay within the range, in (0, 1).

    Example:
        >>> BoundedBlocks(minimum=2, maximum=3, hazard=0.5).log_lengths.exp()
        tensor([0.0000, 0.6667, 0.3333], dtype=torch.float64)
    """

    minimum: int
    maximum: int
    hazard: float

    def __post_init__(self) -> None:
        check_count("minimum", self.minimum)
        check_count("maximum", self.maximum)
        if self.maximum < self.minimum:
            raise ValueError(
                f"maximum should be at least minimum = {self.minimum}; got {self.maximum}: swap "
                "the two"
            )
        _check_hazard(self.hazard)

    @property
    def stay(self) -> float:
        """A block is one segment, so the next one is of another task."""
        return 0.0

    @property
    def log_lengths(self) -> Tensor:
        """The restricted geometric law, (maximum,)."""
        excess = torch.arange(1 - self.minimum, self.maximum - self.minimum + 1)
        log_lengths = excess.double() * math.log1p(-self.hazard)
        return log_lengths.masked_fill(excess < 0, -math.inf).log_softmax(-1)


class Stream(NamedTuple):
    """Sampled sequences.

    Attributes:
        x: observations, (B, T).
        z: id of the task that generated each of them, (B, T) int64.
    """

    x: Tensor
    z: Tensor

    def one_hot(self, num_tasks: int) -> Tensor:
        """Return the true tasks as corners of the simplex, (B, T, ``num_tasks``), in x's dtype.

        Raises:
            ValueError: if a task id does not fit.
        """
        if self.z.numel() and num_tasks <= int(self.z.max()):
            raise ValueError(
                f"num_tasks should exceed the largest task id, {int(self.z.max())}; got "
                f"{num_tasks}: use the stream's num_tasks"
            )
        return torch.nn.functional.one_hot(self.z, num_tasks).to(self.x.dtype)


@dataclass(frozen=True)
class SwitchingStream:
    """The switching toy task: one Gaussian per task, and a task that changes from block to block.

    x_t ~ Normal(means[z_t], sigma); at a block's end z changes to one of the K - 1 other tasks,
    each equally probable. The defaults have the two Gaussians of the paper and blocks of 33 steps
    on average.

    Attributes:
        means: mean observation of each task, K >= 2 of them.
        sigma: standard deviation of an observation, > 0, in units of x.
        blocks: law of the block lengths.
        prior: probability of each task at the first step; ``None`` is uniform.

    Example:
        The members ``log_initial``, ``log_transition``, ``log_emission(x)`` and ``log_duration``
        are, in this order, the arguments of ``gbi_pyro.inference.hmm.hsmm_posterior``.

        >>> import torch
        >>> toy = SwitchingStream(blocks=FixedBlocks(2))
        >>> x, z = toy.sample(1, 6, torch.Generator().manual_seed(0))
        >>> z
        tensor([[0, 0, 1, 1, 0, 0]])
        >>> bool((toy.log_emission(x).argmax(-1) == z).all())
        True
    """

    means: tuple[float, ...] = (0.2, 0.8)
    sigma: float = 0.1
    blocks: BlockLaw = GeometricBlocks(0.03)
    prior: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        # Lists come from configuration files; a frozen value has to be hashable.
        object.__setattr__(self, "means", tuple(float(m) for m in self.means))
        if len(self.means) < 2 or not all(map(math.isfinite, self.means)):
            raise ValueError(
                f"means should hold at least two finite numbers, one per task; got {self.means}: "
                "with a single task nothing is left to infer"
            )
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma should be positive and finite; got {self.sigma}")
        if not isinstance(self.blocks, BlockLaw):
            raise ValueError(
                f"blocks should be a law of block lengths; got {self.blocks!r}: pass for instance "
                "GeometricBlocks(0.03)"
            )
        if self.prior is not None:
            object.__setattr__(self, "prior", tuple(float(p) for p in self.prior))
            total, K = math.fsum(self.prior), len(self.means)
            if len(self.prior) != K or not min(self.prior) >= 0 or not abs(total - 1) < 1e-6:
                raise ValueError(
                    f"prior should hold {K} probabilities, one per mean, with sum 1; got "
                    f"{self.prior} with sum {total:.6g}: divide by the sum"
                )

    @property
    def num_tasks(self) -> int:
        """K, the number of tasks."""
        return len(self.means)

    @property
    def log_initial(self) -> Tensor:
        """Log p(z_1), (K,), float64."""
        K = self.num_tasks
        return torch.tensor(self.prior or (1.0 / K,) * K, dtype=torch.float64).log()

    @property
    def log_transition(self) -> Tensor:
        """Log p(task of the next segment | task of this one), rows this one, (K, K), float64."""
        K, stay = self.num_tasks, self.blocks.stay
        change = torch.full((K, K), (1.0 - stay) / (K - 1), dtype=torch.float64)
        return change.fill_diagonal_(stay).log()

    @property
    def log_duration(self) -> Tensor:
        """Log p(a segment lasts d steps), the same for all tasks, (K, D), float64."""
        return self.blocks.log_lengths.expand(self.num_tasks, -1)

    def log_emission(self, x: Tensor) -> Tensor:
        """Return log Normal(x; means[k], sigma): (...) to (..., K), in x's dtype, on its device."""
        scaled = (x.unsqueeze(-1) - x.new_tensor(self.means)) / self.sigma
        return -0.5 * scaled**2 - math.log(self.sigma * math.sqrt(2 * math.pi))

    def sample(
        self,
        num_sequences: int,
        length: int,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
    ) -> Stream:
        """Draw independent sequences, each beginning with a new block.

        Args:
            num_sequences: B, how many sequences.
            length: T, steps of each.
            generator: the only source of randomness; its device is where the stream lies.
            dtype: of x. Draws are made in double precision, so it changes x by rounding alone.

        Returns:
            x and z, (B, T) each.

        Raises:
            ValueError: if a count is not a positive integer, or ``dtype`` not a floating one.
        """
        check_count("num_sequences", num_sequences)
        check_count("length", length)
        if not dtype.is_floating_point:
            raise ValueError(f"dtype should be a floating one, as x is real; got {dtype}")
        device, K = generator.device, self.num_tasks
        lengths = self.blocks.log_lengths.exp().to(device)
        shortest = int(lengths.nonzero()[0]) + 1
        shape = (num_sequences, -(-length // shortest))  # enough segments in the worst case

        # Adding 1..K-1 modulo K reaches each other task once, adding 0 stays.
        shift = torch.randint(1, K, shape, generator=generator, device=device)
        keep = torch.rand(shape, generator=generator, device=device, dtype=torch.float64)
        shift[keep < self.blocks.stay] = 0
        start = self.log_initial.exp().to(device)
        shift[:, 0] = torch.multinomial(start, num_sequences, True, generator=generator)
        tasks = shift.cumsum(-1) % K

        drawn = torch.multinomial(lengths, shift.numel(), True, generator=generator) + 1
        ends = drawn.view(shape).cumsum(-1)
        steps = torch.arange(length, device=device).expand(num_sequences, -1).contiguous()
        z = tasks.gather(-1, torch.searchsorted(ends, steps, right=True))

        noise = torch.randn(z.shape, generator=generator, device=device, dtype=torch.float64)
        x = noise.new_tensor(self.means)[z] + self.sigma * noise
        return Stream(x.to(dtype), z)
