"""What a method that learns from simulations needs: a model, and draws of tasks and data."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from gbi_pyro.relax import Model


class Drawn(NamedTuple):
    """Data drawn from a model, and the tasks that made them.

    Attributes:
        args: what the model takes.
        tasks: true task ids by site, the batch shape of the site.
    """

    args: tuple[Any, ...]
    tasks: dict[str, Tensor]


class Simulator(Protocol):
    """A model and draws from it; a ``gbi_pyro.problems.Problem`` is one."""

    @property
    def model(self) -> Model:
        """The Pyro model, with marked task sites."""

    def draw(self, n: int, generator: torch.Generator) -> Drawn:
        """Draw ``n`` independent cases."""
