"""What the image study keeps of a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from gbi_pyro.logjoint import Passes
from gbi_pyro.metrics.task_use import TaskUse


@dataclass(frozen=True)
class MethodScores:
    """One method on the test images.

    Attributes:
        values: by the name of a column of the table; a column that does not apply is left out.
        passes: that a batch cost.
    """

    values: dict[str, float]
    passes: Passes


@dataclass(frozen=True)
class Examples:
    """What the figures show.

    Attributes:
        class_names: of the image set.
        confusion: counts of one step on test images, true class by inferred class, ``(K, K)``.
        plane: its answers to some of them along two principal directions, ``(N, 2)``.
        classes: the true classes of those, ``(N,)``.
        generated: images in rows of one latent: the test image that it is taken from, one image
            for each task, then mixtures of the first two tasks; ``(rows, columns, C, H, W)``.
    """

    class_names: tuple[str, ...]
    confusion: np.ndarray
    plane: np.ndarray
    classes: np.ndarray
    generated: np.ndarray


@dataclass(frozen=True)
class ImagesSeed:
    """Everything that is measured of one seed.

    Attributes:
        methods: by name, in the order of the table.
        use: what an autoencoder makes of its task, by its name.
        named: by method, the share of test images in the tenth of the classes that it names most.
        examples: what the figures show.
        weights: the trained networks' weights, by name.
    """

    methods: dict[str, MethodScores]
    use: dict[str, TaskUse]
    named: dict[str, float]
    examples: Examples
    weights: dict[str, dict[str, Tensor]]
