"""First weights from a seeded generator, with torch's global random state left alone."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import nn


def weights_from(generator: torch.Generator | None) -> AbstractContextManager[None]:
    """Keep the global random state while layers are made whose weights a generator will draw."""
    # torch initialises its layers from the global state, whatever comes after.
    return torch.random.fork_rng(devices=[], enabled=generator is not None)


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of linear, convolutional and recurrent layers from a generator.

    Uniform within torch's own bounds for these layers: 1 / sqrt(fan in), for an LSTM
    1 / sqrt(hidden size).
    """
    for layer in network.modules():
        if isinstance(layer, nn.LSTM):
            fan = layer.hidden_size
        elif isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            fan = nn.init._calculate_fan_in_and_fan_out(layer.weight)[0]
        else:
            continue
        for parameter in layer.parameters(recurse=False):
            nn.init.uniform_(parameter, -(fan**-0.5), fan**-0.5, generator=generator)
