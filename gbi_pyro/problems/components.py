"""Components: which Gaussian of several made the data."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from gbi_pyro.problems._draws import ModelDraws, check_count, normal, seeded
from gbi_pyro.problems.problem import Problem


@dataclass(frozen=True, eq=False)
class Components:
    """x_1..n ~ N(mu_z, sigma_z^2 I) in the plane.

    ::

        component ---> x      component: (case, K)    x: (case, n, 2)

    Between tasks the logarithm of sigma is interpolated, so the log likelihood is not quadratic.

    Attributes:
        means: mu, ``(K, 2)``.
        log_scales: log sigma, ``(K,)``.
    """

    means: Tensor
    log_scales: Tensor

    def __call__(self, x: Tensor) -> None:
        """Run the Pyro model on n points a case."""
        with pyro.plate("case", len(x)):
            prior = dist.OneHotCategorical(logits=torch.zeros_like(self.log_scales))
            z = pyro.sample("component", prior, infer={"task": True})
            mean = (z @ self.means).unsqueeze(-2)
            scale = (z @ self.log_scales).exp()[..., None, None]
            law = dist.Normal(mean.expand(*mean.shape[:-2], *x.shape[-2:]), scale)
            pyro.sample("x", law.to_event(2), obs=x)


def components(
    seed: int,
    *,
    num_tasks: int = 6,
    num_examples: int = 2,
    dtype: torch.dtype = torch.float32,
) -> Problem:
    """Return the problem of which Gaussian component made n points.

    Args:
        seed: of the means, 1.5 N(0, 1), and the log scales, .4 N(0, 1).
        num_tasks: K, the number of components.
        num_examples: n, points of a case.
        dtype: of parameters and data.

    Raises:
        ValueError: for fewer than two components, or no points.

    >>> problem = components(0)
    >>> (x,), tasks = problem.draw(3, torch.Generator().manual_seed(0))
    >>> x.shape, tasks["component"].shape
    (torch.Size([3, 2, 2]), torch.Size([3]))
    """
    check_count("num_tasks", num_tasks, at_least=2)
    check_count("num_examples", num_examples)
    generator = seeded(seed)
    means, log_scales = 1.5 * normal(generator, num_tasks, 2), 0.4 * normal(generator, num_tasks)
    model = Components(means.to(dtype), log_scales.to(dtype))
    return Problem(
        "components", model, ModelDraws(model, torch.zeros(num_examples, 2, dtype=dtype))
    )
