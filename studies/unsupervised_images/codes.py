"""Codes of images, learned without labels: an autoencoder, and a classifier of the same encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from studies.core.training import train_epochs
from studies.unsupervised_images.config import DiscoverImagesConfig, image_generator
from gbi_pyro.models.affine_head import PCABasis
from gbi_pyro.models.initial import initialise, weights_from

LAYERS = 3  # hidden layers of an encoder, and of the decoder


class CodeEncoder(nn.Module):
    """Compress images to a few numbers, by way of their principal directions.

    ::

        x -> P' (x - mean) / s -> Linear -> ReLU -> (twice more) -> Linear -> code     (image, d)

    s is the root of the mean variance along the directions P.

    Args:
        basis: of the training images, see ``pca_basis``; kept in buffers.
        hidden_size: units of each hidden layer.
        code_size: d.

    >>> from gbi_pyro.models.affine_head import pca_basis
    >>> x = torch.rand(20, 1, 4, 4)
    >>> CodeEncoder(pca_basis(x, 5), hidden_size=8, code_size=3)(x).shape
    torch.Size([20, 3])
    """

    mean: Tensor
    directions: Tensor
    scale: Tensor

    def __init__(self, basis: PCABasis, *, hidden_size: int, code_size: int) -> None:
        super().__init__()
        self.register_buffer("mean", basis.mean.clone())
        self.register_buffer("directions", basis.directions.clone())
        self.register_buffer("scale", basis.variances.mean().sqrt())
        self.layers = deep(basis.directions.shape[1], hidden_size, code_size)

    def features(self, x: Tensor) -> Tensor:
        """Return what the layers see, ``(N, r)``, of images ``(N,) + image_shape``."""
        return (x - self.mean).flatten(1) @ self.directions / self.scale

    def forward(self, x: Tensor) -> Tensor:
        """Return the codes, ``(N, d)``, of images ``(N,) + image_shape``."""
        return self.layers(self.features(x))


class CodeAutoencoder(nn.Module):
    """The encoder with a decoder to the same principal components; no task takes part.

    Args:
        encoder: the encoder.
        hidden_size: units of each hidden layer of the decoder.
    """

    def __init__(self, encoder: CodeEncoder, *, hidden_size: int) -> None:
        super().__init__()
        last, first = encoder.layers[-1], encoder.layers[0]
        assert isinstance(last, nn.Linear)
        assert isinstance(first, nn.Linear)
        self.encoder = encoder
        self.decoder = deep(last.out_features, hidden_size, first.in_features)

    def loss(self, x: Tensor) -> Tensor:
        """Return the mean squared error of the principal components, summed over them."""
        features = self.encoder.features(x)
        error = self.decoder(self.encoder.layers(features)) - features
        return error.square().sum(-1).mean()

    def image(self, codes: Tensor) -> Tensor:
        """Return the images, ``(N,) + image_shape``, that codes ``(N, d)`` stand for."""
        encoder = self.encoder
        pixels = encoder.scale * self.decoder(codes) @ encoder.directions.mT
        return pixels.unflatten(-1, encoder.mean.shape) + encoder.mean


class CodeClassifier(nn.Module):
    """A classifier of the same encoder: log p(class | x), by a linear head on the code.

    The code is normalised, and noise is added in training: without, few labels are overfitted.

    Args:
        encoder: the encoder; trained with the rest.
        num_classes: C.
        noise: standard deviation of the noise in training.
        generator: for the first weights of the head.
    """

    def __init__(
        self,
        encoder: CodeEncoder,
        num_classes: int,
        *,
        noise: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        last = encoder.layers[-1]
        assert isinstance(last, nn.Linear)
        self.encoder, self.noise = encoder, noise
        with weights_from(generator):
            self.head = nn.Linear(last.out_features, num_classes)
        initialise(self.head, generator)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return log probabilities, ``(N, C)``; the generator is for the noise in training."""
        code = self.encoder(x)
        code = nn.functional.layer_norm(code, code.shape[-1:])
        if self.training:
            code = code + self.noise * torch.randn(code.shape, generator=generator)
        return self.head(code).log_softmax(-1)


def deep(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return ``LAYERS`` hidden layers of ReLUs."""
    sizes = [inputs, *[hidden] * LAYERS]
    hidden_layers: list[nn.Module] = []
    for i in range(LAYERS):
        hidden_layers += [nn.Linear(sizes[i], sizes[i + 1]), nn.ReLU()]
    return nn.Sequential(*hidden_layers, nn.Linear(hidden, outputs))


def make_encoder(
    config: DiscoverImagesConfig, basis: PCABasis, draw: torch.Generator
) -> CodeEncoder:
    """Return the encoder that all networks of the comparison have, its weights drawn."""
    encoder = CodeEncoder(basis, hidden_size=config.hidden, code_size=config.code)
    initialise(encoder, draw)
    return encoder


def train_autoencoder(
    config: DiscoverImagesConfig,
    basis: PCABasis,
    x: Tensor,
    seed: int,
    checkpoint: Path,
    report: Callable[[int], None] = lambda _epoch: None,
) -> CodeAutoencoder:
    """Train the autoencoder of one seed on images alone; taken up where it was interrupted.

    Args:
        config: the study.
        basis: of the training images.
        x: the training images.
        seed: of weights and order.
        checkpoint: where its state is kept.
        report: called with the number of epochs done, before the first and after each.
    """
    draw = image_generator(seed, "autoencoder")
    network = CodeAutoencoder(make_encoder(config, basis, draw), hidden_size=config.hidden)
    initialise(network.decoder, draw)
    size = min(config.batch, len(x))
    steps = len(x) // size
    optimiser = torch.optim.Adam(network.parameters(), lr=config.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.rate, total_steps=steps * config.epochs, pct_start=0.1
    )

    def batches(order: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
        for index in torch.randperm(len(x), generator=order).split(size)[:steps]:
            yield (x[index],)

    train_epochs(
        network,
        network.loss,
        batches,
        optimiser,
        schedule,
        epochs=config.epochs,
        seed=seed,
        checkpoint=checkpoint,
        key=f"codes, seed {seed}, {config}",
        report=report,
    )
    return network.requires_grad_(False).eval()


def train_classifier(
    config: DiscoverImagesConfig, network: CodeClassifier, x: Tensor, y: Tensor, seed: int
) -> CodeClassifier:
    """Train a classifier on labelled images ``(n,) + image_shape`` and their classes ``(n,)``."""
    draw = image_generator(seed, "classifier")
    rate, steps = config.classifier_rate, config.classifier_steps
    optimiser = torch.optim.Adam(network.requires_grad_(True).train().parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rate, total_steps=max(steps, 2), pct_start=0.2
    )
    for _ in range(steps):
        index = torch.randint(len(x), (config.classifier_batch,), generator=draw)
        loss = nn.functional.nll_loss(network(x[index], draw), y[index])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.requires_grad_(False).eval()


class Whitening(NamedTuple):
    """A linear map under which some codes have mean zero and unit covariance.

    Attributes:
        mean: ``(d,)``.
        matrix: codes are ``(c - mean) @ matrix``, ``(d, d)``.
    """

    mean: Tensor
    matrix: Tensor

    def __call__(self, codes: Tensor) -> Tensor:
        """Return whitened codes, ``(N, d)``."""
        return (codes - self.mean) @ self.matrix

    def inverse(self, codes: Tensor) -> Tensor:
        """Return the codes that these were before, ``(N, d)``."""
        return torch.linalg.solve(self.matrix, codes, left=False) + self.mean


def whitening(codes: Tensor) -> Whitening:
    """Return the map that whitens codes ``(N, d)``, so that one rate and one ridge fit all.

    >>> codes = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0], [2.0, 4.0]])
    >>> white = whitening(codes)
    >>> white(codes).T.cov(correction=0).round(decimals=5).abs()
    tensor([[1., 0.],
            [0., 1.]])
    """
    covariance = codes.mT.cov(correction=0)
    return Whitening(codes.mean(0), torch.linalg.cholesky(torch.linalg.inv(covariance)))
