"""The table of the image study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gbi_pyro.metrics.task_use import TaskUse
from studies.core.divergences import passes_in_words
from studies.core.table import Row, Target
from studies.images.bottleneck import Widths
from studies.images.features import EXACT as FEATURES_EXACT
from studies.images.features import LOGISTIC, FeaturesSeed
from studies.images.measure import ACCURACY, COLUMNS, ECE, KL_TEMPERED
from studies.images.methods import CLASSIFIER_ROW, EXACT, ONE_STEP, PAPER_ONE_STEP, REPORTED
from studies.images.record import ImagesSeed

Scored = ImagesSeed | FeaturesSeed
MNIST = "target set for MNIST"
TARGETS = {
    (PAPER_ONE_STEP, ACCURACY): Target(88.0, at_least=True),
    (ONE_STEP, ACCURACY): Target(97.5, at_least=True),
    (EXACT, ACCURACY): Target(98.0, at_least=True),
    (ONE_STEP, KL_TEMPERED): Target(0.02),
    (ONE_STEP, ECE): Target(1.2),
}
"""What a quantity of a method has to reach."""
FEATURE_TARGETS = {"mnist": 98.9, "fashion": 91.0, "cifar100": 53.0}
"""The accuracy of one pass on features, in per cent, by image set."""


def images_table(
    records: Sequence[ImagesSeed],
    features: Sequence[FeaturesSeed],
    widths: Widths,
    dataset: str,
) -> list[Row]:
    """Return every quantity of every method and network, one value a seed.

    Args:
        records: of the networks.
        features: of the features.
        widths: of the bottleneck.
        dataset: the image set, which says the targets.
    """
    targets = TARGETS if dataset in ("mnist", "digits") else {}
    rows = [_lead(records, bool(targets)), *_features_rows(features, dataset)]
    for name in records[0].use:
        rows += _use_rows(name, [record.use[name] for record in records])
    for name, width in widths.items():
        rows += _use_rows(name, [width.use])
        rows.append(Row.of("I7", f"{name}: one step, accuracy on validation, %", [width.one_step]))
    for name in records[0].named:
        what = f"{name}: test images in the tenth of the classes named most, %"
        rows.append(Row.of("I7", what, [100 * r.named[name] for r in records]))
    for name in records[0].methods:
        rows += _method_rows(name, records, targets)
    best = {} if dataset not in FEATURE_TARGETS else {FEATURES_EXACT: FEATURE_TARGETS[dataset]}
    own = {(n, ACCURACY): Target(value, at_least=True) for n, value in best.items()}
    for name in features[0].methods:
        rows += _method_rows(name, features, own)
    return rows


def _features_rows(records: Sequence[FeaturesSeed], dataset: str) -> list[Row]:
    classifier, exact = (_values(n, ACCURACY, records) for n in (LOGISTIC, FEATURES_EXACT))
    lead = "logistic regression's lead over the exact posterior of the same features, points"
    time = "processor time of one pass on images, features included / of the features alone"
    near = Target(3.0) if dataset == "cifar100" else None
    D = records[0].num_features
    return [
        Row.of("I2", lead, np.subtract(classifier, exact), near),
        Row.of("I2", time, [r.overhead for r in records], Target(1.1)),
        Row.of("I2", f"{D} features: milliseconds an image", [r.milliseconds for r in records]),
        Row.of("I2", "feature Gaussian: prototypes chosen", [r.prototypes for r in records]),
        Row.of("I2", "feature Gaussian: shrinkage chosen", [r.shrinkage for r in records]),
        Row.of("I2", f"{LOGISTIC}: penalty chosen", [r.penalty for r in records]),
    ]


def _lead(records: Sequence[ImagesSeed], targets: bool) -> Row:
    classifier, exact = (_values(n, ACCURACY, records) for n in (CLASSIFIER_ROW, EXACT))
    what = "classifier's lead over the exact posterior, points"
    own = (Target(0.5), MNIST) if targets else ()
    return Row.of("I2", what, np.subtract(classifier, exact), *own)


def _use_rows(name: str, uses: Sequence[TaskUse]) -> list[Row]:
    return [
        Row.of("I7", f"{name}: gain from the true task, nats per image", [u.gain for u in uses]),
        Row.of("I7", f"{name}: linear probe of the class, %", [100 * u.probe for u in uses]),
    ]


def _method_rows(
    name: str, records: Sequence[Scored], targets: Mapping[tuple[str, str], Target]
) -> list[Row]:
    notes: Mapping[str, list[str]] = {column: [] for column in COLUMNS}
    notes[ACCURACY].append(passes_in_words(records[0].methods[name].passes))
    if name in REPORTED:
        notes[ACCURACY].append(f"paper (reported elsewhere, MNIST): {REPORTED[name]}")
    rows = []
    for column in COLUMNS:
        values, target = _values(name, column, records), targets.get((name, column))
        if np.isfinite(values).any():
            note = "; ".join(notes[column] + ([MNIST] if target and targets is TARGETS else []))
            rows.append(Row.of("I2", f"{name}: {column}", values, target, note))
    return rows


def _values(name: str, column: str, records: Sequence[Scored]) -> list[float]:
    return [record.methods[name].values.get(column, float("nan")) for record in records]
