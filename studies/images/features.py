"""Gaussians over unsupervised features of images, and a classifier of the same features."""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gbi_pyro.data.images import Images, ImageSets
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.logjoint import Passes
from gbi_pyro.metrics.scores import accuracy
from gbi_pyro.models import (
    FeatureGaussian,
    FeatureMoments,
    PatchFeatures,
    feature_moments,
    split_prototypes,
)
from studies.core.device import run_device
from studies.core.logistic import fit_logistic
from studies.core.protocol import Report
from studies.images.config import ImagesConfig
from studies.images.measure import answer, score
from studies.images.methods import Answer, Method, posterior_of
from studies.images.record import MethodScores

ONE_STEP = "one step, feature Gaussian"
EXACT = "exact, feature Gaussian"
LOGISTIC = "logistic regression of the same features"
SHRINKAGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4)
TIMED, REPEATS = 1000, 3  # images, and how often


@dataclass(frozen=True)
class FeaturesSeed:
    """What is measured of the features of one seed.

    Attributes:
        methods: by name, in the order of the table.
        prototypes: of a class, chosen on validation images.
        shrinkage: of the covariance, chosen on validation images.
        penalty: of the classifier, chosen on validation images.
        num_features: D.
        milliseconds: processor time of the features of an image.
        overhead: processor time of one pass, features included, over that of the features alone.
    """

    methods: dict[str, MethodScores]
    prototypes: int
    shrinkage: float
    penalty: float
    num_features: int
    milliseconds: float
    overhead: float


def measure_features(
    config: ImagesConfig, sets: ImageSets, seed: int, report: Report
) -> FeaturesSeed:
    """Fit the Gaussians and the classifier of one seed; its random numbers choose the patches.

    Args:
        config: the study.
        sets: the images.
        seed: of the patches.
        report: called with what is being done.
    """
    report("features of all images")
    phi = patch_features(config, sets, seed)
    features = sets._replace(
        train=Images(phi(sets.train.x), sets.train.y),
        validation=Images(phi(sets.validation.x), sets.validation.y),
        test=Images(phi(sets.test.x), sets.test.y),
    )
    report("Gaussians of the features")
    model, shrinkage = choose_model(config, features, seed)
    report(LOGISTIC)
    classifier, penalty = fit_logistic(features.train, features.validation, sets.num_classes)
    report("inferring the class from features")
    seconds, overhead = time_one_pass(phi, model, sets.test.x[:TIMED])
    todo = feature_methods(model.to(run_device()), classifier.to(run_device()))
    return FeaturesSeed(
        score(sets, todo, answer(config, features, todo)),
        model.means.shape[1],
        shrinkage,
        penalty,
        phi.num_features,
        1000 * seconds / len(sets.test.x[:TIMED]),
        overhead,
    )


def patch_features(config: ImagesConfig, sets: ImageSets, seed: int) -> PatchFeatures:
    """Return the features of one seed."""
    return PatchFeatures.fit(
        sets.train.x,
        config.filters,
        torch.Generator().manual_seed(seed),
        pool=config.pool,
        mirror=config.mirror,
        root=True,
    )


def choose_model(
    config: ImagesConfig, features: ImageSets, seed: int
) -> tuple[FeatureGaussian, float]:
    """Return the most accurate model on validation features, and its shrinkage.

    Prototypes are clusters of a class in the discriminant coordinates of one prototype a class.
    """
    (x, y), K = features.train, features.num_classes
    moments = feature_moments(nn.Identity(), x, y, K)
    one = choose_shrinkage(moments, features.validation)
    found, coordinates = [one], one[1].features(x)
    for prototypes in config.prototypes:
        draw = torch.Generator().manual_seed(seed)
        moments = FeatureMoments.of(x, split_prototypes(coordinates, y, K, prototypes, draw))
        found.append(choose_shrinkage(moments, features.validation))
    _, model, shrinkage = max(found, key=lambda each: each[0])
    return model.requires_grad_(False), shrinkage


def choose_shrinkage(
    moments: FeatureMoments, validation: Images
) -> tuple[float, FeatureGaussian, float]:
    """Return the best accuracy on validation features, and the model and shrinkage that have it."""
    found = []
    for shrinkage in SHRINKAGES:
        model = moments.gaussian(nn.Identity(), shrinkage).discriminant()
        with torch.no_grad():
            table = model.log_likelihoods(model.features(validation.x)) + model.log_prior
        found.append((accuracy(table.log_softmax(-1), validation.y), model, shrinkage))
    return max(found, key=lambda each: each[0])


def feature_methods(model: FeatureGaussian, classifier: nn.Module) -> dict[str, Method]:
    """Return every method on features, in the order of the table."""

    def classify(features: Tensor) -> Answer:
        return classifier(features).log_softmax(-1), Passes(forward=1)

    return {
        ONE_STEP: Method(posterior_of(OneStepGradient(), model), EXACT),
        EXACT: Method(posterior_of(OneStepGradient(), model.exact), EXACT),
        "exhaustive likelihood, feature Gaussian": Method(
            posterior_of(Enumeration(check=False), model), EXACT
        ),
        LOGISTIC: Method(classify),
    }


def time_one_pass(phi: nn.Module, head: FeatureGaussian, x: Tensor) -> tuple[float, float]:
    """Return seconds of the features, and the time of one pass over theirs, medians of runs.

    Args:
        phi: from images to features.
        head: the model of the features.
        x: images.
    """
    model = copy.deepcopy(head)
    model.phi = nn.Sequential(phi, model.phi)
    alone, ratios = [], []
    for _ in range(REPEATS):
        start = time.process_time()
        phi(x)
        middle = time.process_time()
        OneStepGradient()(model.exact, x)
        alone.append(middle - start)
        ratios.append((time.process_time() - middle) / alone[-1])
    return statistics.median(alone), statistics.median(ratios)
