"""The rows of the image part: what was measured, against what it has to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gbi_pyro.metrics.intervals import student_interval
from studies.unsupervised_images.config import FEW_IMAGES
from studies.unsupervised_images.measure import (
    CLASSIFIER,
    KMEANS,
    KMEANS_CODES,
    ONE,
    PRETRAINED,
    SEVERAL,
    WAYS,
)
from studies.core.table import Bar, Row, interval_note

Found = Mapping[str, Any]
CLUSTERED_BAR, GAIN_BAR = 62.0, 4.0  # MNIST: percent, and points


def unlabelled_rows(found: Sequence[Found], dataset: str) -> list[Row]:
    """Return the cluster accuracy without any label (D8), one value a seed."""
    barred = dataset == "mnist"
    rows = []
    for way in (ONE, KMEANS_CODES, KMEANS):
        values = 100 * np.array([f["scores"][way] for f in found])
        bar = Bar(CLUSTERED_BAR, at_least=True) if barred and way == ONE else None
        what = f"{dataset}, no labels, {way}: cluster accuracy (Hungarian), %"
        rows.append(Row.of("D8", what, values, bar, interval_note(student_interval(values))))
    validation = [100 * f["validation"] for f in found]
    words = f"{dataset}, no labels, {ONE}"
    rows.append(Row.of("D8", f"{words}: cluster accuracy on validation, %", validation))
    spread = [max(f["evidence"]) - min(f["evidence"]) for f in found]
    rows.append(Row.of("D8", f"{words}: best restart over worst, nats per image", spread))
    rows.append(Row.of("D8", f"{words}: collapse reported", [f["collapsed"] for f in found]))
    return rows


def labelled_rows(found: Mapping[float, Sequence[Found]], dataset: str) -> list[Row]:
    """Return accuracy by fraction of the labels and way, and what EM gains (D9)."""
    rows = []
    for fraction, by_seed in found.items():
        known = by_seed[0]["known"]
        what = f"{dataset}, {fraction:.0%} labels ({known})"
        for rival in (CLASSIFIER, PRETRAINED):
            gain = accuracies(by_seed, SEVERAL) - accuracies(by_seed, rival)
            barred = dataset == "mnist" and fraction == FEW_IMAGES and rival == CLASSIFIER
            bar = Bar(GAIN_BAR, at_least=True) if barred else None
            words = f"{what}: {SEVERAL}, lead over the {rival}, points"
            rows.append(Row.of("D9", words, gain, bar, interval_note(student_interval(gain))))
        for way in WAYS:
            values = accuracies(by_seed, way)
            held_out = 100 * np.mean([f["validation"][way] for f in by_seed])
            note = f"{interval_note(student_interval(values))}; on validation {held_out:.2f}"
            rows.append(Row.of("D9", f"{what}: {way}: accuracy, %", values, None, note))
    return rows


def accuracies(by_seed: Sequence[Found], way: str) -> np.ndarray:
    """Return the accuracy on test images of one way, percent, one value a seed."""
    return 100 * np.array([f["test"][way] for f in by_seed])
