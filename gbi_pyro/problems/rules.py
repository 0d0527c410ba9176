"""Rules: which operation made the results."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from gbi_pyro.problems._draws import ModelDraws, check_count
from gbi_pyro.problems.problem import Problem


@dataclass(frozen=True, eq=False)
class Rules:
    """y = a + b, a - b, a b or min(a, b), with noise.

    ::

        rule ---> y <--- (a, b)     rule: (case, 4)    pairs: (case, n, 2)    y: (case, n)

    The mean is affine in the task, so the log likelihood is quadratic in it.

    Attributes:
        sigma: the standard deviation of the noise.
    """

    sigma: float

    def __call__(self, pairs: Tensor, y: Tensor) -> None:
        """Run the Pyro model on n pairs (a, b) and their results a case."""
        a, b = pairs.unbind(-1)
        results = torch.stack([a + b, a - b, a * b, torch.minimum(a, b)], -1)
        with pyro.plate("case", len(pairs)):
            prior = dist.OneHotCategorical(logits=results.new_zeros(4))
            z = pyro.sample("rule", prior, infer={"task": True})
            mean = torch.einsum("...k,...nk->...n", z, results)
            pyro.sample("y", dist.Normal(mean, self.sigma).to_event(1), obs=y)


def rules(num_examples: int, *, dtype: torch.dtype = torch.float32) -> Problem:
    """Return the problem of which of four rules made n results.

    Args:
        num_examples: n, pairs of numbers from N(0, 1) in a case.
        dtype: of the data.

    Raises:
        ValueError: for no examples.

    >>> problem = rules(4)
    >>> (pairs, y), tasks = problem.draw(3, torch.Generator().manual_seed(0))
    >>> pairs.shape, y.shape
    (torch.Size([3, 4, 2]), torch.Size([3, 4]))
    """
    check_count("num_examples", num_examples)
    model = Rules(0.5)
    inputs = partial(_inputs, num_examples, dtype)
    draw = ModelDraws(model, torch.zeros(num_examples, dtype=dtype), inputs)
    return Problem(f"rules-n{num_examples}", model, draw)


def _inputs(num_examples: int, dtype: torch.dtype, n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, num_examples, 2, generator=generator, dtype=dtype)
