"""Small networks that read a set of observations, and how they are trained."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gbi_pyro.models.initial import initialise, weights_from

RATE = 3e-3  # the highest of the cycle
HEADS = 4  # of attention


def perceptron(*widths: int) -> nn.Sequential:
    """Return linear layers with a GELU between two of them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.GELU()]
    return nn.Sequential(*layers[:-1])


class Attention(nn.Module):
    """One layer of a transformer: every observation attends to all others.

    Vaswani et al. 2017, Attention is all you need, NeurIPS; with normalisation before each part.

    Args:
        width: of an observation's encoding; a multiple of ``HEADS``.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.projection, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.each = perceptron(width, 2 * width, width)

    def forward(self, read: Tensor) -> Tensor:
        """Return ``(..., n, width)`` of encodings of that shape."""
        parts = self.projection(self.before(read)).unflatten(-1, (3, HEADS, -1))
        query, key, value = parts.movedim(-3, 0).transpose(-2, -3)
        heads = nn.functional.scaled_dot_product_attention(query, key, value)
        read = read + self.mixed(heads.transpose(-2, -3).flatten(-2))
        attended: Tensor = read + self.each(self.between(read))
        return attended


class SetEncoder(nn.Module):
    """Read a set of observations: g(sum_i f(observation_i)), or of their mean.

    Zaheer et al. 2017, Deep Sets, NeurIPS. With attention f sees the other observations as well.

    Args:
        observed: numbers of an observation.
        width: hidden units.
        outputs: numbers returned.
        generator: of the first weights.
        mean: whether observations are averaged, not summed.
        attention: whether a layer of a transformer comes before that.
    """

    def __init__(
        self,
        observed: int,
        width: int,
        outputs: int,
        generator: torch.Generator,
        *,
        mean: bool = False,
        attention: bool = False,
    ) -> None:
        super().__init__()
        with weights_from(generator):
            self.each = nn.Sequential(perceptron(observed, width, width), nn.GELU())
            if attention:
                self.each.append(Attention(width))
            self.whole = perceptron(width, width, outputs)
        initialise(self, generator)
        self.mean = mean

    def forward(self, observations: Tensor) -> Tensor:
        """Return ``(..., outputs)`` of observations ``(..., n, observed)``."""
        read = self.each(observations)
        pooled: Tensor = self.whole(read.mean(-2) if self.mean else read.sum(-2))
        return pooled


def train(network: nn.Module, loss: Callable[[], Tensor], updates: int) -> None:
    """Train a network with Adam, a cycle of the rate, and gradients clipped to norm 1.

    Args:
        network: what is trained.
        loss: of a batch that it draws itself.
        updates: how many.
    """
    parameters = list(network.parameters())
    optimiser = torch.optim.Adam(parameters, lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=updates)
    for _ in range(updates):
        value = loss()
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
