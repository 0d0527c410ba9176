"""The table of the study: what was measured, and the targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gbi_pyro.metrics.intervals import student_interval
from studies.core.table import Row, Target
from studies.unsupervised_images.config import FEW
from studies.unsupervised_images.features import SEVERAL as SEVERAL_FEATURES
from studies.unsupervised_images.features import FeaturesSeed
from studies.unsupervised_images.record import (
    CLASSIFIER,
    KMEANS,
    KMEANS_CODES,
    METHODS,
    ONE,
    PRETRAINED,
    SEVERAL,
    Labelled,
    Unlabelled,
)

CLUSTERED, GAIN = Target(62.0, at_least=True), Target(4.0, at_least=True)  # per cent, and points
UNLABELLED, LABELLED = Target(90.0, at_least=True), Target(97.0, at_least=True)  # on features


def unlabelled_rows(found: Sequence[Unlabelled], dataset: str) -> Iterator[Row]:
    """Yield the cluster accuracy without any label (D8); its target is that of MNIST."""
    for method in (ONE, KMEANS_CODES, KMEANS):
        values = 100 * np.array([f.accuracy[method] for f in found])
        target = CLUSTERED if dataset == "mnist" and method == ONE else None
        what = f"{dataset}, no labels, {method}: cluster accuracy (Hungarian), %"
        yield Row.of("D8", what, values, target, interval=student_interval(values))
    what = f"{dataset}, no labels, {ONE}"
    validation = [100 * f.validation for f in found]
    yield Row.of("D8", f"{what}: cluster accuracy on validation, %", validation)
    spread = [max(f.evidence) - min(f.evidence) for f in found]
    gap = "log evidence, best restart minus worst, nats per image"
    yield Row.of("D8", f"{what}: {gap}", spread)
    yield Row.of("D8", f"{what}: collapse reported", [f.collapsed for f in found])


def labelled_rows(fraction: float, found: Sequence[Labelled], dataset: str) -> Iterator[Row]:
    """Yield the accuracy with a fraction of the labels, and what EM gains (D9)."""
    what = f"{dataset}, {fraction:.0%} labels ({found[0].known})"
    for baseline in (CLASSIFIER, PRETRAINED):
        gain = 100 * np.array([f.test[SEVERAL] for f in found])
        gain -= 100 * np.array([f.test[baseline] for f in found])
        stated = dataset == "mnist" and fraction == FEW and baseline == CLASSIFIER
        yield Row.of(
            "D9",
            f"{what}: {SEVERAL}: accuracy minus that of the {baseline}, points",
            gain,
            GAIN if stated else None,
            interval=student_interval(gain),
        )
    for method in METHODS:
        values = 100 * np.array([f.test[method] for f in found])
        note = f"on validation {100 * np.mean([f.validation[method] for f in found]):.2f}"
        interval = student_interval(values)
        yield Row.of("D9", f"{what}: {method}: accuracy, %", values, None, note, interval)


def features_rows(records: Sequence[FeaturesSeed], dataset: str) -> Iterator[Row]:
    """Yield the accuracies on features, without labels (D8) and with a fraction of them (D9)."""
    for method in records[0].test:
        values = 100 * np.array([r.test[method] for r in records])
        note = f"on validation {100 * np.mean([r.validation[method] for r in records]):.2f}"
        target = UNLABELLED if dataset == "mnist" and method == SEVERAL_FEATURES else None
        what = f"{dataset}, no labels, {method}: cluster accuracy (Hungarian), %"
        yield Row.of("D8", what, values, target, note, student_interval(values))
    for fraction in records[0].labelled:
        found = [r.labelled[fraction] for r in records]
        what = f"{dataset}, {fraction:.0%} labels ({found[0].known})"
        for method in found[0].test:
            values = 100 * np.array([f.test[method] for f in found])
            note = f"on validation {100 * np.mean([f.validation[method] for f in found]):.2f}"
            stated = dataset == "mnist" and fraction == FEW and method == SEVERAL_FEATURES
            target, interval = LABELLED if stated else None, student_interval(values)
            yield Row.of("D9", f"{what}: {method}: accuracy, %", values, target, note, interval)
        chosen = f"{what}: {SEVERAL_FEATURES}"
        yield Row.of("D9", f"{chosen}: prototypes chosen", [f.prototypes for f in found])
        yield Row.of("D9", f"{chosen}: EM steps chosen", [f.steps for f in found])
