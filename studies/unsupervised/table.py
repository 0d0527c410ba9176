"""The table of the study: what was measured, and the targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from gbi_pyro.data.switching import GeometricBlocks
from gbi_pyro.metrics.intervals import paired_bootstrap, student_interval
from studies.core.table import Row, Target
from studies.unsupervised.batch import ChosenNumber, FoundTasks
from studies.unsupervised.config import NOISY, USUAL
from studies.unsupervised.labels import CLAMPED, FEW, FOUND_FIRST, HMM, LabelsSeed
from studies.unsupervised.online import EXACT, METHODS, SEVERAL, UNLABELLED, OnlineSeed
from studies.unsupervised.recurrent import CLUSTERED, RecurrentSeed
from studies.unsupervised.streams import Condition

ROUNDING = 1e-9  # shares of steps that are equal differ by this
FAST = 0.1  # the hazard that a target of several hypotheses is stated for
_THE = {UNLABELLED: "one learner"}
ALL = Target(1.0, at_least=True)
Record = TypeVar("Record")
ByCondition = Mapping[Condition, Sequence[Record]]


def online_rows(found: ByCondition[OnlineSeed]) -> Iterator[Row]:
    """Yield what is learned online, with the exact filter and the baselines (D1, D2)."""
    for condition, records in found.items():
        claim = "D1" if condition.order is None else "D2"
        of = {
            method: {
                quantity: np.array([getattr(r.scores[method], quantity) for r in records])
                for quantity in ("accuracy", "error", "divergence")
            }
            for method in METHODS
            if method in records[0].scores
        }
        best = float(np.median(of[EXACT]["accuracy"]))
        learners = [method for method in (UNLABELLED, SEVERAL) if method in of]
        for method, values in of.items():
            what = f"{condition.name}: {method}"
            accuracy, error = values["accuracy"], values["error"] / of[EXACT]["error"]
            note = f"median {np.median(accuracy):.4f}, exact filter's {best:.4f}"
            own = method == UNLABELLED and condition.num_tasks == 2 and condition.blocks is None
            targets: list[Target | None] = [None]
            if own:
                targets = _accuracy_targets(condition, best, found)
            if method == SEVERAL and condition.num_tasks == 5 and condition.sigma <= USUAL:
                targets = [_at_least(0.95, "worst")]
                note = f"the exact filter's worst is {of[EXACT]['accuracy'].min():.4f}"
            for target in targets:
                worst = ", worst" if target and target.statistic == "worst" else ""
                yield Row.of(claim, f"{what}: Z accuracy{worst}", accuracy, target, note)
            if method == EXACT:
                continue
            limit = {USUAL: Target(1.10), NOISY: Target(1.04)}.get(condition.sigma) if own else None
            relative = f"{what}: MSE relative to the exact filter's"
            yield Row.of(claim, relative, error, limit, interval=student_interval(error))
            yield Row.of(claim, f"{what}: filtered KL", values["divergence"])
            for other in of if method in learners else ():
                if other == method or (method, other) == (UNLABELLED, SEVERAL):
                    continue
                theirs = of[other]["accuracy"]
                target = _loss_target(condition) if (method, other) == (SEVERAL, EXACT) else None
                yield Row.of(
                    claim,
                    f"{what}: Z accuracy minus that of {_THE.get(other, 'the ' + other)}",
                    accuracy - theirs,
                    target,
                    interval=paired_bootstrap(accuracy, theirs),
                )
        if condition.order is None:
            for method in learners:
                share = [not r.collapsed[method] for r in records]
                several = ", several hypotheses" if method == SEVERAL else ""
                yield Row.of(claim, f"{condition.name}{several}: no collapse reported", share)


def _at_least(value: float, statistic: Any = "median") -> Target:
    return Target(value - ROUNDING, statistic, at_least=True)


def _loss_target(condition: Condition) -> Target | None:
    """Return how far several hypotheses may lie below the exact filter."""
    if isinstance(condition.blocks, GeometricBlocks) and condition.blocks.hazard == FAST:
        return _at_least(-0.015, "mean")
    return _at_least(-0.02, "worst") if condition == Condition(5, USUAL) else None


def _accuracy_targets(
    condition: Condition, exact: float, found: ByCondition[OnlineSeed]
) -> list[Target | None]:
    if condition.order is not None:
        enumerated = found[Condition(condition.num_tasks, condition.sigma)]
        median = np.median([r.scores[UNLABELLED].accuracy for r in enumerated])
        return [_at_least(float(median) - 0.01)]
    if condition.sigma == USUAL:
        return [_at_least(0.997), _at_least(0.99, "worst")]
    return [_at_least(exact - 0.005)] if condition.sigma == NOISY else [None]


def speed_rows(found: ByCondition[OnlineSeed]) -> Iterator[Row]:
    """Yield time steps per second of processor time on one thread (D7)."""
    for condition, records in found.items():
        if condition.sigma == USUAL and condition.blocks is None:
            target = Target(2000, "median", at_least=True)
            what = "time steps per second, processor time, one thread"
            for method in records[0].steps_per_second:
                several = ", several hypotheses" if method == SEVERAL else ""
                yield Row.of(
                    "D7",
                    f"{condition.name}{several}: {what}",
                    [r.steps_per_second[method] for r in records],
                    target if condition == Condition(2, USUAL) else None,
                )


def batch_rows(found: ByCondition[FoundTasks]) -> Iterator[Row]:
    """Yield in which data sets all tasks were found (D3)."""
    for condition, records in found.items():
        target = ALL if condition.num_tasks == 5 and condition.sigma <= USUAL else None
        yield from _found_rows("D3", f"{condition.name}, batch, no labels", records, target)


def _found_rows(
    claim: str,
    what: str,
    records: Sequence[FoundTasks] | Sequence[RecurrentSeed],
    found: Target | None = None,
    unreported: Target | None = None,
) -> Iterator[Row]:
    yield Row.of(claim, f"{what}: all tasks found", [r.found for r in records], found)
    missed = [not r.found and not r.reported for r in records]
    yield Row.of(claim, f"{what}: tasks missing and not reported", missed, unreported)


def number_rows(found: ByCondition[ChosenNumber]) -> Iterator[Row]:
    """Yield how often the true number of tasks was chosen (D4)."""
    rows, correct = [], []
    for condition, records in found.items():
        right = [r.num_tasks == condition.num_tasks for r in records]
        correct += right
        wrong = sorted({r.num_tasks for r in records} - {condition.num_tasks})
        note = f"chosen instead: {', '.join(map(str, wrong))}" if wrong else ""
        what = f"true {condition.name}: correct number of tasks chosen"
        rows.append(Row.of("D4", what, right, note=note))
    target = Target(0.95 - ROUNDING, at_least=True)
    yield Row.of("D4", "correct number of tasks chosen, all data sets", correct, target)
    yield from rows


def recurrent_rows(
    found: Mapping[tuple[Condition, str], Sequence[RecurrentSeed]],
) -> Iterator[Row]:
    """Yield whether a recurrent network found its tasks, or a collapse was reported (D5)."""
    for (condition, start), records in found.items():
        what = f"LSTM, {condition.name}, {start}"
        nine_of_ten, none = Target(0.9 - ROUNDING, at_least=True), Target(0, "sum")
        targets = (nine_of_ten, none) if start == CLUSTERED else (None, None)
        yield from _found_rows("D5", what, records, *targets)
        loss = [r.exact - r.accuracy for r in records]
        yield Row.of("D5", f"{what}: exact smoother's Z accuracy minus its own", loss)
        spread = [r.spread for r in records]
        yield Row.of("D5", f"{what}: spread over tasks, nats per step", spread)


def label_rows(found: ByCondition[LabelsSeed]) -> Iterator[Row]:
    """Yield the filtered divergence from the exact posterior by fraction of the labels (D6)."""
    for condition, records in found.items():
        for method, by_fraction in records[0].divergence.items():
            for fraction in by_fraction:
                target = None
                if (condition, method, fraction) == (Condition(5, USUAL), FOUND_FIRST, FEW):
                    target = Target(0.002, "median")
                known = [r.known[fraction] for r in records]
                note = f"{min(known)}-{max(known)} labels" if method != HMM else ""
                unmatched = sum(r.without_label[fraction] > 1 for r in records)
                if fraction and unmatched:
                    note += f"; in {unmatched} data set(s) two tasks or more have no label"
                what = f"{condition.name}, {fraction:.0%} labels, {method}: filtered KL"
                values = [r.divergence[method][fraction] for r in records]
                yield Row.of("D6", what, values, target, note)
        extra = [r.divergence[CLAMPED][FEW] - r.divergence[FOUND_FIRST][FEW] for r in records]
        what = f"{condition.name}, {FEW:.0%} labels: filtered KL, clamped first minus found first"
        yield Row.of("D6", what, extra)
