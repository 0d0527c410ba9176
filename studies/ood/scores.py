"""Is this image of a known kind at all: every score, both ways, near and far (I3, I4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.data.images import Images, ImageSets, normalise_each
from gbi_pyro.metrics import ood
from gbi_pyro.metrics.auroc import Detection, detection
from gbi_pyro.metrics.recalibration import fit_temperature, temper
from studies.images.config import ImagesConfig
from studies.images.training import (
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
TEMPERED = f"{MAXIMUM}, tempered"
COSINE = "cosine of residual and class"
LARGEST_LOGIT = "classifier, largest logit"
BASELINE = "PCA residual, no network"
Scores = dict[str, Tensor]
NO_CHOICE = (BASELINE,)  # not offered as the default: they say nothing of the network


@dataclass(frozen=True)
class Detectors:
    """What scores are made of, for one seed and one way to prepare images.

    Attributes:
        affine: the network whose task is inferred.
        classifiers: an ensemble of classifiers; the first one is also used alone.
        temperature: of the one-step posterior, fitted to the labels of validation images.
    """

    affine: AffineHeadAutoencoder
    classifiers: Sequence[EncoderClassifier]
    temperature: float


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
    affine = trained(AFFINE, seed)
    classifiers = [trained(CLASSIFIER, s) for s in members]
    one_step = OneStepGradient()(affine, sets.validation.x).logits()
    temperature = fit_temperature(one_step, sets.validation.y, default=1.0)
    return Detectors(affine, classifiers, temperature)  # type: ignore[arg-type]


@torch.no_grad()
def scores(detectors: Detectors, x: Tensor) -> Scores:
    """Return every score of images, larger for more outlying, ``(N,)`` each."""
    affine = detectors.affine
    with torch.enable_grad():
        one_step = OneStepGradient()(affine, x).logits()
    middle, directions = affine.uniform(len(x)), affine.task_directions(x)
    chosen = torch.nn.functional.one_hot(one_step.argmax(-1), affine.num_tasks).to(x.dtype)
    at_middle, at_chosen = (_log_likelihood(affine, x, z) for z in (middle, chosen))
    log_probs = torch.stack([c(x) for c in detectors.classifiers])
    logits = detectors.classifiers[0].logits(x)
    found = {
        MAXIMUM: ood.maximum_score(one_step),
        TEMPERED: ood.maximum_score(temper(one_step, detectors.temperature)),
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
    found[BASELINE] = ood.pca_residual_score(x.flatten(1), affine.mean.flatten(), affine.directions)
    return found


def _log_likelihood(affine: AffineHeadAutoencoder, x: Tensor, z: Tensor) -> Tensor:
    """Return log p(x~ | z) in code space, up to a constant that all images share."""
    return -0.5 * affine.residual(x, z).square().sum(-1) / affine.sigma.square()


def scores_in_chunks(detectors: Detectors, x: Tensor, chunk: int) -> Scores:
    """Score all images, some at a time."""
    parts = [scores(detectors, part) for part in x.split(chunk)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def pseudo_outliers(x: Tensor, seed: int) -> dict[str, Tensor]:
    """Make outliers of known images in five ways, none of which the study tests on.

    The default score is chosen on these, made of validation images; see ``default_score``. No image
    of another set is looked at for it.

    Args:
        x: square images, ``(N, C, H, H)``, two or more.
        seed: of the partners and of the order of pixels.

    Returns:
        By kind, as many images as were given.
    """
    draw = torch.Generator().manual_seed(seed)
    shift = int(torch.randint(1, len(x), (), generator=draw))
    other = x.roll(shift, 0)  # no image is its own partner
    middle = x.shape[-1] // 2
    pixels = torch.randperm(x[0].numel(), generator=draw)
    return {
        "a quarter turn": x.rot90(1, (-2, -1)),
        "average of two": (x + other) / 2,
        "halves of two": torch.cat([x[..., :middle], other[..., middle:]], -1),
        "quarters exchanged": x.roll((middle, middle), (-2, -1)),
        "pixels in another order": x.flatten(1)[:, pixels].view_as(x),
    }


def on_pseudo_outliers(
    config: ImagesConfig, detectors: Detectors, validation: Images, normalised: bool
) -> dict[str, float]:
    """Return the AUROC of each score on pseudo-outliers of validation images, mean over kinds.

    What says nothing of the network is left out.
    """
    inliers = scores_in_chunks(detectors, validation.x, config.chunk)
    found: dict[str, list[float]] = {name: [] for name in inliers if name not in NO_CHOICE}
    for made in pseudo_outliers(validation.x, 0).values():
        x = normalise_each(made) if normalised else made
        detections = detect(inliers, scores_in_chunks(detectors, x, config.chunk), bootstrap=1)
        for name, values in found.items():
            values.append(detections[name].auroc)
    return {name: float(np.mean(values)) for name, values in found.items()}


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
        validation: for each seed, by score, the AUROC on pseudo-outliers of validation images.
    """

    known: str
    unknown: str
    normalised: bool
    detections: dict[str, list[Detection]]
    validation: list[dict[str, float]]

    @property
    def title(self) -> str:
        """The case in words."""
        how = "normalised" if self.normalised else "raw"
        return f"{self.known} -> {self.unknown}, {how}"

    def best_on_validation(self, seed: int) -> str:
        """Return the score that is best on this case's own validation images, for one seed."""
        return max(self.validation[seed], key=self.validation[seed].__getitem__)

    def of_best_on_validation(self) -> list[Detection]:
        """Return the detections of the score that is best there, seed by seed."""
        seeds = range(len(self.validation))
        return [self.detections[self.best_on_validation(seed)][seed] for seed in seeds]

    def mean_auroc(self, name: str) -> float:
        """Return the AUROC of a score, averaged over seeds."""
        return float(np.mean([d.auroc for d in self.detections[name]]))


def default_score(cases: Sequence[Case]) -> str:
    """Return the one score to offer: best on validation over all that is known in the study.

    The mean of its AUROC on pseudo-outliers, over every set of known images, raw and normalised,
    and every seed. No outlier that is tested on has a say.
    """
    known = {(case.known, case.normalised): case.validation for case in cases}
    by_score = {
        name: float(np.mean([seed[name] for seeds in known.values() for seed in seeds]))
        for name in cases[0].validation[0]
    }
    return max(by_score, key=by_score.__getitem__)
