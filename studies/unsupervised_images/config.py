"""The configuration of learning images without class labels, or with few."""

from __future__ import annotations

from dataclasses import dataclass, replace

from studies.core.image_data import Dataset
from studies.core.protocol import Seeds
from studies.core.seeds import Roles

FRACTIONS = (0.01, 0.1)  # of the labels, where some are known
FEW = 0.01  # the one that the target is stated for
LARGE = {"pixels": 64, "epochs": 15, "batch": 256, "tasks_per_class": 6}
DIGITS = {"pixels": 32, "epochs": 100, "batch": 64, "tasks_per_class": 2}  # 1137 images of 8 x 8
generator = Roles("autoencoder", "clusters", "labels", "classifier", "patches", "prototypes")


@dataclass(frozen=True)
class UnsupervisedImagesConfig(Seeds):
    """Everything the study depends on; chosen on validation images of MNIST (see ``validation``).

    Attributes:
        dataset: ``digits``, ``mnist``, ``fashion``, ``cifar10`` or ``cifar100``.
        seeds: how many networks, each with its own labels.
        first_seed: their seeds are ``first_seed``, ``first_seed + 1``, ...
        pixels: principal directions that images are reduced to, all networks alike; 0 takes 64, of
            digits 32.
        hidden: units of each of the three hidden layers of the encoder.
        code: numbers in the code of an image. With 16 more of the image is kept, and less of its
            class.
        epochs: of the autoencoder; 0 takes 15, of digits 100.
        batch: images per weight update; 0 takes 256, of digits 64.
        rate: the largest rate of its one-cycle schedule.
        restarts: trainings of the unlabelled mixture, of which the best by evidence is kept.
        tasks_per_class: tasks of the larger mixture, over the number of classes; 0 takes 6, of
            digits 2.
        em_steps: EM steps of a mixture without labels.
        label_steps: EM steps once labels are known.
        em_batch: images of an EM step.
        em_rate: Adam's, falling to zero.
        prior_rate: share of a step's images in the counts that the prior over tasks learns from.
        ridge: added to the variances of the first clusters.
        classifier_steps: weight updates of a classifier.
        classifier_batch: images of each.
        classifier_rate: the largest rate of its one-cycle schedule.
        classifier_noise: on its normalised code in training.
        filters: random patches that are the filters of the features.
        dimensions: principal directions that the features are reduced to.
        prototypes: of a class, of which the better number on validation is taken.
        feature_steps: EM steps on features without labels.
    """

    dataset: Dataset = "mnist"
    seeds: int = 3
    first_seed: int = 0
    pixels: int = 0
    hidden: int = 256
    code: int = 10
    epochs: int = 0
    batch: int = 0
    rate: float = 0.003
    restarts: int = 5
    tasks_per_class: int = 0
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
    filters: int = 150
    dimensions: int = 120
    prototypes: tuple[int, ...] = (10, 20)
    feature_steps: int = 30
    method_fields = frozenset(
        {"hidden", "epochs", "batch", "rate", "restarts", "em_steps", "label_steps"}
    )

    def __post_init__(self) -> None:
        for name, value in (DIGITS if self.dataset == "digits" else LARGE).items():
            object.__setattr__(self, name, getattr(self, name) or value)
        self.check_at_least_one(
            *("seeds", "pixels", "hidden", "epochs", "batch", "restarts", "tasks_per_class"),
            *("em_steps", "label_steps", "em_batch", "classifier_steps"),
        )
        if not 2 <= self.code <= self.pixels:
            raise ValueError(
                f"code must be between 2 and pixels = {self.pixels}, for there is nothing to "
                f"compress beyond; got {self.code}"
            )

    def fast(self) -> UnsupervisedImagesConfig:
        """Return a smoke test: everything runs in seconds, and the numbers are meaningless."""
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
            filters=8,
            dimensions=20,
            prototypes=(2,),
            feature_steps=2,
        )
