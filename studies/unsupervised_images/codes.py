"""Codes of images, learned without labels: an autoencoder, and a classifier of the same encoder."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gbi_pyro.data.images import ImageSets
from gbi_pyro.models.affine_head import PCABasis, pca_basis
from gbi_pyro.models.initial import initialise, weights_from
from studies.core.device import run_device
from studies.core.image_data import checksum
from studies.core.protocol import Report
from studies.core.training import descend, train_epochs
from studies.unsupervised_images.config import UnsupervisedImagesConfig, generator

CHUNK = 10_000  # images compressed at a time
LAYERS = 3  # hidden layers of an encoder, and of the decoder


class CodeEncoder(nn.Module):
    """Compress images to a few numbers, by way of their principal directions.

    ::

        x -> P' (x - mean) / s -> Linear -> ReLU -> (twice more) -> Linear -> code     (image, d)

    s is the root of the mean variance along the directions P.

    Args:
        config: the study: layers and size of the code.
        basis: of the training images; kept in buffers.
        draw: of the first weights.

    >>> x = torch.rand(20, 1, 4, 4)
    >>> config = UnsupervisedImagesConfig(pixels=5, code=3)
    >>> CodeEncoder(config, pca_basis(x, 5), torch.Generator())(x).shape
    torch.Size([20, 3])
    """

    mean: Tensor
    directions: Tensor
    scale: Tensor

    def __init__(
        self, config: UnsupervisedImagesConfig, basis: PCABasis, draw: torch.Generator
    ) -> None:
        super().__init__()
        self.register_buffer("mean", basis.mean.clone())
        self.register_buffer("directions", basis.directions.clone())
        self.register_buffer("scale", basis.variances.mean().sqrt())
        self.layers = deep(config.pixels, config.hidden, config.code, draw)

    def features(self, x: Tensor) -> Tensor:
        """Return what the layers see, ``(N, r)``, of images ``(N,) + image_shape``."""
        return (x - self.mean).flatten(1) @ self.directions / self.scale

    def forward(self, x: Tensor) -> Tensor:
        """Return the codes, ``(N, d)``, of images ``(N,) + image_shape``."""
        codes: Tensor = self.layers(self.features(x))
        return codes


class CodeAutoencoder(nn.Module):
    """The encoder with a decoder to the same principal components; no task takes part.

    Args:
        config: the study.
        basis: of the training images.
        seed: of the first weights.
    """

    def __init__(self, config: UnsupervisedImagesConfig, basis: PCABasis, seed: int) -> None:
        super().__init__()
        draw = generator(seed, "autoencoder")
        self.encoder = CodeEncoder(config, basis, draw)
        self.decoder = deep(config.code, config.hidden, config.pixels, draw)

    def loss(self, x: Tensor) -> Tensor:
        """Return the mean squared error of the principal components, summed over them."""
        features = self.encoder.features(x)
        error: Tensor = self.decoder(self.encoder.layers(features)) - features
        return error.square().sum(-1).mean()

    def image(self, codes: Tensor) -> Tensor:
        """Return the images, ``(N,) + image_shape``, that codes ``(N, d)`` stand for."""
        encoder = self.encoder
        pixels: Tensor = encoder.scale * self.decoder(codes) @ encoder.directions.mT
        return pixels.reshape(-1, *encoder.mean.shape) + encoder.mean


class CodeClassifier(nn.Module):
    """A classifier of the same encoder: log p(class | x), by a linear head on the code.

    The code is normalised, and noise is added in training: without, few labels are overfitted.

    Args:
        config: the study.
        encoder: the encoder; trained with the rest.
        num_classes: C.
        draw: of the first weights of the head.
    """

    def __init__(
        self,
        config: UnsupervisedImagesConfig,
        encoder: CodeEncoder,
        num_classes: int,
        draw: torch.Generator,
    ) -> None:
        super().__init__()
        self.encoder, self.noise = encoder, config.classifier_noise
        with weights_from(draw):
            self.head = nn.Linear(config.code, num_classes)
        initialise(self.head, draw)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return log probabilities, ``(N, C)``; the generator is for the noise in training."""
        code = self.encoder(x)
        code = nn.functional.layer_norm(code, code.shape[-1:])
        if self.training:
            code = code + self.noise * torch.randn(code.shape, generator=generator)
        logits: Tensor = self.head(code)
        return logits.log_softmax(-1)


def deep(inputs: int, hidden: int, outputs: int, draw: torch.Generator) -> nn.Sequential:
    """Return ``LAYERS`` hidden layers of ReLUs."""
    sizes = itertools.pairwise([inputs, *[hidden] * LAYERS])
    with weights_from(draw):
        layers = itertools.chain(*((nn.Linear(a, b), nn.ReLU()) for a, b in sizes))
        network = nn.Sequential(*layers, nn.Linear(hidden, outputs))
    initialise(network, draw)
    return network


def train_autoencoder(
    config: UnsupervisedImagesConfig,
    basis: PCABasis,
    x: Tensor,
    seed: int,
    checkpoint: Path | None,
    report: Report = lambda _what: None,
) -> CodeAutoencoder:
    """Train the autoencoder of one seed on images alone; an interrupted training resumes.

    It is trained on the device of the run, and comes back to the CPU.

    Args:
        config: the study.
        basis: of the training images.
        x: the training images.
        seed: of weights and order.
        checkpoint: where its state is kept; None keeps none.
        report: called before the first epoch and after each.
    """
    network = CodeAutoencoder(config, basis, seed).to(run_device())
    size = min(config.batch, len(x))
    steps = len(x) // size
    optimiser = torch.optim.Adam(network.parameters(), lr=config.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.rate, total_steps=steps * config.epochs, pct_start=0.1
    )

    def batches(order: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
        for index in torch.randperm(len(x), generator=order).split(size)[:steps]:
            yield (x[index],)

    of_any_seeds = replace(config, seeds=1, first_seed=0)
    train_epochs(
        network,
        network.loss,
        batches,
        optimiser,
        schedule,
        epochs=config.epochs,
        seed=seed,
        checkpoint=checkpoint,
        key=f"codes, seed {seed}, images {checksum(x)}, {of_any_seeds}",
        report=lambda done: report(f"autoencoder, epoch {done} of {config.epochs}"),
    )
    return network.cpu().requires_grad_(False).eval()


def train_classifier(
    config: UnsupervisedImagesConfig, network: CodeClassifier, x: Tensor, y: Tensor, seed: int
) -> CodeClassifier:
    """Train a classifier on labelled images ``(n,) + image_shape`` and their classes ``(n,)``."""
    draw = generator(seed, "classifier")
    rate, steps = config.classifier_rate, config.classifier_steps
    optimiser = torch.optim.Adam(network.requires_grad_(True).train().parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rate, total_steps=max(steps, 2), pct_start=0.2
    )

    def loss(index: Tensor) -> Tensor:
        return nn.functional.nll_loss(network(x[index], draw), y[index])

    size = (config.classifier_batch,)
    batches = ((torch.randint(len(x), size, generator=draw),) for _ in range(steps))
    descend(loss, batches, optimiser, schedule)
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
        centred: Tensor = torch.linalg.solve(self.matrix, codes, left=False)
        return centred + self.mean


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


class Coded(NamedTuple):
    """The codes of all images by the autoencoder of one seed, whitened.

    Attributes:
        basis: the principal directions of the training images.
        network: the autoencoder.
        white: what whitened them.
        train, validation, test: ``(N, d)``.
    """

    basis: PCABasis
    network: CodeAutoencoder
    white: Whitening
    train: Tensor
    validation: Tensor
    test: Tensor


def code_images(
    config: UnsupervisedImagesConfig,
    sets: ImageSets,
    seed: int,
    checkpoints: Path | None,
    report: Report = lambda _what: None,
) -> Coded:
    """Train the autoencoder of one seed and compress all images of all sets."""
    basis, x = pca_basis(sets.train.x, config.pixels), sets.train.x
    checkpoint = checkpoints / f"codes-{seed}.npz" if checkpoints else None
    network = train_autoencoder(config, basis, x, seed, checkpoint, report)
    with torch.no_grad():
        train, validation, test = (
            torch.cat([network.encoder(part) for part in images.split(CHUNK)])
            for images, _ in (sets.train, sets.validation, sets.test)
        )
    white = whitening(train)
    return Coded(basis, network, white, white(train), white(validation), white(test))
