"""Gaussians over patch features, and how far an image is from them (I4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gbi_pyro.data.images import ImageSets
from gbi_pyro.metrics import ood
from gbi_pyro.models import FeatureGaussian, PatchFeatures, feature_moments
from studies.core.device import run_device
from studies.ood.config import OODConfig

DISTANCE = "Mahalanobis distance of features"
RELATIVE = "relative Mahalanobis distance of features"


@dataclass(frozen=True)
class FeatureDetector:
    """Features without training, a Gaussian of them for each class, and one of all classes.

    Attributes:
        phi: the features.
        classes: their Gaussians, of one covariance.
        background: one Gaussian of all images.
    """

    phi: PatchFeatures
    classes: FeatureGaussian
    background: FeatureGaussian

    @torch.no_grad()
    def scores(self, x: Tensor) -> dict[str, Tensor]:
        """Return every score of images, larger for more outlying, ``(N,)`` each."""
        features = self.phi(x)
        distances = self.classes.squared_distances(features).squeeze(-1)
        background = self.background.squared_distances(features)[:, 0, 0]
        joint = self.classes.log_likelihoods(features) + self.classes.log_prior
        return {
            DISTANCE: ood.mahalanobis_score(distances),
            RELATIVE: ood.mahalanobis_score(distances, background),
            "log evidence of features": ood.log_likelihood_score(joint.logsumexp(-1)),
            "maximum of the exact posterior of features": ood.softmax_score(joint),
        }


def fit_features(config: OODConfig, sets: ImageSets, seed: int) -> FeatureDetector:
    """Fit the Gaussians to training images; the seed chooses the patches."""
    phi = PatchFeatures.fit(
        sets.train.x,
        config.filters,
        torch.Generator().manual_seed(seed),
        pool=config.pool,
        root=True,
    )
    moments = feature_moments(phi, *sets.train, sets.num_classes)
    classes, background = (
        m.gaussian(phi, config.shrinkage, tuple(sets.train.x.shape[1:]))
        .requires_grad_(False)
        .to(run_device())
        for m in (moments, moments.without_tasks())
    )
    return FeatureDetector(phi.to(run_device()), classes, background)
