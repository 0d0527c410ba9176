"""Networks with one Gaussian per task: a single one, and many side by side."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

MIDDLE = 0.5  # where means begin, about
FIRST_SIGMA = 0.5  # noise that starts wide keeps the first tasks soft, until they have come apart
FLOOR = 0.02  # of sigma: a task that fits one observation exactly would be infinitely probable


class TaskMeans(nn.Module):
    """x_t ~ Normal(mu_z, sigma), mu and sigma learned; each step on its own, for ``OnlineEM``.

    Args:
        means: the first mu, ``(K,)``.
        noise_rate: how much faster than the means log sigma moves, at one rate of Adam: one group
            of parameters takes a tenth less time per step than two.

    >>> network = TaskMeans(torch.tensor([0.4, 0.6]))
    >>> network.step(torch.tensor(0.0), torch.eye(2), None)[0].mean
    tensor([0.4000, 0.6000], grad_fn=...)
    """

    def __init__(self, means: Tensor, noise_rate: float = 1.0) -> None:
        super().__init__()
        self.means = nn.Parameter(means.clone())
        self.noise = nn.Parameter(means.new_tensor(FIRST_SIGMA).log() / noise_rate)
        self.noise_rate = noise_rate

    @property
    def sigma(self) -> Tensor:
        """The learned standard deviation."""
        return (self.noise_rate * self.noise).exp() + FLOOR

    def step(self, previous: Tensor, z: Tensor, state: None) -> tuple[dist.Normal, None]:
        """Predict x_t under the tasks z, ``(..., K)``; nothing is carried."""
        return dist.Normal(z @ self.means, self.sigma, validate_args=False), None

    def initial_state(self, *batch_shape: int) -> None:
        """Return the state: none."""


class SideBySide(nn.Module):
    """N networks of one Gaussian per task, each with its own data, as one Pyro model.

    Given their weights the data are independent, and Adam moves each weight by its own gradient
    alone: N trainings at the cost of few. The first B sequences are the first network's, and so on.

    Args:
        means: the first mu, ``(N, K)``.
        sigma: the first standard deviations, ``(N,)``; all alike without.

    >>> network = SideBySide(torch.tensor([[0.2, 0.8], [0.4, 0.6]]))
    >>> trace = pyro.poutine.trace(network).get_trace(torch.zeros(6, 5))
    >>> trace.nodes["z"]["value"].shape
    torch.Size([6, 5, 2])
    """

    def __init__(self, means: Tensor, sigma: Tensor | None = None) -> None:
        super().__init__()
        sigma = means.new_full((len(means),), FIRST_SIGMA) if sigma is None else sigma - FLOOR
        self.means = nn.Parameter(means.clone())
        self.log_sigma = nn.Parameter(sigma.log())

    @property
    def sigma(self) -> Tensor:
        """The learned standard deviations, ``(N,)``."""
        return self.log_sigma.exp() + FLOOR

    def forward(self, x: Tensor, z: Tensor | None = None) -> None:
        """Run the Pyro model.

        Args:
            x: ``(N B, T)``.
            z: the tasks where they are known, ``(N B, T, K)``.
        """
        sequences, steps = x.shape
        each = sequences // len(self.means)
        means = self.means.repeat_interleave(each, 0).unsqueeze(-2)
        sigma = self.sigma.repeat_interleave(each).unsqueeze(-1)
        with pyro.plate("sequence", sequences, dim=-2), pyro.plate("time", steps, dim=-1):
            prior = dist.OneHotCategorical(logits=means.new_zeros(means.shape[-1]))
            z = pyro.sample("z", prior, obs=z, infer={"task": True})
            mean = (z * means).sum(-1)
            pyro.sample("x", dist.Normal(mean, sigma, validate_args=False), obs=x)


def first_means(num_tasks: int, spread: float, generator: torch.Generator) -> Tensor:
    """Draw the means that learning begins with, ``(K,)``."""
    return MIDDLE + spread * torch.randn(num_tasks, generator=generator)


def log_emission(x: Tensor, means: Tensor, sigma: Tensor) -> Tensor:
    """Return log Normal(x; mu_k, sigma_k), ``(..., T, K)``, of ``(..., T)`` and ``(..., K)`` twice.

    >>> log_emission(torch.zeros(1, 3), torch.zeros(1, 2), torch.ones(1, 2)).shape
    torch.Size([1, 3, 2])
    """
    gaussians = dist.Normal(means.unsqueeze(-2), sigma.unsqueeze(-2))
    log_probs: Tensor = gaussians.log_prob(x.unsqueeze(-1))
    return log_probs
