"""An autoencoder whose mean is affine in its task: the exact posterior in one pass."""

from __future__ import annotations

from typing import NamedTuple

import pyro
import torch
from torch import Tensor, nn

from gbi_pyro.models._validate import check_images
from gbi_pyro.models.image import ImageModel
from gbi_pyro.models.initial import initialise, weights_from
from gbi_pyro.models.layers import ImageEncoder, IsotropicNormal, Latent, Network, mlp


class PCABasis(NamedTuple):
    """The leading principal directions of a set of images.

    Attributes:
        mean: the mean image, ``image_shape``.
        directions: orthonormal columns, ``(pixels, r)``, the largest variance first.
        variances: the variance of the images along each direction, ``(r,)``.
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor


def pca_basis(x: Tensor, r: int) -> PCABasis:
    """Find the r directions in which images vary most.

    The mean squared distance of the images to their projections is the sum of the variances along
    the directions left out.

    Args:
        x: images, ``(N,) + image_shape``.
        r: how many directions, at most the pixels, and fewer than the images.

    Raises:
        ValueError: for another r.

    >>> basis = pca_basis(torch.tensor([[0.0, 1.0], [4.0, 1.0]]), 1)
    >>> basis.mean, basis.directions.T, basis.variances
    (tensor([2., 1.]), tensor([[1., 0.]]), tensor([4.]))
    """
    pixels = x.flatten(1)
    most = min(pixels.shape[1], len(pixels) - 1)
    if not 1 <= r <= most:
        raise ValueError(
            f"r must be between 1 and {most} for {len(pixels)} images of {pixels.shape[1]} "
            f"pixels, got {r}"
        )
    mean = pixels.mean(0)
    centred = pixels - mean
    values, vectors = torch.linalg.eigh((centred.T @ centred).double() / len(pixels))
    directions = vectors.flip(-1)[:, :r]
    # An eigenvector's sign is free; let its largest entry be positive on every machine.
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    return PCABasis(
        mean.reshape(x.shape[1:]),
        (directions * largest.sign()).to(x.dtype),
        values.flip(-1)[:r].clamp(min=0.0).to(x.dtype),
    )


class AffineHeadAutoencoder(ImageModel):
    r"""An autoencoder in a code space whose mean is affine in the task after all else.

    ::

        x -> encoder -> h -> Linear -> ReLU -> Linear -> m_1 .. m_K     m_k: (image, K, r)
                                                            |
                                        z ---> m(z) = sum_k z_k m_k -> x~ = P' (x - mean)

    p(x~ | z, h) = Normal(m(z), sigma^2 I), where P are the leading principal directions of the
    training images. One-hot training defines the network at the maximum-entropy point too, the
    second-order step is exact, and so is the first-order step of ``exact``.

    Args:
        basis: of the training images, see ``pca_basis``; kept in buffers.
        num_tasks: K.
        latent_size: size of h.
        hidden_size: units of the hidden layers of encoder and head.
        network, latent: see ``ImageEncoder``; a plain latent hides the task.
        log_prior: log probabilities of the tasks, ``(K,)``; uniform without.
        generator: a seeded generator for the initial weights; torch's random state without one.

    >>> model = AffineHeadAutoencoder(pca_basis(torch.rand(20, 4, 4), 3), 2, hidden_size=8)
    >>> x = torch.rand(5, 4, 4)
    >>> model.codes(x).shape, model.task_means(x).shape, model.generate(model.uniform(5), x).shape
    (torch.Size([5, 3]), torch.Size([5, 2, 3]), torch.Size([5, 4, 4]))
    """

    mean: Tensor
    directions: Tensor

    def __init__(
        self,
        basis: PCABasis,
        num_tasks: int,
        *,
        latent_size: int = 128,
        hidden_size: int = 512,
        network: Network = "mlp",
        latent: Latent = "noisy",
        log_prior: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(tuple(basis.mean.shape), num_tasks, log_prior)
        pixels, self.code_size = basis.directions.shape
        if pixels != basis.mean.numel():
            raise ValueError(
                f"the basis has directions of {pixels} pixels and a mean image of "
                f"{basis.mean.numel()}; expected them equal: take both from pca_basis"
            )
        with weights_from(generator):
            self.encoder = ImageEncoder(
                self.image_shape,
                latent_size,
                hidden_size=hidden_size,
                network=network,
                latent=latent,
            )
            self.head = mlp(latent_size, hidden_size, num_tasks * self.code_size)
        self.register_buffer("mean", basis.mean.clone())
        self.register_buffer("directions", basis.directions.clone())
        self.log_sigma = nn.Parameter(0.5 * basis.variances.mean().log())
        if generator is not None:
            initialise(self, generator)

    @property
    def sigma(self) -> Tensor:
        """The learned standard deviation of the noise in code space."""
        return self.log_sigma.exp()

    def forward(
        self, x: Tensor, z: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> None:
        """Run the Pyro model.

        Args:
            x: images, ``(N,) + image_shape``.
            z: the tasks where they are known (training), one-hot or mixtures, ``(N, K)``.
            generator: for the noise of the latent in training; torch's random state without one.
        """
        self._run(x, z, generator, within=False)

    def exact(
        self, x: Tensor, z: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> None:
        """Run the same Pyro model, written so that its relaxed log joint is linear in the task.

        E_{k ~ q} log p(x | k) = log Normal(x~; m(q), s^2) - (sum_k q_k |m_k|^2 - |m(q)|^2) / 2 s^2;
        the last term, the spread within the mixture, is added as the factor "within". It is zero at
        every corner, so nothing changes for tasks proper, and one gradient step is the exact
        posterior: ``OneStepGradient()(model.exact, x)``. Arguments as for ``forward``.
        """
        self._run(x, z, generator, within=True)

    def _run(
        self, x: Tensor, z: Tensor | None, generator: torch.Generator | None, *, within: bool
    ) -> None:
        codes, means = self.codes(x), self.task_means(x, generator)
        with pyro.plate("image", len(x), dim=-1):
            z = self.sample_task(z)
            mean = mix(z, means)
            if within:
                spread = (z * means.square().sum(-1)).sum(-1) - mean.square().sum(-1)
                pyro.factor("within", -0.5 * spread / self.sigma.square())
            pyro.sample("x", IsotropicNormal(mean, self.sigma), obs=codes)

    def codes(self, x: Tensor) -> Tensor:
        """Return x~ = P' (x - mean), ``(N, r)``, of images ``(N,) + image_shape``."""
        return (check_images(x, self.image_shape) - self.mean).flatten(1) @ self.directions

    def task_means(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return m_k, the code expected under each task, ``(N, K, r)``."""
        means: Tensor = self.head(self.encoder(x, generator))
        return means.reshape(*means.shape[:-1], self.num_tasks, self.code_size)

    def task_directions(self, x: Tensor) -> Tensor:
        """Return m_k - m(u), where each task points from maximum entropy, ``(N, K, r)``."""
        means = self.task_means(x)
        return means - means.mean(-2, keepdim=True)

    def residual(self, x: Tensor, z: Tensor) -> Tensor:
        """Return x~ - m(z), what tasks or mixtures ``(..., N, K)`` leave over: ``(..., N, r)``."""
        return self.codes(x) - mix(z, self.task_means(x))

    def generate(self, z: Tensor, like: Tensor) -> Tensor:
        """Return the mean image for tasks or mixtures of tasks.

        Args:
            z: ``(..., N, K)``.
            like: the images ``(N,) + image_shape`` whose latent is kept.

        Returns:
            ``(..., N) + image_shape``.
        """
        pixels = mix(z, self.task_means(like)) @ self.directions.mT
        return pixels.reshape(*pixels.shape[:-1], *self.image_shape) + self.mean


def mix(z: Tensor, means: Tensor) -> Tensor:
    """Return sum_k z_k m_k, ``(..., N, r)``, of tasks ``(..., N, K)`` and means ``(N, K, r)``."""
    return torch.einsum("...nk,nkr->...nr", z, means)
