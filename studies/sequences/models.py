"""Models of a choice: a regression for each hidden state, linear or a network of one layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from studies.sequences.sessions import COVARIATES

STATE, TIME = "state", "trial"
D = len(COVARIATES)


@dataclass(frozen=True)
class ChoiceModel:
    r"""A marked Pyro model of choices: p(right | u, state k) = sigmoid(f_k(u)).

    f_k(u) = w_k . u, which with states that switch is the GLM-HMM of Ashwood et al. 2022 (Mice
    alternate between discrete strategies during perceptual decision-making, Nat. Neurosci. 25); or
    f_k(u) = v_k . tanh(W_k u) + c_k. Weights have independent normal priors of one precision.

    Attributes:
        num_states: K.
        precision: of the priors.
        hidden: tanh units of each state; 0 for linear states.
    """

    num_states: int
    precision: float
    hidden: int = 0

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each site of weights."""
        K, H = self.num_states, self.hidden
        return {"W": (K, D, H), "v": (K, H), "c": (K,)} if H else {"w": (K, D)}

    def __call__(self, covariates: Tensor, right: Tensor, mask: Tensor, _outcomes: Tensor) -> None:
        """Sample weights, states and choices."""
        weights = {
            name: pyro.sample(name, dist.Normal(0.0, self.scale).expand(shape).to_event(len(shape)))
            for name, shape in self.shapes.items()
        }
        log_odds = self.log_odds(weights, covariates)
        even = torch.zeros(self.num_states, dtype=log_odds.dtype)
        with (
            pyro.plate("session", right.shape[0], dim=-2),
            pyro.plate(TIME, right.shape[1], dim=-1),
        ):
            z = pyro.sample(STATE, dist.OneHotCategorical(logits=even), infer={"task": True})
            with poutine.mask(mask=mask):
                choice = dist.Bernoulli(logits=(z * log_odds).sum(-1))
                pyro.sample("right", choice, obs=right)

    @property
    def scale(self) -> Tensor:
        """The standard deviation of a weight under its prior."""
        return torch.tensor(self.precision, dtype=torch.float64).rsqrt()

    def log_odds(self, weights: Mapping[str, Tensor], covariates: Tensor) -> Tensor:
        """Return f_k(u), the log odds of right in each state: ``(S, T, K)``."""
        if not self.hidden:
            return covariates @ weights["w"].mT
        layer = torch.einsum("std,kdh->stkh", covariates, weights["W"]).tanh()
        return (layer * weights["v"]).sum(-1) + weights["c"]

    def draw_start(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw weights that a fit may start from, of unit log odds or so."""
        return {
            name: torch.randn(shape, generator=generator, dtype=torch.float64)
            / (shape[-1] ** 0.5 if name == "v" else 1.0)
            for name, shape in self.shapes.items()
        }
