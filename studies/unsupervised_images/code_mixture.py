"""A mixture of Gaussians over codes of images: the task says which one a code comes from."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints


class TaskGaussian(TorchDistribution):
    r"""One Gaussian for each task, affine in the task after all else.

    log p(c | z) = sum_k z_k log Normal(c; mu_k, (U_k U_k')^-1). At a task proper that is the
    density of its Gaussian; between them the logarithms are mixed, so that the log joint is linear
    in Z and one gradient step is the exact posterior.

    Args:
        z: tasks or mixtures of tasks, ``batch_shape + (K,)``.
        means: mu, ``(K, d)``.
        factors: U, lower triangles with a positive diagonal, ``(K, d, d)``.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    support = constraints.real_vector

    def __init__(self, z: Tensor, means: Tensor, factors: Tensor) -> None:
        self.z, self.means, self.factors = z, means, factors
        super().__init__(z.shape[:-1], means.shape[-1:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of ``value``, ``(..., d)``."""
        return (self.z * gaussian_table(value, self.means, self.factors)).sum(-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> TaskGaussian:
        """Return the same distribution for a larger batch."""
        shape = (*batch_shape, self.z.shape[-1])
        return TaskGaussian(self.z.expand(shape), self.means, self.factors)


def gaussian_table(codes: Tensor, means: Tensor, factors: Tensor) -> Tensor:
    """Return log Normal(c; mu_k, (U_k U_k')^-1) of codes ``(N, d)`` under each task, ``(N, K)``.

    >>> one = gaussian_table(torch.zeros(1, 2), torch.zeros(1, 2), torch.eye(2).unsqueeze(0))
    >>> round(one.item(), 4)  # -log 2 pi
    -1.8379
    """
    white = codes @ factors - (means.unsqueeze(-2) @ factors)  # (K, N, d)
    volume = factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constant = volume - 0.5 * means.shape[-1] * math.log(2 * math.pi)
    return constant - 0.5 * white.square().sum(-1).mT


class CodeMixture(nn.Module):
    """Codes of images given their task, one Gaussian a task: the Pyro model.

    ::

        z ----> mu_z, U_z ----> c        c: (image, d)    z: (image, K)

    Args:
        means: first means, ``(K, d)``.
        covariances: first covariances, ``(K, d, d)``.

    >>> from gbi_pyro import OneStepGradient
    >>> model = CodeMixture(torch.tensor([[0.0], [2.0]]), torch.ones(2, 1, 1))
    >>> OneStepGradient()(model, torch.tensor([[1.0], [2.0]])).probs().round(decimals=3)
    tensor([[0.5000, 0.5000],
            [0.1190, 0.8810]])
    """

    def __init__(self, means: Tensor, covariances: Tensor) -> None:
        super().__init__()
        # U U' = S^-1 with U lower triangular.
        factors = torch.linalg.cholesky(torch.linalg.inv(covariances))
        self.means = nn.Parameter(means.clone())
        self.log_diagonal = nn.Parameter(factors.diagonal(dim1=-2, dim2=-1).log())
        self.below = nn.Parameter(factors.tril(-1))

    @property
    def num_tasks(self) -> int:
        """K, the number of tasks."""
        return len(self.means)

    @property
    def factors(self) -> Tensor:
        """U, whose U U' are the inverse covariances, ``(K, d, d)``."""
        return self.below.tril(-1) + self.log_diagonal.exp().diag_embed()

    def forward(self, codes: Tensor) -> None:
        """Run the Pyro model on codes ``(N, d)``."""
        with pyro.plate("image", len(codes), dim=-1):
            prior = dist.OneHotCategorical(
                logits=codes.new_zeros(self.num_tasks), validate_args=False
            )
            z = pyro.sample("z", prior, infer={"task": True})
            pyro.sample("c", TaskGaussian(z, self.means, self.factors), obs=codes)


def mixture_of_clusters(codes: Tensor, ids: Tensor, num_tasks: int, ridge: float) -> CodeMixture:
    """Return the mixture that starts from clusters: their means and their covariances.

    Args:
        codes: ``(N, d)``.
        ids: the cluster of each, ``(N,)``.
        num_tasks: K; every cluster has to have a code.
        ridge: variance added in all directions.

    Raises:
        ValueError: for a cluster without codes.

    >>> codes = torch.tensor([[0.0], [2.0], [5.0], [7.0]])
    >>> mixture_of_clusters(codes, torch.tensor([0, 0, 1, 1]), 2, ridge=0.0).means.data.T
    tensor([[1., 6.]])
    """
    member = nn.functional.one_hot(ids, num_tasks).to(codes.dtype)
    counts = member.sum(0)
    if not counts.all():
        empty = (counts == 0).nonzero().flatten().tolist()
        raise ValueError(
            f"ids leave clusters {empty} of {num_tasks} without any code; expected one or more in "
            "each: take fewer tasks or more images"
        )
    means = member.mT @ codes / counts.unsqueeze(-1)
    squares = torch.einsum("nk,ni,nj->kij", member, codes, codes) / counts[:, None, None]
    spread = squares - means.unsqueeze(-1) * means.unsqueeze(-2)
    return CodeMixture(means, spread + ridge * torch.eye(codes.shape[-1], dtype=codes.dtype))
