"""Parts of image models: encoders, decoders, and one sigma for all pixels."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from gbi_pyro.models._validate import check_choice, check_images

Network = Literal["mlp", "conv"]
Latent = Literal["plain", "noisy"]
CHANNELS = (16, 32)  # of the two convolutions


class IsotropicNormal(TorchDistribution):
    """Normal(mean, sigma^2 I) over vectors: one sigma, and its logarithm taken once.

    Args:
        mean: ``batch_shape + (D,)``.
        sigma: the standard deviation, a scalar.

    >>> round(IsotropicNormal(torch.zeros(2), torch.tensor(1.0)).log_prob(torch.ones(2)).item(), 4)
    -2.8379
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, mean: Tensor, sigma: Tensor) -> None:
        self.loc, self.sigma = mean, sigma
        super().__init__(mean.shape[:-1], mean.shape[-1:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of ``value``, ``(..., D)``."""
        squares = (value - self.loc).square().sum(-1)
        log_scale = self.sigma.log() + 0.5 * math.log(2 * math.pi)
        size = self.loc.shape[-1]
        return -0.5 * squares / self.sigma.square() - size * log_scale

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw vectors, ``sample_shape + batch_shape + (D,)``."""
        mean = self.loc.expand(tuple(sample_shape) + tuple(self.loc.shape))
        return mean + self.sigma * torch.randn_like(mean)

    def expand(self, batch_shape: Any, _instance: Any = None) -> IsotropicNormal:
        """Return the same distribution for a larger batch."""
        return IsotropicNormal(self.loc.expand(tuple(batch_shape) + self.event_shape), self.sigma)


class ImageEncoder(nn.Module):
    """Compress images to d numbers.

    Args:
        image_shape: the shape of one image; ``(C, H, W)`` with H and W divisible by 4 for "conv".
        latent_size: d.
        hidden_size: units of the hidden layer.
        network: "mlp" (Linear, ReLU, Linear), or "conv" (two strided convolutions before them).
        latent: "plain", or "noisy": LayerNorm without weights, and N(0, 1) noise added in training
            only. A latent that holds the class leaves nothing for the task to say, and the decoder
            ignores it; noise limits what the latent can hold.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        latent_size: int,
        *,
        hidden_size: int = 256,
        network: Network = "mlp",
        latent: Latent = "plain",
    ) -> None:
        super().__init__()
        check_choice("latent", latent, Latent)
        check_choice("network", network, Network)
        smallest = 2 if latent == "noisy" else 1  # one number, normalised, is always zero
        if latent_size < smallest:
            raise ValueError(
                f"latent_size must be at least {smallest} for a {latent} latent, got {latent_size}"
            )
        self.image_shape, self.latent_size, self.latent = tuple(image_shape), latent_size, latent
        if network == "mlp":
            convolutions, features = [], math.prod(self.image_shape)
        else:
            channels, *small = _conv_shapes(self.image_shape)
            convolutions, features = _convolutions(channels), math.prod(small)
        self.layers = nn.Sequential(
            *convolutions, nn.Flatten(), *mlp(features, hidden_size, latent_size)
        )

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the latent, ``(N, d)``, of images ``(N,) + image_shape``.

        Args:
            x: the images.
            generator: for the noise in training; torch's random state without one.
        """
        h: Tensor = self.layers(check_images(x, self.image_shape))
        if self.latent == "plain":
            return h
        h = nn.functional.layer_norm(h, h.shape[-1:])
        if not self.training:
            return h
        return h + torch.randn(h.shape, generator=generator, dtype=h.dtype, device=h.device)


def make_decoder(
    image_shape: tuple[int, ...], inputs: int, hidden_size: int, network: Network
) -> nn.Module:
    """Return the layers from ``inputs`` numbers to the pixels of an image, flattened."""
    if network == "mlp":
        return mlp(inputs, hidden_size, math.prod(image_shape))
    channels, *small = _conv_shapes(image_shape)
    first, second = CHANNELS
    return nn.Sequential(
        *mlp(inputs, hidden_size, math.prod(small)),
        nn.ReLU(),
        nn.Unflatten(-1, tuple(small)),
        nn.ConvTranspose2d(second, first, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(first, channels, 4, stride=2, padding=1),
        nn.Flatten(),
    )


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return one hidden layer of ReLUs."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def concatenate(latent: Tensor, z: Tensor) -> Tensor:
    """Put a latent ``(N, d)`` and tasks ``(..., N, K)`` side by side: ``(..., N, d + K)``."""
    # An enumerated task comes as (K, 1, K): it spans its own dimension and no plate.
    batch = torch.broadcast_shapes(latent.shape[:-1], z.shape[:-1])
    return torch.cat([latent.expand(*batch, -1), z.expand(*batch, -1)], -1)


def _convolutions(channels: int) -> list[nn.Module]:
    first, second = CHANNELS
    return [
        nn.Conv2d(channels, first, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(first, second, 4, stride=2, padding=1),
        nn.ReLU(),
    ]


def _conv_shapes(image_shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return the channels of an image, and the shape of the small maps after both strides."""
    if len(image_shape) != 3 or image_shape[1] % 4 or image_shape[2] % 4:
        raise ValueError(
            f"image_shape is {image_shape}; a convolutional network expects (channels, height, "
            "width) with height and width divisible by 4: reshape or pad the images"
        )
    channels, height, width = image_shape
    return channels, CHANNELS[1], height // 4, width // 4
