"""Images given their class: the paper's networks, with the class as the task.

All encoders are one class, so that every network of a comparison, the classifier among them, sees
the image in the same way.
"""

from __future__ import annotations

from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from gbi_pyro.models._validate import check_choice, check_images
from gbi_pyro.models.conditioning import Conditioning, make_conditioner
from gbi_pyro.models.initial import initialise, weights_from
from gbi_pyro.models.layers import (
    ImageEncoder,
    IsotropicNormal,
    Latent,
    Network,
    concatenate,
    make_decoder,
)
from gbi_pyro.models.saved import Rebuildable

Likelihood = Literal["gaussian", "bernoulli"]


class ImageModel(Rebuildable):
    """Base of the image models: one task for each image, in the plate "image".

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
        sampled: Tensor = pyro.sample("z", prior, obs=z, infer={"task": True})
        return sampled

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
        self._build(None, hidden_size, network, "concat", likelihood, initial_sigma, generator)

    def _build(
        self,
        encoder: ImageEncoder | None,
        hidden_size: int,
        network: Network,
        conditioning: Conditioning,
        likelihood: Likelihood,
        initial_sigma: float,
        generator: torch.Generator | None,
    ) -> None:
        check_choice("network", network, Network)
        check_choice("likelihood", likelihood, Likelihood)
        if not initial_sigma > 0:
            raise ValueError(f"initial_sigma must be positive, got {initial_sigma}")
        check_choice("conditioning", conditioning, Conditioning)
        self.encoder, self.likelihood, self.conditioning = encoder, likelihood, conditioning
        latent_size = encoder.latent_size if encoder else 0
        inputs = latent_size + (self.num_tasks if conditioning == "concat" else 0)
        with weights_from(generator):
            self.decoder = make_decoder(self.image_shape, inputs, hidden_size, network)
            if conditioning != "concat":
                at = -1 if conditioning == "affine" else 0
                layers = list(self.decoder.children())
                replaced = layers.pop(at)
                if not isinstance(replaced, nn.Linear):
                    raise ValueError(
                        "conditioning is 'affine', whose last layer is a linear one, but network "
                        f"is {network!r}: take network='mlp', or AffineHeadAutoencoder"
                    )
                self.conditioner = make_conditioner(
                    conditioning, replaced.in_features, self.num_tasks, replaced.out_features
                )
                self.decoder = nn.Sequential(*layers)
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
        return mean.reshape(*mean.shape[:-1], *self.image_shape)

    def _decode(self, z: Tensor, latent: Tensor | None) -> Tensor:
        if self.conditioning == "affine":
            mean: Tensor = self.conditioner(self.decoder(latent), z)
            return mean
        if self.conditioning != "concat":
            inputs: Tensor = self.conditioner(latent, z)
        else:
            inputs = z if latent is None else concatenate(latent, z)
        decoded: Tensor = self.decoder(inputs.flatten(0, -2))
        return decoded.reshape(*inputs.shape[:-1], -1)

    def _likelihood(self, mean: Tensor, pixels: Tensor) -> TorchDistribution:
        if self.likelihood == "gaussian":
            return IsotropicNormal(mean, self.sigma)
        low, high = (bound.item() for bound in pixels.detach().aminmax())
        if low < 0 or high > 1:  # the score reports NaN
            raise ValueError(
                f"a Bernoulli likelihood expects pixels in [0, 1], got {low:.4g} to {high:.4g}: "
                "rescale the images, or take likelihood='gaussian'"
            )
        # Pixels between 0 and 1 are scored as if they were probabilities (cross-entropy), which
        # Bernoulli's own check of its support forbids.
        return dist.Bernoulli(logits=mean, validate_args=False).to_event(1)


class ConditionedAutoencoder(ConditionedDecoder):
    """An autoencoder conditioned on the class: p(x | z, h(x)), the paper's network.

    ::

        x -> Linear -> ReLU -> Linear(d) -> h --+
                                                v
                                        z --> [h, z] -> Linear -> ReLU -> Linear -> mean -> x

    The latent h sees the image, so this is no normalised density of x: it scores how well each
    task explains what the latent left out. The narrower the bottleneck the more is left to the
    task; a wide one hides it, unless ``latent="noisy"``.

    Args:
        image_shape, num_tasks, hidden_size, network: see ``ConditionedDecoder``.
        likelihood, initial_sigma, log_prior, generator: see there too.
        latent_size: d.
        latent: "plain" or "noisy", see ``ImageEncoder``.
        conditioning: how the task enters, see ``models.conditioning``: "affine" in the last layer
            of an "mlp", after all else; every other way in the first layer of the decoder.

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
        conditioning: Conditioning = "concat",
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
        self._build(
            encoder, hidden_size, network, conditioning, likelihood, initial_sigma, generator
        )


class EncoderClassifier(Rebuildable):
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
        latent_size: int = 128,
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
        logits: Tensor = self.head(self.encoder(x, generator))
        return logits

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the log probabilities of the classes, ``(N, K)``."""
        return self.logits(x, generator).log_softmax(-1)
