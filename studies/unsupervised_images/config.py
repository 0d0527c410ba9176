"""The configuration of learning images without class labels, or with few."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from studies.core.protocol import Seeds

IMAGE_FRACTIONS = (0.0, 0.01, 0.1)  # of the labels that are known
FEW_IMAGES = 0.01  # the one that the bar is stated for
ROLES = ("autoencoder", "clusters", "labels", "classifier")


@dataclass(frozen=True)
class DiscoverImagesConfig(Seeds):
    """Everything the image part depends on; chosen on validation images of MNIST.

    Attributes:
        dataset: ``digits``, ``mnist`` or ``fashion``.
        seeds: how many networks, each with its own labels.
        first_seed: their seeds are ``first_seed``, ``first_seed + 1``, ...
        pixels: principal directions that images are reduced to, all networks alike.
        hidden: units of each of the three hidden layers of the encoder.
        code: numbers in the code of an image. With 16 more of the image is kept, and less of its
            class.
        epochs, batch, rate: of the autoencoder; the largest rate of a one-cycle schedule.
        restarts: trainings of the unlabelled mixture, of which the best by evidence is kept.
        tasks_per_class: tasks of the larger mixture, over the number of classes.
        em_steps: EM steps of a mixture without labels.
        label_steps: EM steps once labels are known.
        em_batch: images of an EM step.
        em_rate: Adam's, falling to zero.
        prior_rate: share of a step's images in the counts that the prior over tasks learns from.
        ridge: added to the variances of the first clusters.
        classifier_steps: weight updates of a classifier.
        classifier_batch, classifier_rate, classifier_noise: its batches, the largest rate, and the
            noise on its normalised code in training.
    """

    dataset: str = "mnist"
    seeds: int = 3
    first_seed: int = 0
    pixels: int = 64
    hidden: int = 256
    code: int = 10
    epochs: int = 15
    batch: int = 256
    rate: float = 0.003
    restarts: int = 5
    tasks_per_class: int = 6
    em_steps: int = 400
    label_steps: int = 100
    em_batch: int = 500
    em_rate: float = 0.02
    prior_rate: float = 0.05
    ridge: float = 0.001
    classifier_steps: int = 600
    classifier_batch: int = 64
    classifier_rate: float = 0.002
    classifier_noise: float = 0.5

    def __post_init__(self) -> None:
        self.check_at_least_one(
            *("seeds", "pixels", "hidden", "epochs", "batch", "restarts", "tasks_per_class"),
            *("em_steps", "label_steps", "em_batch", "classifier_steps"),
        )
        if not 2 <= self.code <= self.pixels:
            raise ValueError(
                f"code must be between 2 and pixels = {self.pixels}, for there is nothing to "
                f"compress beyond; got {self.code}"
            )

    def small(self) -> DiscoverImagesConfig:
        """Return a configuration for a thousand images of 8 x 8, scikit-learn's digits."""
        return replace(self, pixels=32, epochs=100, batch=64, em_batch=500, tasks_per_class=2)

    def fast(self) -> DiscoverImagesConfig:
        """Return a configuration that runs through everything in seconds and shows nothing."""
        return replace(
            self,
            seeds=min(self.seeds, 2),
            pixels=16,
            hidden=16,
            code=4,
            epochs=2,
            restarts=2,
            tasks_per_class=2,
            em_steps=3,
            label_steps=2,
            classifier_steps=3,
        )


def image_generator(seed: int, role: str) -> torch.Generator:
    """Return the generator of one seed and one role; no draw serves two of them."""
    return torch.Generator().manual_seed(seed * len(ROLES) + ROLES.index(role))
