"""What a problem of task inference is: a model, draws from it, and its exact posterior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.simulator import Drawn
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.relax import Model


@dataclass(frozen=True)
class Problem:
    """A model whose tasks are to be inferred, with data drawn from it and the right answer.

    Attributes:
        name: in tables and figures.
        model: a Pyro model with marked task sites; cases lie in one plate, and the likelihood
            broadcasts over leading dimensions.
        draw: draws ``n`` cases with a seeded generator: what the model takes, and the true tasks.
        exact: the inference that returns the exact posterior.

    >>> import pyro, pyro.distributions as dist
    >>> from gbi_pyro import OneStepGradient
    >>> means = torch.tensor([0.0, 1.0])
    >>> def model(x):
    ...     with pyro.plate("case", len(x)):
    ...         z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer={"task": True})
    ...         pyro.sample("x", dist.Normal(z @ means, 0.3), obs=x)
    >>> def draw(n, generator):
    ...     z = torch.randint(2, (n,), generator=generator)
    ...     return Drawn((means[z] + 0.3 * torch.randn(n, generator=generator),), {"z": z})
    >>> mine = Problem("mine", model, draw)
    >>> (x,), tasks = mine.draw(100, torch.Generator().manual_seed(0))
    >>> error = mine.exact(mine.model, x).probs() - OneStepGradient()(mine.model, x).probs()
    >>> bool(error.abs().max() < 1e-5)
    True
    """

    name: str
    model: Model = field(repr=False)
    draw: Callable[[int, torch.Generator], Drawn] = field(repr=False)
    exact: Callable[..., TaskPosterior] = field(default=Enumeration(chunk_size=64), repr=False)

    def posterior(self, drawn: Drawn) -> TaskPosterior:
        """Return the exact posterior of drawn data."""
        return self.exact(self.model, *drawn.args)
