"""Is this image of a known kind at all: every score, both ways, near and far (I3, I4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.data.images import Images, ImageSets, flip_vertical, normalise_each
from gbi_pyro.diagnostics import ood
from gbi_pyro.diagnostics.detection import Detection, detection
from gbi_pyro.experiments.images.config import ImagesConfig
from gbi_pyro.experiments.images.training import (
    AFFINE,
    CLASSIFIER,
    Report,
    build,
    checkpoint_name,
    fit,
)
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.models.affine_head import AffineHeadAutoencoder
from gbi_pyro.models.image import EncoderClassifier

MAXIMUM = "maximum of one step"
LARGEST_LOGIT = "classifier, largest logit"
BASELINE = "PCA residual, no network"
Scores = dict[str, Tensor]
NO_CHOICE = (BASELINE,)  # not offered as the default: they say nothing of the network


@dataclass(frozen=True)
class Detectors:
    """The networks that scores are made of, for one seed and one way to prepare images."""

    affine: AffineHeadAutoencoder
    classifiers: Sequence[EncoderClassifier]


def prepared(sets: ImageSets, normalised: bool) -> ImageSets:
    """Return the sets as they are, or with every image normalised on its own."""
    if not normalised:
        return sets

    def one_by_one(images: Images) -> Images:
        return Images(normalise_each(images.x), images.y)

    return sets._replace(
        train=one_by_one(sets.train),
        validation=one_by_one(sets.validation),
        test=one_by_one(sets.test),
    )


def train_detectors(
    config: ImagesConfig, sets: ImageSets, seed: int, ensemble: int, folder: Path, report: Report
) -> Detectors:
    """Train the affine head and an ensemble of classifiers on prepared images."""

    def trained(kind: str, seed: int) -> torch.nn.Module:
        network = build(config, sets, kind, seed)
        checkpoint = folder / checkpoint_name(kind, seed)
        fit(config, network, sets.train, seed, checkpoint, f"{sets.name}, {kind}", report)
        return network.requires_grad_(False).eval()

    # Members of an ensemble have seeds of their own, far from those of the study.
    members = [seed, *(10_000 * (i + 1) + seed for i in range(ensemble - 1))]
    return Detectors(
        trained(AFFINE, seed),  # type: ignore[arg-type]
        [trained(CLASSIFIER, s) for s in members],  # type: ignore[misc]
    )


@torch.no_grad()
def scores(detectors: Detectors, x: Tensor) -> Scores:
    """Return every score of images, larger for more outlying, ``(N,)`` each."""
    affine = detectors.affine
    with torch.enable_grad():
        one_step = OneStepGradient()(affine, x).log_prob()
    middle, directions = affine.uniform(len(x)), affine.task_directions(x)
    chosen = torch.nn.functional.one_hot(one_step.argmax(-1), affine.num_tasks).to(x.dtype)
    at_middle, at_chosen = (_log_likelihood(affine, x, z) for z in (middle, chosen))
    log_probs = torch.stack([c(x) for c in detectors.classifiers])
    logits = detectors.classifiers[0].logits(x)
    found = {
        MAXIMUM: ood.maximum_score(one_step),
        "entropy of one step": ood.entropy_score(one_step),
        "gradient norm": ood.gradient_norm_score(one_step),
        "gradient maximum": ood.max_logit_score(one_step - one_step.mean(-1, keepdim=True)),
        "cosine of residual and class": ood.cosine_score(affine.residual(x, middle), directions),
        "log likelihood at maximum entropy": ood.log_likelihood_score(at_middle),
        "log likelihood at the chosen task": ood.log_likelihood_score(at_chosen),
        "likelihood regret": ood.likelihood_regret(at_middle, at_chosen),
        "classifier, softmax": ood.softmax_score(logits),
        LARGEST_LOGIT: ood.max_logit_score(logits),
        "classifier, energy": ood.energy_score(logits),
    }
    if len(log_probs) > 1:
        found[f"ensemble of {len(log_probs)}"] = ood.ensemble_score(log_probs)
    found[BASELINE] = ood.pca_residual_score(x.flatten(1), affine.mean.flatten(), affine.directions)
    return found


def _log_likelihood(affine: AffineHeadAutoencoder, x: Tensor, z: Tensor) -> Tensor:
    """Return log p(x~ | z) in code space, up to a constant that all images share."""
    return -0.5 * affine.residual(x, z).square().sum(-1) / affine.sigma.square()


def scores_in_chunks(detectors: Detectors, x: Tensor, chunk: int) -> Scores:
    """Score all images, some at a time."""
    parts = [scores(detectors, part) for part in x.split(chunk)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def pseudo_outliers(validation: Images, seed: int) -> Tensor:
    """Make outliers of validation images: upside down, and averages of two of them.

    The default score is chosen on these. No image of another set is looked at for it.
    """
    draw = torch.Generator().manual_seed(seed)
    other = validation.x[torch.randperm(len(validation.x), generator=draw)]
    return torch.cat([flip_vertical(validation.x), (validation.x + other) / 2])


def default_score(
    config: ImagesConfig, detectors: Detectors, validation: Images, normalised: bool
) -> str:
    """Choose the score that finds pseudo-outliers among validation images best."""
    made = pseudo_outliers(validation, 0)
    inliers = scores_in_chunks(detectors, validation.x, config.chunk)
    outliers = scores_in_chunks(
        detectors, normalise_each(made) if normalised else made, config.chunk
    )
    auroc = {
        name: detection(
            inliers[name], outliers[name], generator=torch.Generator().manual_seed(0), bootstrap=1
        ).auroc
        for name in inliers
        if name not in NO_CHOICE
    }
    return max(auroc, key=auroc.__getitem__)


def detect(inside: Scores, outside: Scores, bootstrap: int) -> dict[str, Detection]:
    """Return how well each score tells outliers from inliers."""
    return {
        name: detection(
            inside[name],
            outside[name],
            generator=torch.Generator().manual_seed(0),
            bootstrap=bootstrap,
            name=name,
        )
        for name in inside
    }


@dataclass(frozen=True)
class Case:
    """One detection problem: which images are known, which are not, and how they are prepared.

    Attributes:
        known: name of the set trained on.
        unknown: name of the outliers.
        normalised: whether images are normalised one by one.
        detections: by score, one for each seed.
        default: the score chosen on validation, for each seed.
    """

    known: str
    unknown: str
    normalised: bool
    detections: dict[str, list[Detection]]
    default: list[str]

    @property
    def title(self) -> str:
        """The case in words."""
        how = "normalised" if self.normalised else "raw"
        return f"{self.known} -> {self.unknown}, {how}"

    def of_default(self) -> list[Detection]:
        """Return the detections of the score chosen on validation, seed by seed."""
        return [self.detections[name][i] for i, name in enumerate(self.default)]

    def mean_auroc(self, name: str) -> float:
        """Return the AUROC of a score, averaged over seeds."""
        return float(np.mean([d.auroc for d in self.detections[name]]))
