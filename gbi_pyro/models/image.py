"""Images given their class: the paper's networks, with the class as the task.

All encoders are one class, so that every network of a comparison, the classifier among them, sees
the image in the same way.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from gbi_pyro.models.initial import initialise, weights_from

Network = Literal["mlp", "conv"]
Latent = Literal["plain", "noisy"]
Likelihood = Literal["gaussian", "bernoulli"]

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
        return -0.5 * squares / self.sigma.square() - self.event_shape[0] * log_scale

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
        _check_choice("latent", latent, Latent)
        _check_choice("network", network, Network)
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
        h = self.layers(check_images(x, self.image_shape))
        if self.latent == "plain":
            return h
        h = nn.functional.layer_norm(h, h.shape[-1:])
        if not self.training:
            return h
        return h + torch.randn(h.shape, generator=generator, dtype=h.dtype, device=h.device)


class ImageModel(nn.Module):
    """What all models share: one task for each image, in the plate "image".

    Args:
        image_shape: the shape of one image.
        num_tasks: K.
        log_prior: log probabilities of the tasks, ``(K,)``; uniform without.
    """

    log_prior: Tensor

    def __init__(
        self, image_shape: tuple[int, ...], num_tasks: int, log_prior: Tensor | None = None
    ) -> None:
        super().__init__()
        if num_tasks < 2:
            raise ValueError(f"num_tasks must be at least 2, got {num_tasks}")
        if log_prior is not None and log_prior.shape != (num_tasks,):
            raise ValueError(
                f"log_prior has shape {tuple(log_prior.shape)}, expected ({num_tasks},)"
            )
        self.image_shape, self.num_tasks = tuple(image_shape), num_tasks
        self.register_buffer(
            "log_prior", torch.zeros(num_tasks) if log_prior is None else log_prior
        )

    def sample_task(self, z: Tensor | None) -> Tensor:
        """Declare the task site "z", observed where labels or mixtures ``(N, K)`` are given."""
        # Parameters are valid by construction, and checking them at each run costs time.
        prior = dist.OneHotCategorical(logits=self.log_prior, validate_args=False)
        return pyro.sample("z", prior, obs=z, infer={"task": True})

    def uniform(self, *batch_shape: int) -> Tensor:
        """Return the maximum-entropy task, ``batch_shape + (K,)``."""
        return self.log_prior.new_full((*batch_shape, self.num_tasks), 1 / self.num_tasks)


class ConditionedDecoder(ImageModel):
    """A decoder without an encoder: p(x | z), all that is known of an image is its task.

    ::

        z ----> Linear -> ReLU -> Linear -> mean -> x     x: (image,) + image_shape    z: (image, K)

    The pure generative classifier. Its mean is one image for each task.

    Args:
        image_shape: the shape of one image; ``(C, H, W)`` with H and W divisible by 4 for "conv".
        num_tasks: K.
        hidden_size: units of the hidden layer.
        network: "mlp", or "conv" (two transposed convolutions after it).
        likelihood: "gaussian" with one learned sigma, or "bernoulli" for pixels in [0, 1].
        initial_sigma: the standard deviation that learning starts from.
        log_prior: log probabilities of the tasks, ``(K,)``; uniform without.
        generator: a seeded generator for the initial weights; torch's random state without one.

    >>> model = ConditionedDecoder((4, 4), 3, hidden_size=8)
    >>> model.generate(model.uniform(2)).shape
    torch.Size([2, 4, 4])
    """

    encoder: ImageEncoder | None

    def __init__(
        self,
        image_shape: tuple[int, ...],
        num_tasks: int,
        *,
        hidden_size: int = 256,
        network: Network = "mlp",
        likelihood: Likelihood = "gaussian",
        initial_sigma: float = 0.3,
        log_prior: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(image_shape, num_tasks, log_prior)
        self._build(None, hidden_size, network, likelihood, initial_sigma, generator)

    def _build(
        self,
        encoder: ImageEncoder | None,
        hidden_size: int,
        network: Network,
        likelihood: Likelihood,
        initial_sigma: float,
        generator: torch.Generator | None,
    ) -> None:
        _check_choice("network", network, Network)
        _check_choice("likelihood", likelihood, Likelihood)
        if not initial_sigma > 0:
            raise ValueError(f"initial_sigma must be positive, got {initial_sigma}")
        self.encoder, self.likelihood = encoder, likelihood
        inputs = self.num_tasks + (encoder.latent_size if encoder else 0)
        with weights_from(generator):
            self.decoder = _decoder(self.image_shape, inputs, hidden_size, network)
        if likelihood == "gaussian":
            self.log_sigma = nn.Parameter(torch.tensor(initial_sigma).log())
        if generator is not None:
            initialise(self, generator)

    @property
    def sigma(self) -> Tensor:
        """The learned standard deviation of the noise (Gaussian likelihood)."""
        return self.log_sigma.exp()

    def forward(
        self, x: Tensor, z: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> None:
        """Run the Pyro model.

        Args:
            x: images, ``(N,) + image_shape``.
            z: the tasks where they are known (training), one-hot or mixtures, ``(N, K)``.
            generator: for the noise of a noisy latent in training; torch's random state without.
        """
        pixels = check_images(x, self.image_shape).flatten(1)
        latent = self.encoder(x, generator) if self.encoder else None
        with pyro.plate("image", len(x), dim=-1):
            z = self.sample_task(z)
            pyro.sample("x", self._likelihood(self._decode(z, latent), pixels), obs=pixels)

    def generate(self, z: Tensor, like: Tensor | None = None) -> Tensor:
        """Return the mean image for tasks or mixtures of tasks.

        Args:
            z: ``(..., N, K)``.
            like: for an autoencoder, the images ``(N,) + image_shape`` whose latent is kept.

        Returns:
            ``(..., N) + image_shape``.
        """
        if (like is None) != (self.encoder is None):
            wants = "takes none" if self.encoder is None else "needs the images of the latent"
            raise ValueError(f"argument like: {type(self).__name__} {wants}")
        latent = self.encoder(like) if self.encoder and like is not None else None
        mean = self._decode(z, latent)
        if self.likelihood == "bernoulli":
            mean = mean.sigmoid()
        return mean.unflatten(-1, self.image_shape)

    def _decode(self, z: Tensor, latent: Tensor | None) -> Tensor:
        inputs = z if latent is None else concatenate(latent, z)
        return self.decoder(inputs.flatten(0, -2)).reshape(*inputs.shape[:-1], -1)

    def _likelihood(self, mean: Tensor, pixels: Tensor) -> TorchDistribution:
        if self.likelihood == "gaussian":
            return IsotropicNormal(mean, self.sigma)
        low, high = (bound.item() for bound in pixels.detach().aminmax())
        if low < 0 or high > 1:  # NaN is told by the score
            raise ValueError(
                f"a Bernoulli likelihood expects pixels in [0, 1], got {low:.4g} to {high:.4g}: "
                "rescale the images, or take likelihood='gaussian'"
            )
        # Pixels between 0 and 1 are scored as if they were probabilities (cross-entropy), which
        # Bernoulli's own check of its support forbids.
        return dist.Bernoulli(logits=mean, validate_args=False).to_event(1)


class ConditionedAutoencoder(ConditionedDecoder):
    """An autoencoder told the class at its bottleneck: p(x | z, h(x)), the paper's network.

    ::

        x -> Linear -> ReLU -> Linear(d) -> h --+
                                                v
                                        z --> [h, z] -> Linear -> ReLU -> Linear -> mean -> x

    The latent h sees the image, so this is no normalised density of x: it scores how well each
    task explains what the latent left out. The narrower the bottleneck the more is left to the
    task; a wide one hides it, unless ``latent="noisy"``.

    Args:
        image_shape, num_tasks, hidden_size, network, likelihood, initial_sigma, log_prior,
            generator: see ``ConditionedDecoder``.
        latent_size: d.
        latent: "plain" or "noisy", see ``ImageEncoder``.

    >>> model = ConditionedAutoencoder((4, 4), 3, latent_size=2, hidden_size=8)
    >>> model.generate(model.uniform(2), like=torch.zeros(2, 4, 4)).shape
    torch.Size([2, 4, 4])
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        num_tasks: int,
        *,
        latent_size: int = 8,
        hidden_size: int = 256,
        network: Network = "mlp",
        latent: Latent = "plain",
        likelihood: Likelihood = "gaussian",
        initial_sigma: float = 0.3,
        log_prior: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        ImageModel.__init__(self, image_shape, num_tasks, log_prior)
        with weights_from(generator):
            encoder = ImageEncoder(
                image_shape, latent_size, hidden_size=hidden_size, network=network, latent=latent
            )
        self._build(encoder, hidden_size, network, likelihood, initial_sigma, generator)


class EncoderClassifier(nn.Module):
    """A classifier with the encoder of the other models: log p(class | x); no task model.

    Args:
        image_shape: the shape of one image.
        num_tasks: K, the number of classes.
        latent_size, hidden_size, network, latent: see ``ImageEncoder``.
        generator: a seeded generator for the initial weights; torch's random state without one.

    >>> EncoderClassifier((4, 4), 3, hidden_size=8)(torch.zeros(2, 4, 4)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        num_tasks: int,
        *,
        latent_size: int = 256,
        hidden_size: int = 512,
        network: Network = "mlp",
        latent: Latent = "noisy",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if num_tasks < 2:
            raise ValueError(f"num_tasks must be at least 2, got {num_tasks}")
        with weights_from(generator):
            self.encoder = ImageEncoder(
                image_shape, latent_size, hidden_size=hidden_size, network=network, latent=latent
            )
            self.head = nn.Linear(latent_size, num_tasks)
        if generator is not None:
            initialise(self, generator)

    def logits(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the unnormalised scores, ``(N, K)``, of images ``(N,) + image_shape``."""
        return self.head(self.encoder(x, generator))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the log probabilities of the classes, ``(N, K)``."""
        return self.logits(x, generator).log_softmax(-1)


def check_images(x: Tensor, image_shape: tuple[int, ...]) -> Tensor:
    """Return ``x`` if it is a batch of images of the given shape."""
    if tuple(x.shape[1:]) != image_shape or not x.ndim:
        raise ValueError(
            f"images have shape {tuple(x.shape)}, expected (number of images, "
            f"{', '.join(map(str, image_shape))}); reshape them, or build the model for theirs"
        )
    return x


def concatenate(latent: Tensor, z: Tensor) -> Tensor:
    """Put a latent ``(N, d)`` and tasks ``(..., N, K)`` side by side: ``(..., N, d + K)``."""
    # An enumerated task comes as (K, 1, K): it spans its own dimension and no plate.
    batch = torch.broadcast_shapes(latent.shape[:-1], z.shape[:-1])
    return torch.cat([latent.expand(*batch, -1), z.expand(*batch, -1)], -1)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return one hidden layer of ReLUs."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def _decoder(
    image_shape: tuple[int, ...], inputs: int, hidden_size: int, network: Network
) -> nn.Module:
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


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {get_args(choices)}, got {value!r}")
