"""The generative model of a classifier: Gaussian noise around a network's mean of the class."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from gbi_pyro.learning import clamped_loss
from gbi_pyro.models.initial import initialise, weights_from

LEAST = 0.01  # the smallest scale of noise whose covariance was brought to about 1


class ClassModel(nn.Module):
    """A Pyro model of samples x, ``(n, d)``, whose task is their class.

    x = f(z) + noise of one scale, with f affine in z, or a network of one layer of tanh units.

    Args:
        log_prior: log probabilities of the classes, ``(K,)`` float64.
        num_features: d.
        hidden: units of the layer; 0 for an affine mean.
        generator: draws the first weights.
    """

    def __init__(
        self, log_prior: Tensor, num_features: int, hidden: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        K = len(log_prior)
        with weights_from(generator):
            if hidden:
                layers = nn.Linear(K, hidden), nn.Tanh(), nn.Linear(hidden, num_features)
                self.mean: nn.Module = nn.Sequential(*layers)
            else:
                self.mean = nn.Linear(K, num_features, bias=False)
        self.mean.double()
        initialise(self.mean, generator)
        self.free_scale = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.register_buffer("log_prior", log_prior)

    def forward(self, x: Tensor, z: Tensor | None = None) -> None:
        """Run the model, of which z are the classes, ``(n, K)``, where they are known."""
        with pyro.plate("sample", len(x)):
            prior = dist.OneHotCategorical(logits=self.log_prior)
            z = pyro.sample("z", prior, obs=z, infer={"task": True})
            scale = LEAST + nn.functional.softplus(self.free_scale)
            pyro.sample("x", dist.Normal(self.mean(z), scale).to_event(1), obs=x)

    def fit(self, x: Tensor, z: Tensor, max_iter: int) -> int:
        """Maximise log p(x, z) in the weights by L-BFGS, and return the number of iterations."""
        optimiser = torch.optim.LBFGS(
            self.parameters(),
            max_iter=max_iter,
            max_eval=10 * max_iter,
            tolerance_grad=1e-7,
            tolerance_change=1e-10,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = clamped_loss(self, x, z)
            loss.backward()
            return loss

        optimiser.step(closure)
        optimiser.zero_grad()
        return int(optimiser.state[next(iter(self.parameters()))]["n_iter"])
