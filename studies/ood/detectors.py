"""Networks whose outputs say which images are out of distribution, and every score of them (I4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gbi_pyro.data.images import ImageSets
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.metrics import ood
from gbi_pyro.metrics.recalibration import fit_temperature, temper
from gbi_pyro.models.affine_head import AffineHeadAutoencoder
from gbi_pyro.models.image import EncoderClassifier
from studies.core.device import run_device
from studies.core.image_networks import (
    AFFINE,
    CLASSIFIER,
    affine_network,
    classifier_network,
    train,
)
from studies.core.protocol import Report
from studies.ood.config import OODConfig
from studies.ood.features import RELATIVE, FeatureDetector, fit_features

MAXIMUM = "maximum of one step"
TEMPERED = f"{MAXIMUM}, tempered"
COSINE = "cosine of residual and class"
LARGEST_LOGIT = "classifier, largest logit"
COMBINED = "cosine and relative distance of features"
BASELINE = "PCA residual, no network"
Scores = dict[str, Tensor]


@dataclass(frozen=True)
class Detectors:
    """What scores are made of, for one seed and one image set.

    Attributes:
        affine: the network whose task is inferred.
        classifiers: an ensemble of classifiers; the first one is also used alone.
        features: Gaussians of features that were not trained.
        temperature: of the one-step posterior, fitted to the labels of validation images.
        chunk: images scored at a time.
        reference: scores of validation images, which the combined score compares with.
    """

    affine: AffineHeadAutoencoder
    classifiers: Sequence[EncoderClassifier]
    features: FeatureDetector
    temperature: float
    chunk: int
    reference: Scores = field(default_factory=dict)

    def scores(self, x: Tensor) -> Scores:
        """Return every score of images, larger for more outlying, ``(N,)`` each."""
        parts = [self._scores(part.to(run_device())) for part in x.split(self.chunk)]
        found = {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}
        if self.reference:
            pairs = [(found[name], known) for name, known in self.reference.items()]
            found[COMBINED] = ood.combined_score(*zip(*pairs, strict=True))
        return found

    @torch.no_grad()
    def _scores(self, x: Tensor) -> Scores:
        affine = self.affine
        with torch.enable_grad():
            one_step = OneStepGradient()(affine, x).logits()
        middle, directions = affine.uniform(len(x)), affine.task_directions(x)
        chosen = one_hot(one_step.argmax(-1), affine.num_tasks).to(x.dtype)
        at_middle, at_chosen = (_log_likelihood(affine, x, z) for z in (middle, chosen))
        log_probs = torch.stack([c(x) for c in self.classifiers])
        logits = self.classifiers[0].logits(x)
        found = {
            MAXIMUM: ood.maximum_score(one_step),
            TEMPERED: ood.maximum_score(temper(one_step, self.temperature)),
            "entropy of one step": ood.entropy_score(one_step),
            "gradient norm": ood.gradient_norm_score(one_step),
            "gradient maximum": ood.max_logit_score(one_step - one_step.mean(-1, keepdim=True)),
            COSINE: ood.cosine_score(affine.residual(x, middle), directions),
            "log likelihood at maximum entropy": ood.log_likelihood_score(at_middle),
            "log likelihood at the chosen task": ood.log_likelihood_score(at_chosen),
            "likelihood regret": ood.likelihood_regret(at_middle, at_chosen),
            "classifier, softmax": ood.softmax_score(logits),
            LARGEST_LOGIT: ood.max_logit_score(logits),
            "classifier, energy": ood.energy_score(logits),
        }
        if len(log_probs) > 1:
            found[f"ensemble of {len(log_probs)}"] = ood.ensemble_score(log_probs)
        basis = affine.mean.flatten(), affine.directions
        found |= self.features.scores(x)
        return {**found, BASELINE: ood.pca_residual_score(x.flatten(1), *basis)}


def _log_likelihood(affine: AffineHeadAutoencoder, x: Tensor, z: Tensor) -> Tensor:
    """Return log p(x~ | z) in code space, up to a constant that all images share."""
    return -0.5 * affine.residual(x, z).square().sum(-1) / affine.sigma.square()


def train_detectors(
    config: OODConfig, sets: ImageSets, seed: int, checkpoints: Path | None, report: Report
) -> Detectors:
    """Train the affine head and an ensemble of classifiers, and fit Gaussians of features.

    Args:
        config: the study.
        sets: the images, prepared as they are to be scored.
        seed: of the affine head and the first classifier.
        checkpoints: the folder of the checkpoints; None keeps none.
        report: called with what is being done, once an epoch.
    """
    wide = {"latent": config.latent, "hidden": config.affine_hidden}
    affine = affine_network(sets, seed, codes=config.codes, **wide)
    train(affine, AFFINE, seed, sets.train, config, checkpoints, report)
    classifiers = []
    for i in range(config.ensemble):
        # Members of an ensemble have seeds of their own, far from those of the study.
        member = 10_000 * i + seed
        network = classifier_network(sets, member, **wide)
        classifiers.append(
            train(network, CLASSIFIER, member, sets.train, config, checkpoints, report)
        )
    one_step = OneStepGradient()(affine, sets.validation.x.to(run_device())).logits()
    temperature = fit_temperature(one_step, sets.validation.y, default=1.0)
    report("features")
    features = fit_features(config, sets, seed)
    detectors = Detectors(affine, classifiers, features, temperature, config.chunk)
    known = detectors.scores(sets.validation.x)
    return replace(detectors, reference={name: known[name] for name in (COSINE, RELATIVE)})
