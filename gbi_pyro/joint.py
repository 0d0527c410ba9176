"""What a joint posterior over tasks can do, where the tasks of an inference hang together."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Joint(Protocol):
    """A joint posterior over all tasks of one or several sites."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw task ids together, ``(n,) + batch_shape`` for each of its sites."""
