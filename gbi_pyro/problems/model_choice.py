"""Model choice: the degree of the polynomial behind noisy data, its coefficients integrated out."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from gbi_pyro.problems._draws import ModelDraws, check_count
from gbi_pyro.problems.problem import Problem


@dataclass(frozen=True, eq=False)
class PolynomialDegree:
    r"""y_i = \sum_{j <= degree} w_j x_i^j + noise, w_j ~ N(0, 1) integrated out.

    ::

        degree ---> y      degree: (case, D)    y: (case, n)

    The marginal likelihood is conjugate: y ~ N(0, F diag(v) F' + sigma^2 I), F_ij = x_i^j, with
    v_j = 1 where the degree has power j and 0 where it has not. Between tasks v is interpolated,
    v = z @ (lower triangle of ones).

    Attributes:
        powers: F, ``(n, D)``, of degrees 0 .. D - 1.
        sigma: the standard deviation of the noise.
    """

    powers: Tensor
    sigma: float

    def __call__(self, y: Tensor) -> None:
        """Run the Pyro model on the values at the n points, ``(case, n)``."""
        n, degrees = self.powers.shape
        with pyro.plate("case", len(y)):
            prior = dist.OneHotCategorical(logits=self.powers.new_zeros(degrees))
            z = pyro.sample("degree", prior, infer={"task": True})
            used = z @ self.powers.new_ones(degrees, degrees).tril()
            # dense: the root of v, which a low-rank law needs, has no derivative at a task
            signal = (self.powers * used.unsqueeze(-2)) @ self.powers.mT
            noise = self.sigma**2 * torch.eye(n, dtype=y.dtype)
            law = dist.MultivariateNormal(self.powers.new_zeros(n), signal + noise)
            pyro.sample("y", law, obs=y)


def model_choice(
    *, num_degrees: int = 4, num_examples: int = 16, dtype: torch.dtype = torch.float32
) -> Problem:
    """Return the problem of which degree the polynomial behind n noisy points has.

    Args:
        num_degrees: D, degrees 0 .. D - 1.
        num_examples: n, points evenly spaced on [-1, 1].
        dtype: of parameters and data.

    Raises:
        ValueError: for fewer than two degrees, or fewer than two points.

    >>> problem = model_choice()
    >>> (y,), tasks = problem.draw(3, torch.Generator().manual_seed(0))
    >>> y.shape, tasks["degree"].shape
    (torch.Size([3, 16]), torch.Size([3]))
    """
    check_count("num_degrees", num_degrees, at_least=2)
    check_count("num_examples", num_examples, at_least=2)
    x = torch.linspace(-1, 1, num_examples, dtype=dtype)
    model = PolynomialDegree(x.unsqueeze(-1) ** torch.arange(num_degrees), 0.3)
    return Problem("model-index", model, ModelDraws(model, torch.zeros_like(x)))
