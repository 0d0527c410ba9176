"""The networks of one seed: built with their first weights, then trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from torch import Tensor

from gbi_pyro.data.images import ImageSets
from gbi_pyro.models.affine_head import AffineHeadAutoencoder
from gbi_pyro.models.image import (
    ConditionedAutoencoder,
    ConditionedDecoder,
    EncoderClassifier,
    ImageModel,
)
from studies.core.image_networks import (
    AFFINE,
    CLASSIFIER,
    GENERATIVE,
    PAPER,
    affine_network,
    classifier_network,
    generative_network,
    paper_network,
    train,
)
from studies.core.protocol import Report
from studies.images.config import ImagesConfig


@dataclass(frozen=True)
class ImageNetworks:
    """The networks of one seed; all but the classifier are trained without a loss of its labels.

    Attributes:
        paper: the paper's network.
        affine: the one that is affine in its task.
        generative: a decoder without an encoder.
        classifier: a classifier of the affine network's encoder.
    """

    paper: ConditionedAutoencoder
    affine: AffineHeadAutoencoder
    generative: ConditionedDecoder
    classifier: EncoderClassifier

    @classmethod
    def build(cls, config: ImagesConfig, sets: ImageSets, seed: int) -> Self:
        """Build the networks with the first weights of a seed."""
        wide = {"latent": config.latent, "hidden": config.affine_hidden}
        return cls(
            paper_network(
                sets,
                seed,
                bottleneck=config.bottleneck,
                hidden=config.hidden,
                latent=config.bottleneck_latent,
            ),
            affine_network(sets, seed, codes=config.codes, **wide),
            generative_network(sets, seed, hidden=config.hidden),
            classifier_network(sets, seed, **wide),
        )

    def by_name(self) -> dict[str, ImageModel | EncoderClassifier]:
        """Return them by their names in the table."""
        networks = self.paper, self.affine, self.generative, self.classifier
        return dict(zip((PAPER, AFFINE, GENERATIVE, CLASSIFIER), networks, strict=True))

    def train(
        self,
        config: ImagesConfig,
        sets: ImageSets,
        seed: int,
        checkpoints: Path | None,
        report: Report,
    ) -> Self:
        """Train every network; they are returned frozen, in eval mode."""
        for name, network in self.by_name().items():
            train(network, name, seed, sets.train, config, checkpoints, report)
        return self

    def load(self, weights: Mapping[str, Mapping[str, Tensor]]) -> Self:
        """Take the weights of trained networks, by name; they are returned frozen, in eval mode."""
        for name, network in self.by_name().items():
            network.load_state_dict(weights[name])
            network.requires_grad_(False).eval()
        return self
