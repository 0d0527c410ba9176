"""What a method that learns from simulations needs: a model, and draws of tasks and data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from gbi_pyro.relax import Model
from gbi_pyro.sites import TaskSiteError


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


def check_drawn(tasks: Mapping[str, Tensor], sites: Iterable[str]) -> None:
    """Check that a simulator draws the tasks of every task site.

    Raises:
        TaskSiteError: for a site whose tasks are not drawn.
    """
    if missing := [name for name in sites if name not in tasks]:
        raise TaskSiteError(
            f"draw should return the true tasks of site {missing[0]!r} of the model; got tasks of "
            f"{list(tasks)}: name them as the model does"
        )
