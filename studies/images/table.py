"""The table of the image study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gbi_pyro.metrics.task_use import TaskUse
from studies.core.divergences import passes_in_words
from studies.core.table import Row, Target
from studies.images.bottleneck import Widths
from studies.images.measure import ACCURACY, COLUMNS, ECE, KL_TEMPERED
from studies.images.methods import CLASSIFIER_ROW, EXACT, ONE_STEP, PAPER_ONE_STEP, REPORTED
from studies.images.record import ImagesSeed

MNIST = "target set for MNIST"
TARGETS = {
    (PAPER_ONE_STEP, ACCURACY): Target(88.0, at_least=True),
    (ONE_STEP, ACCURACY): Target(97.5, at_least=True),
    (EXACT, ACCURACY): Target(98.0, at_least=True),
    (ONE_STEP, KL_TEMPERED): Target(0.02),
    (ONE_STEP, ECE): Target(1.2),
}
"""What a quantity of a method has to reach."""


def images_table(records: Sequence[ImagesSeed], widths: Widths) -> list[Row]:
    """Return every quantity of every method and network, one value a seed."""
    rows = [_lead(records)]
    for name in records[0].use:
        rows += _use_rows(name, [record.use[name] for record in records])
    for name, width in widths.items():
        rows += _use_rows(name, [width.use])
        rows.append(Row.of("I7", f"{name}: one step, accuracy on validation, %", [width.one_step]))
    for name in records[0].methods:
        rows += _method_rows(name, records)
    return rows


def _lead(records: Sequence[ImagesSeed]) -> Row:
    classifier, exact = (_values(n, ACCURACY, records) for n in (CLASSIFIER_ROW, EXACT))
    what = "classifier's lead over the exact posterior, points"
    return Row.of("I2", what, np.subtract(classifier, exact), Target(0.5), MNIST)


def _use_rows(name: str, uses: Sequence[TaskUse]) -> list[Row]:
    return [
        Row.of("I7", f"{name}: gain from the true task, nats per image", [u.gain for u in uses]),
        Row.of("I7", f"{name}: linear probe of the class, %", [100 * u.probe for u in uses]),
    ]


def _method_rows(name: str, records: Sequence[ImagesSeed]) -> list[Row]:
    notes: Mapping[str, list[str]] = {column: [] for column in COLUMNS}
    notes[ACCURACY].append(passes_in_words(records[0].methods[name].passes))
    if name in REPORTED:
        notes[ACCURACY].append(f"paper (reported elsewhere, MNIST): {REPORTED[name]}")
    rows = []
    for column in COLUMNS:
        values, target = _values(name, column, records), TARGETS.get((name, column))
        if np.isfinite(values).any():
            note = "; ".join(notes[column] + ([MNIST] if target else []))
            rows.append(Row.of("I2", f"{name}: {column}", values, target, note))
    return rows


def _values(name: str, column: str, records: Sequence[ImagesSeed]) -> list[float]:
    return [record.methods[name].values.get(column, float("nan")) for record in records]
