"""The switching task of one step: a Gaussian whose mean is chosen by the task."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from gbi_pyro.problems._draws import ModelDraws
from gbi_pyro.problems.problem import Problem

MEANS = {2: (0.2, 0.8), 4: (0.0, 0.3, 0.6, 1.0), 5: (0.0, 0.25, 0.5, 0.75, 1.0)}
"""The means by number of tasks; with more than two they lie on a line."""


@dataclass(frozen=True, eq=False)
class SwitchingModel:
    """x ~ N(mu_z, sigma).

    ::

        z ---> x       z: (case, K)    x: (case,)

    Attributes:
        means: mu, ``(K,)``.
        sigma: the standard deviation.
    """

    means: Tensor
    sigma: float

    def __call__(self, x: Tensor) -> None:
        """Run the Pyro model on ``x``, ``(case,)``."""
        with pyro.plate("case", len(x)):
            prior = dist.OneHotCategorical(logits=torch.zeros_like(self.means))
            z = pyro.sample("z", prior, infer={"task": True})
            pyro.sample("x", dist.Normal(z @ self.means, self.sigma), obs=x)


def switching(num_tasks: int, *, sigma: float = 0.3, dtype: torch.dtype = torch.float32) -> Problem:
    """Return the problem of one observation of the switching task, x ~ N(mu_z, sigma).

    The mean is affine in the task, so one gradient step is exact for two tasks, and biased by
    |mu_k - mean|^2 / 2 sigma^2 for more.

    Args:
        num_tasks: K, one of 2, 4 and 5, with the means of ``MEANS``.
        sigma: the standard deviation.
        dtype: of parameters and data.

    Raises:
        ValueError: for another number of tasks, or a ``sigma`` that is not positive.

    >>> problem = switching(2)
    >>> drawn = problem.draw(3, torch.Generator().manual_seed(0))
    >>> problem.posterior(drawn).probs().shape
    torch.Size([3, 2])
    """
    if num_tasks not in MEANS:
        raise ValueError(f"num_tasks should be one of {sorted(MEANS)}, got {num_tasks}")
    if not sigma > 0:
        raise ValueError(f"sigma should be positive, got {sigma}")
    model = SwitchingModel(torch.tensor(MEANS[num_tasks], dtype=dtype), sigma)
    draw = ModelDraws(model, torch.zeros((), dtype=dtype))
    return Problem(f"switching-{num_tasks}", model, draw)
