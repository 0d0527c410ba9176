"""The image networks of studies: their names, how they are built, and training with checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import nll_loss, one_hot

from gbi_pyro.data.images import Images, ImageSets
from gbi_pyro.learning.weights import clamped_loss
from gbi_pyro.models.affine_head import AffineHeadAutoencoder, pca_basis
from gbi_pyro.models.image import ConditionedAutoencoder, EncoderClassifier, ImageModel
from gbi_pyro.models.layers import Latent
from studies.core.device import run_device
from studies.core.image_data import Dataset, checksum
from studies.core.protocol import Report, Seeds
from studies.core.training import train_epochs

PAPER, AFFINE = "paper's network", "affine head"
GENERATIVE, CLASSIFIER = "pure generative", "classifier"
Autoencoder = ConditionedAutoencoder | AffineHeadAutoencoder
Network = TypeVar("Network", bound=ImageModel | EncoderClassifier)


@dataclass(frozen=True)
class ImageConfig(Seeds):
    """An image set, the networks trained on it, and how they are trained.

    Attributes:
        dataset: ``digits``, ``mnist``, ``fashion``, ``cifar10`` or ``cifar100``.
        seeds: how many networks of each kind are trained.
        first_seed: their seeds are ``first_seed``, ``first_seed + 1``, ...
        epochs: passes over the training images.
        batch: images per weight update.
        rate: the largest rate of Adam's one-cycle schedule, reached after a fifth of it.
        latent: size of the latent of the affine-head network and of the classifier. On validation
            images of MNIST 64 costs half a point of accuracy; 256 moves one step away from exact.
        affine_hidden: hidden units of the affine-head network and of the classifier.
        codes: principal directions of the affine head's code space.
        chunk: images inferred at a time.
    """

    dataset: Dataset = "digits"
    epochs: int = 10
    batch: int = 128
    rate: float = 0.002
    latent: int = 128
    affine_hidden: int = 512
    codes: int = 64
    chunk: int = 1000
    method_fields = frozenset(
        {"epochs", "batch", "rate", "latent", "affine_hidden", "codes", "chunk"}
    )

    def __post_init__(self) -> None:
        self.check_at_least_one("seeds", "epochs", "batch", "codes", "chunk")

    def fast(self) -> Self:
        """Return a smoke test: everything runs in seconds, and the numbers are meaningless."""
        few = replace(self, seeds=min(self.seeds, 2), epochs=min(self.epochs, 2))
        return replace(few, latent=16, affine_hidden=32, codes=16)


def paper_network(
    sets: ImageSets, seed: int, *, bottleneck: int, hidden: int, latent: Latent = "plain"
) -> ConditionedAutoencoder:
    """Build the paper's network: the task enters by concatenation."""
    return ConditionedAutoencoder(
        tuple(sets.train.x.shape[1:]),
        sets.num_classes,
        latent_size=bottleneck,
        hidden_size=hidden,
        latent=latent,
        generator=torch.Generator().manual_seed(seed),
    )


def affine_network(
    sets: ImageSets, seed: int, *, codes: int, latent: int, hidden: int
) -> AffineHeadAutoencoder:
    """Build a network that is affine in the task; of few pixels at most half become codes."""
    codes = min(codes, math.prod(sets.train.x.shape[1:]) // 2)
    return AffineHeadAutoencoder(
        pca_basis(sets.train.x, codes),
        sets.num_classes,
        latent_size=latent,
        hidden_size=hidden,
        generator=torch.Generator().manual_seed(seed),
    )


def classifier_network(
    sets: ImageSets, seed: int, *, latent: int, hidden: int
) -> EncoderClassifier:
    """Build a classifier with the affine network's encoder."""
    return EncoderClassifier(
        tuple(sets.train.x.shape[1:]),
        sets.num_classes,
        latent_size=latent,
        hidden_size=hidden,
        generator=torch.Generator().manual_seed(seed),
    )


def train(
    network: Network,
    name: str,
    seed: int,
    images: Images,
    config: ImageConfig,
    checkpoints: Path | None,
    report: Report,
) -> Network:
    """Train a network; an interrupted training goes on after its last finished epoch.

    A classifier is trained on the labels, every other network on the images given their class.

    Args:
        network: as it was built.
        name: of the network, unique with its seed among the checkpoints of a folder.
        seed: of the order of the images and of noise.
        images: to train on.
        config: epochs, batch and rate.
        checkpoints: the folder of the checkpoints; None keeps none.
        report: called with what is being done, once an epoch.

    Returns:
        The same network, frozen, in eval mode, on the device of the run.
    """
    network.to(run_device())
    size = min(config.batch, len(images.x))
    steps = len(images.x) // size  # a last, smaller batch would weigh as much as a full one
    optimiser = torch.optim.Adam(network.parameters(), lr=config.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.rate, total_steps=steps * config.epochs, pct_start=0.2
    )

    def batches(draw: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
        for index in torch.randperm(len(images.x), generator=draw).split(size)[:steps]:
            yield images.x[index], images.y[index]

    def loss(x: Tensor, y: Tensor) -> Tensor:
        if isinstance(network, EncoderClassifier):
            return nll_loss(network(x), y)
        return clamped_loss(network, x, one_hot(y, network.num_tasks).to(x.dtype))

    of_any_seeds = replace(config, seeds=1, first_seed=0)
    file = f"{name.replace(' ', '-').replace(chr(39), '')}-{seed}.npz"
    train_epochs(
        network,
        loss,
        batches,
        optimiser,
        schedule,
        epochs=config.epochs,
        seed=seed,
        checkpoint=checkpoints / file if checkpoints else None,
        key=f"{name}, seed {seed}, images {checksum(*images)}, {of_any_seeds}",
        report=lambda done: report(f"{name}, epoch {done} of {config.epochs}"),
    )
    network.requires_grad_(False).eval()
    return network
