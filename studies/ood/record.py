"""What the out-of-distribution study keeps of a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gbi_pyro.metrics.auroc import AUROC

UPSIDE_DOWN = "upside down"
LEFT_OUT = "classes left out"


@dataclass(frozen=True)
class OODSeed:
    """What networks trained on one image set detect.

    Attributes:
        validation: the AUROC of each score on altered validation images, see ``alterations``.
        aurocs: by out-of-distribution set, by score.
        inside: scores of the test images, larger for more outlying, ``(N,)`` each: those drawn.
        outside: the same of the other images, by set.
    """

    validation: dict[str, float]
    aurocs: dict[str, dict[str, AUROC]]
    inside: dict[str, np.ndarray]
    outside: dict[str, dict[str, np.ndarray]]
