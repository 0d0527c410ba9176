"""The toy task as a Pyro model: a Gaussian whose mean is chosen by the task."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn


class SwitchingGaussian(nn.Module):
    """Independent steps x_t ~ Normal(mu_z, sigma), affine in the task: the calibration case.

    ::

        z_t ---> x_t       z: (sequence, time, K)    x: (sequence, time)

    Given its tasks this is the generator of the paper's toy task, so enumeration gives the exact
    likelihoods of its single steps, and the Bayes filter over them the exact posterior.

    Args:
        means: mu, ``(K,)``.
        sigma: the standard deviation.
        log_prior: log probabilities of the tasks of one step, ``(K,)``; uniform without.

    >>> model = SwitchingGaussian(torch.tensor([0.2, 0.8]), 0.1)
    >>> pyro.poutine.trace(model).get_trace(torch.zeros(3, 5)).nodes["z"]["value"].shape
    torch.Size([3, 5, 2])
    """

    means: Tensor
    log_prior: Tensor

    def __init__(self, means: Tensor, sigma: float, log_prior: Tensor | None = None) -> None:
        super().__init__()
        if not sigma > 0:
            raise ValueError(f"sigma must be positive, got {sigma}")
        if log_prior is not None and log_prior.shape != means.shape:
            raise ValueError(
                f"log_prior has shape {tuple(log_prior.shape)}, expected {tuple(means.shape)} as "
                "the means"
            )
        self.sigma = sigma
        self.register_buffer("means", means)
        self.register_buffer(
            "log_prior", torch.zeros_like(means) if log_prior is None else log_prior
        )

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """Run the Pyro model on ``x``, (sequence, time), with the tasks ``z`` if they are known."""
        sequences, steps = x.shape
        with pyro.plate("sequence", sequences, dim=-2), pyro.plate("time", steps, dim=-1):
            prior = dist.OneHotCategorical(logits=self.log_prior)
            z = pyro.sample("z", prior, obs=z, infer={"task": True})
            x = pyro.sample("x", dist.Normal(z @ self.means, self.sigma), obs=x)
        return x
