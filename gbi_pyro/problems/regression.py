"""Regression weights: which of a finite set of weight vectors made the responses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from gbi_pyro.problems._draws import ModelDraws, check_count, normal, seeded
from gbi_pyro.problems.problem import Problem


@dataclass(frozen=True, eq=False)
class RegressionWeights:
    """y ~ N(X w_z, sigma).

    ::

        weights ---> y <--- X      weights: (case, K)    X: (case, n, d)    y: (case, n)

    Attributes:
        weights: w of each task, ``(K, d)``.
        sigma: the standard deviation of the noise.
    """

    weights: Tensor
    sigma: float

    def __call__(self, x: Tensor, y: Tensor) -> None:
        """Run the Pyro model on n inputs and responses a case."""
        with pyro.plate("case", len(x)):
            prior = dist.OneHotCategorical(logits=self.weights.new_zeros(len(self.weights)))
            z = pyro.sample("weights", prior, infer={"task": True})
            mean = torch.einsum("...d,...nd->...n", z @ self.weights, x)
            pyro.sample("y", dist.Normal(mean, self.sigma).to_event(1), obs=y)


def regression_weights(
    seed: int,
    *,
    num_tasks: int = 8,
    num_examples: int = 2,
    num_inputs: int = 3,
    dtype: torch.dtype = torch.float32,
) -> Problem:
    """Return the problem of which of K weight vectors made n responses.

    Args:
        seed: of the weights, N(0, 1).
        num_tasks: K.
        num_examples: n, of a case, with inputs from N(0, 1).
        num_inputs: d.
        dtype: of parameters and data.

    Raises:
        ValueError: for fewer than two tasks, no examples or no inputs.

    >>> problem = regression_weights(0)
    >>> (x, y), tasks = problem.draw(5, torch.Generator().manual_seed(0))
    >>> x.shape, y.shape
    (torch.Size([5, 2, 3]), torch.Size([5, 2]))
    """
    check_count("num_tasks", num_tasks, at_least=2)
    check_count("num_examples", num_examples)
    check_count("num_inputs", num_inputs)
    model = RegressionWeights(normal(seeded(seed), num_tasks, num_inputs).to(dtype), 0.5)
    inputs = partial(_inputs, num_examples, num_inputs, dtype)
    draw = ModelDraws(model, torch.zeros(num_examples, dtype=dtype), inputs)
    return Problem("regression-weights", model, draw)


def _inputs(
    num_examples: int, num_inputs: int, dtype: torch.dtype, n: int, generator: torch.Generator
) -> Tensor:
    return torch.randn(n, num_examples, num_inputs, generator=generator, dtype=dtype)
