"""The joint posterior of a task along time, whose draws are paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import one_hot

from gbi_pyro.inference.paths import Paths, ReorderedPaths


class PathDistribution(TorchDistribution):
    """Paths of one-hot tasks: steps hang together, though each has a log probability of its own.

    The log probability of a step is that given the steps which were drawn before it, so that their
    sum is the log probability of the path, and a plate over time may hold the site.

    Args:
        paths: the joint posterior of the chain.
        time: the batch dimension (negative) that is time.
        shape: ``batch_shape + (K,)``.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    support = constraints.one_hot

    def __init__(self, paths: Paths, time: int, shape: torch.Size, lead: torch.Size) -> None:
        self.paths, self.time, self.shape_of_one, self.lead = paths, time, shape, lead
        super().__init__(lead + shape[:-1], shape[-1:], validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw paths, ``sample_shape + batch_shape + (K,)``."""
        shape = torch.Size(sample_shape) + self.batch_shape
        n = (torch.Size(sample_shape) + self.lead).numel()
        ids = self.paths.sample(n).movedim(-1, self.time).reshape(shape)
        return one_hot(ids, self.event_shape[0]).to(torch.get_default_dtype())

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of each step, ``(...) + batch_shape``."""
        ids = value.argmax(-1).movedim(self.time, -1)
        return self.paths.log_prob(ids).movedim(-1, self.time).to(value.dtype)

    def expand(self, batch_shape: Any, _instance: Any = None) -> PathDistribution:
        """Return the same paths for more draws, in dimensions to the left."""
        lead = torch.Size(batch_shape)[: len(batch_shape) - len(self.shape_of_one) + 1]
        return PathDistribution(self.paths, self.time, self.shape_of_one, lead)

    def reordered(self, order: Tensor) -> PathDistribution:
        """Return the same paths whose tasks have other ids."""
        paths = ReorderedPaths(self.paths, order)
        return PathDistribution(paths, self.time, self.shape_of_one, self.lead)


@dataclass(frozen=True)
class ChainJoint:
    """The joint posterior of one task site along time; sequences are independent.

    Attributes:
        site: its name.
        paths: of the chain.
        time: the batch dimension (negative) that is time.
        shape: ``batch_shape + (K,)``.
    """

    site: str
    paths: Paths
    time: int
    shape: torch.Size

    @property
    def sites(self) -> tuple[str, ...]:
        """The site."""
        return (self.site,)

    def sample(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw task ids, ``(n,) + batch_shape``."""
        return {self.site: self.paths.sample(n, generator).movedim(-1, self.time)}

    def log_prob(self, ids: Mapping[str, Tensor]) -> Tensor:
        """Return log p(path | x) of each sequence, ``lead`` + ``batch_shape`` without time."""
        return self.paths.log_prob(ids[self.site].movedim(self.time, -1)).sum(-1)

    def conditional(self, site: str, given: Mapping[str, Tensor]) -> PathDistribution:
        """Return the distribution of the site's paths."""
        return PathDistribution(self.paths, self.time, self.shape, torch.Size())
