"""The networks of the image study, trained without any classification loss but the classifier."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gbi_pyro.data.images import Images, ImageSets
from studies.core.training import train_epochs
from studies.images.config import ImagesConfig
from gbi_pyro.learning.weights import clamped_loss
from gbi_pyro.models.affine_head import AffineHeadAutoencoder, pca_basis
from gbi_pyro.models.image import (
    ConditionedAutoencoder,
    ConditionedDecoder,
    EncoderClassifier,
)

PAPER, AFFINE = "paper's network", "affine head"
GENERATIVE, CLASSIFIER = "pure generative", "classifier"
KINDS = (PAPER, AFFINE, GENERATIVE, CLASSIFIER)

Report = Callable[[str], None]


@dataclass(frozen=True)
class ImageNetworks:
    """The networks of one seed, trained and frozen."""

    paper: ConditionedAutoencoder
    affine: AffineHeadAutoencoder
    generative: ConditionedDecoder
    classifier: EncoderClassifier

    def by_kind(self) -> dict[str, nn.Module]:
        """Return them by their names in the table."""
        return dict(
            zip(KINDS, (self.paper, self.affine, self.generative, self.classifier), strict=True)
        )


def build(config: ImagesConfig, sets: ImageSets, kind: str, seed: int) -> nn.Module:
    """Build one network with the weights of its seed."""
    draw = torch.Generator().manual_seed(seed)
    shape, num_tasks = tuple(sets.train.x.shape[1:]), sets.num_classes
    if kind == PAPER:
        return ConditionedAutoencoder(
            shape,
            num_tasks,
            latent_size=config.bottleneck,
            hidden_size=config.hidden,
            latent=config.bottleneck_latent,
            generator=draw,
        )
    if kind == GENERATIVE:
        return ConditionedDecoder(shape, num_tasks, hidden_size=config.hidden, generator=draw)
    wide = {"latent_size": config.latent, "hidden_size": config.affine_hidden, "generator": draw}
    if kind == CLASSIFIER:
        return EncoderClassifier(shape, num_tasks, **wide)  # type: ignore[arg-type]
    codes = min(config.codes, math.prod(shape) // 2)
    return AffineHeadAutoencoder(pca_basis(sets.train.x, codes), num_tasks, **wide)  # type: ignore[arg-type]


def train_networks(
    config: ImagesConfig, sets: ImageSets, seed: int, folder: Path, report: Report
) -> ImageNetworks:
    """Train the networks of one seed; an interrupted training is taken up where it stood.

    Args:
        config: the study.
        sets: the images.
        seed: of weights, order and noise.
        folder: where checkpoints go.
        report: called with what is being done, once an epoch.
    """
    trained = {}
    for kind in KINDS:
        network = build(config, sets, kind, seed)
        fit(config, network, sets.train, seed, folder / checkpoint_name(kind, seed), kind, report)
        trained[kind] = network.requires_grad_(False).eval()
    return ImageNetworks(*(trained[kind] for kind in KINDS))  # type: ignore[arg-type]


def checkpoint_name(kind: str, seed: int) -> str:
    """Return the file name of a training's checkpoint."""
    plain = kind.replace(" ", "-").replace("'", "")
    return f"{plain}-{seed}.safetensors"


def fit(
    config: ImagesConfig,
    network: nn.Module,
    images: Images,
    seed: int,
    checkpoint: Path,
    kind: str,
    report: Report,
) -> None:
    """Train one network: the classifier on labels, every other on the images given their class."""
    size = min(config.batch, len(images.x))
    steps = len(images.x) // size  # a last, smaller batch would weigh as much as a full one
    optimiser = torch.optim.Adam(network.parameters(), lr=config.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.rate, total_steps=steps * config.epochs, pct_start=0.2
    )
    num_tasks = int(images.y.max()) + 1

    def batches(draw: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
        for index in torch.randperm(len(images.x), generator=draw).split(size)[:steps]:
            yield images.x[index], images.y[index]

    def loss(x: Tensor, y: Tensor) -> Tensor:
        if isinstance(network, EncoderClassifier):
            return nn.functional.nll_loss(network(x), y)
        z = nn.functional.one_hot(y, num_tasks).to(x.dtype)
        return clamped_loss(network, x, z)

    train_epochs(
        network,
        loss,
        batches,
        optimiser,
        schedule,
        epochs=config.epochs,
        seed=seed,
        checkpoint=checkpoint,
        key=f"{kind}, seed {seed}, {config}",
        report=lambda done: report(f"seed {seed}: {kind}, epoch {done} of {config.epochs}"),
    )
