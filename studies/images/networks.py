"""The networks of one seed."""

from __future__ import annotations

from typing import NamedTuple

import torch

from gbi_pyro.data.images import ImageSets
from gbi_pyro.models.affine_head import AffineHeadAutoencoder
from gbi_pyro.models.image import ConditionedAutoencoder, ConditionedDecoder, EncoderClassifier
from studies.core.image_networks import (
    AFFINE,
    CLASSIFIER,
    GENERATIVE,
    PAPER,
    affine_network,
    classifier_network,
    paper_network,
)
from studies.images.config import ImagesConfig


class ImageNetworks(NamedTuple):
    """The networks of one seed; only the classifier is trained to infer the labels."""

    paper: ConditionedAutoencoder
    affine: AffineHeadAutoencoder
    generative: ConditionedDecoder
    classifier: EncoderClassifier

    def by_name(self) -> dict[str, ConditionedDecoder | AffineHeadAutoencoder | EncoderClassifier]:
        """Return them by their names in the table."""
        return dict(zip((PAPER, AFFINE, GENERATIVE, CLASSIFIER), self, strict=True))


def build_networks(config: ImagesConfig, sets: ImageSets, seed: int) -> ImageNetworks:
    """Build the networks with the first weights of a seed."""
    shape, draw = tuple(sets.train.x.shape[1:]), torch.Generator().manual_seed(seed)
    hidden, wide = config.hidden, {"latent": config.latent, "hidden": config.affine_hidden}
    narrow, kind = config.bottleneck, config.bottleneck_latent
    return ImageNetworks(
        paper_network(sets, seed, bottleneck=narrow, hidden=hidden, latent=kind),
        affine_network(sets, seed, codes=config.codes, **wide),
        ConditionedDecoder(shape, sets.num_classes, hidden_size=hidden, generator=draw),
        classifier_network(sets, seed, **wide),
    )
