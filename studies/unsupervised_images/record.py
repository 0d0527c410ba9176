"""What the study of images measures of one seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from studies.unsupervised_images.tasks import TasksState

ONE, SEVERAL = "EM, one task a class", "EM, several tasks a class"
MATCHED = "EM, several tasks a class, matched and not clamped"
CLASSIFIER = "classifier of the same encoder"
PRETRAINED = "classifier initialised from the autoencoder"
METHODS = (ONE, SEVERAL, MATCHED, CLASSIFIER, PRETRAINED)
KMEANS, KMEANS_CODES = "k-means on principal components", "k-means on the codes"


@dataclass(frozen=True)
class Unlabelled:
    """Tasks found without any label.

    Attributes:
        tasks: the mixture of one task a class.
        several: the mixture of several.
        evidence: mean log evidence of each restart, in nats per image.
        accuracy: cluster accuracy on test images, by method.
        validation: that of the mixture of one task a class on validation images.
        collapsed: whether a collapse of it is reported.
    """

    tasks: TasksState
    several: TasksState
    evidence: list[float]
    accuracy: dict[str, float]
    validation: float
    collapsed: bool


@dataclass(frozen=True)
class Labelled:
    """What is learned with a fraction of the labels.

    Attributes:
        known: how many labels.
        validation: accuracy on validation images, by method.
        test: accuracy on test images, by method.
        several: the mixture of several tasks a class, after labels were clamped.
    """

    known: int
    validation: dict[str, float]
    test: dict[str, float]
    several: TasksState


@dataclass(frozen=True)
class Examples:
    """What was found without labels, tasks in the order of the classes they are matched with.

    Attributes:
        images: below the decoded mean of each task, test images whose most probable task it is, in
            their order, ``(rows, C) + image_shape``; blank where there are not enough of them.
        counts: test images by class and inferred task, ``(C, C)``.
        codes: of the first test images, ``(N, d)``.
    """

    images: np.ndarray
    counts: np.ndarray
    codes: Tensor


@dataclass(frozen=True)
class UnsupervisedImagesSeed:
    """Everything that is measured of one seed.

    Attributes:
        autoencoder: its weights.
        unlabelled: without labels.
        labelled: by fraction of the labels.
        examples: for figures and posterior.
    """

    autoencoder: dict[str, Tensor]
    unlabelled: Unlabelled
    labelled: dict[float, Labelled]
    examples: Examples
