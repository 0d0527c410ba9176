"""Draws of cases from a model itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gbi_pyro.inference.recogniser import dream
from gbi_pyro.inference.simulator import Drawn
from gbi_pyro.relax import Model


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw parameters from N(0, 1), in float64: a seed gives the same ones in every dtype."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def seeded(seed: int) -> torch.Generator:
    """Return a generator for the parameters of a problem."""
    return torch.Generator().manual_seed(seed)


def check_count(name: str, value: int, *, at_least: int = 1) -> None:
    """Check that an option is a whole number of something."""
    if value < at_least:
        raise ValueError(f"{name} should be at least {at_least}, got {value}")


@dataclass(frozen=True, eq=False)
class ModelDraws:
    """Draw cases from a model with one observed site, p(z) p(x | z).

    Attributes:
        model: a Pyro model without ``pyro.factor``; it takes its inputs, then its data.
        like: data of one case, of which shape and dtype count.
        inputs: draws the inputs of ``n`` cases, if there are any.
    """

    model: Model
    like: Tensor
    inputs: Callable[[int, torch.Generator], Tensor] | None = None

    def __call__(self, n: int, generator: torch.Generator) -> Drawn:
        """Draw ``n`` cases."""
        check_count("n", n)
        given = () if self.inputs is None else (self.inputs(n, generator),)
        shape = (n, *self.like.shape)
        tasks, values = dream(self.model, *given, self.like.expand(shape), generator=generator)
        (data,) = values.values()
        return Drawn((*given, data), tasks)
