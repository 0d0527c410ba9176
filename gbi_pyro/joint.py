"""What a joint posterior over tasks can do, where the tasks of an inference hang together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Joint(Protocol):
    """A joint posterior over all tasks of one or several sites."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw task ids together, ``(n,) + batch_shape`` for each of its sites."""


@dataclass(frozen=True)
class Reordered:
    """A joint posterior whose tasks have other ids.

    Attributes:
        joint: the joint posterior.
        site: whose tasks.
        order: at k the former id of task k, ``(K,)``.
    """

    joint: Joint
    site: str
    order: Tensor

    def sample(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw task ids, ``(n,) + batch_shape`` for each site."""
        drawn = self.joint.sample(n, generator)
        present = self.order.argsort().to(drawn[self.site].device)
        return {**drawn, self.site: present[drawn[self.site]]}
