"""Every inference of one pass on one trained network, scored by labels and by enumeration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gbi_pyro.data.images import ImageSets
from gbi_pyro.inference.calibration import calibrate
from gbi_pyro.inference.centroid import NearestCentroid, fit_centroids
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.inference.recogniser import Recogniser
from gbi_pyro.logjoint import Passes
from gbi_pyro.metrics.recalibration import fit_temperature
from gbi_pyro.metrics.scores import accuracy, log_score
from gbi_pyro.posterior import TaskPosterior
from studies.baselines.config import BaselinesConfig
from studies.baselines.training import ENUMERATION, train_recogniser
from studies.core.divergences import Answers, mean_kl, tempered_kl
from studies.core.image_networks import Autoencoder

Infer = Callable[..., TaskPosterior]
ONE_STEP, CALIBRATED, EXACT = "one step", "one step, calibrated", "enumeration"
CENTROID = "nearest centroid"
FORWARD, REVERSE = "recogniser, forward KL", "recogniser, reverse KL"
METHODS = (ONE_STEP, CALIBRATED, EXACT, CENTROID, FORWARD, REVERSE)


@dataclass(frozen=True)
class Scores:
    """A method on test images.

    Attributes:
        accuracy: a share.
        log_score: -log q(label), in nats.
        kl: KL(enumeration || it), in nats.
        tempered_kl: the same with one temperature each.
        passes: that a call cost.
    """

    accuracy: float
    log_score: float
    kl: float
    tempered_kl: float
    passes: Passes


@dataclass(frozen=True)
class Compared:
    """The methods on one network.

    Attributes:
        scores: by method.
        layer: of the encoder, in which the centroids are.
    """

    scores: dict[str, Scores]
    layer: str


def compare(
    config: BaselinesConfig, sets: ImageSets, model: Autoencoder, forward: Recogniser, seed: int
) -> Compared:
    """Score every method on one trained network.

    Args:
        config: the comparison.
        sets: the images; whatever is chosen or fitted is so on those of validation.
        model: the network.
        forward: the recogniser by forward KL, which is the same for every network.
        seed: of the recogniser by reverse KL.
    """
    held = sets.validation
    calibration = calibrate(OneStepGradient()(model, held.x), ENUMERATION(model, held.x))
    layer, centroids = best_centroids(model, sets)
    inferences: dict[str, Infer] = {
        ONE_STEP: OneStepGradient(),
        CALIBRATED: OneStepGradient(calibration=calibration),
        EXACT: ENUMERATION,
        CENTROID: centroids,
        FORWARD: forward,
        REVERSE: train_recogniser(config, sets, model, seed, reverse=True),
    }
    return Compared(score(inferences, model, sets), layer)


def score(inferences: dict[str, Infer], model: Autoencoder, sets: ImageSets) -> dict[str, Scores]:
    """Compare methods with labels and with enumeration, on test images.

    Likelihoods of images are overconfident: for the tempered divergence the exact posterior is
    tempered to the labels of validation images, and each method to it, by one temperature each.
    """
    answers = {}
    for name, infer in inferences.items():
        test = infer(model, sets.test.x)
        validation = infer(model, sets.validation.x).logits()
        answers[name] = Answers(validation, test.logits(), test.passes)
    exact = answers[EXACT]
    T = fit_temperature(exact.validation, sets.validation.y, default=1.0)
    return {
        name: Scores(
            accuracy=accuracy(found.test, sets.test.y),
            log_score=log_score(found.test, sets.test.y),
            kl=mean_kl(exact.test, found.test),
            tempered_kl=tempered_kl(exact, found, T),
            passes=found.passes,
        )
        for name, found in answers.items()
    }


def best_centroids(model: Autoencoder, sets: ImageSets) -> tuple[str, NearestCentroid]:
    """Fit centroids in each layer of the frozen encoder; return the most accurate ones."""
    encoder, train, held = model.encoder, sets.train, sets.validation
    assert encoder is not None
    fitted = {
        name: fit_centroids(h, train.y, sets.num_classes, train.x)
        for name, h in {"hidden": encoder.layers[:-1], "latent": encoder}.items()
    }
    right = {n: accuracy(c(model, held.x).logits(), held.y) for n, c in fitted.items()}
    best = max(right, key=right.__getitem__)
    return best, fitted[best]
