"""The table of the ablations: what was measured, and what it has to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from gbi_pyro.metrics.continual import Continual, continual_learning
from studies.ablations.conditioners import ConditionerSeed
from studies.ablations.config import AblationsConfig
from studies.ablations.forgetting import ForgettingSeed, Schedule
from studies.ablations.gains import first_below, gain_row
from studies.ablations.generalisation import MOVED
from studies.ablations.heads import (
    HEAD,
    HEADS,
    PRETRAINED,
    PRETRAINED_SGD,
    RANDOM,
    RANDOM_SGD,
)
from studies.ablations.inputs import InputSeed
from studies.ablations.regularizers import ENTROPY, LatentUpdate, RegularizerSeed
from studies.ablations.task_inputs import CONTROLS, NONE, SAME_START, TASK_INPUTS, TRUE
from studies.core.blocks import reference_errors
from studies.core.sequence_training import CHECK_EVERY
from studies.core.table import Row
from studies.core.unseen_means import EDGE

ByInput = Mapping[str, Sequence[InputSeed]]
NEAR = 1.02  # of a level counts as there
NO_PRIMITIVES = "given its task a constant predicts this stream best, which needs no primitives"
PLAIN = {NONE: "plain LSTM", SAME_START: "plain LSTM from the same start"}
NAMES = {**PLAIN, TRUE: "true Z", **{kind: f"{kind} Z" for kind in CONTROLS}}


def helps(kind: str, plain: str) -> bool | None:
    """Say what a kind of input has to show: the task to help, what is empty of it not to.

    Targets compare with the plain LSTM as it is; the one from the same start is there to explain.
    """
    return None if kind in PLAIN or plain != NONE else kind == TRUE


def speed_rows(found: ByInput) -> list[Row]:
    """Return how fast networks learn with each kind of task input (T4, C1)."""
    rows = []
    curves = {kind: np.array([r.validation for r in found[kind]]) for kind in TASK_INPUTS}
    for kind, curve in curves.items():
        updates, never = first_below(curve, NEAR, CHECK_EVERY)
        what = f"{NAMES[kind]}: updates to within 2 % of the noise floor"
        rows.append(Row.of("T4", what, updates, note=never))
        rows.append(Row.of("T4", f"{NAMES[kind]}: final error / noise floor", curve[:, -1]))
    for plain, name in PLAIN.items():
        goal = NEAR * curves[plain][:, -1]
        reached = {kind: first_below(curve, goal, CHECK_EVERY) for kind, curve in curves.items()}
        for kind, (updates, never) in reached.items():
            what = f"{NAMES[kind]}: updates to within 2 % of the final error of the {name}"
            rows.append(Row.of("T4", what, updates, note=never))
            if kind not in PLAIN:
                what, target = f"{NAMES[kind]}: updates saved on the {name}", helps(kind, plain)
                rows.append(gain_row("C1", what, reached[plain][0], updates, helps=target))
            if kind != plain:
                what = f"{NAMES[kind]}: gain in final error / noise floor on the {name}"
                rows.append(gain_row("C1", what, curves[plain][:, -1], curves[kind][:, -1]))
    return rows


def generalisation_rows(found: ByInput, weight_decay: float) -> list[Row]:
    """Return how well unseen means are predicted with each kind of task input (T9, C1, C6).

    Like is compared with like: inputs as in training, zero-shot, and inputs that move, adaptation.
    The targets are those of the study's usual, decaying weights.
    """
    rows = []
    unseen = f"unseen means, {'' if weight_decay else 'no '}weight decay"

    def errors(kind: str, way: str) -> list[float]:
        return [record.unseen[way].block for record in found[kind]]

    for kind in TASK_INPUTS:
        for way in found[kind][0].unseen:
            what = f"{unseen}, {NAMES[kind]}, {way}"
            ends = [record.unseen[way].end for record in found[kind]]
            rows.append(Row.of("T9", f"{what}: error", errors(kind, way)))
            rows.append(Row.of("T9", f"{what}: error, last {EDGE} steps", ends))
            for plain, name in PLAIN.items():
                if kind != plain:
                    target = helps(kind, plain) if weight_decay else None
                    gain = f"{what}: gain on the {name}, likewise"
                    pair = errors(plain, way), errors(kind, way)
                    rows.append(gain_row("C1", gain, *pair, helps=target))
    # What the task itself is worth, where an empty input of its width may move as freely.
    for kind in CONTROLS:
        gain = f"{unseen}, {MOVED}: gain of true Z on {NAMES[kind]}"
        rows.append(gain_row("C1", gain, errors(kind, MOVED), errors(TRUE, MOVED)))
    return rows


def modularity_rows(found: ByInput) -> list[Row]:
    """Return how units are divided among tasks with each kind of task input (T6)."""
    rows = []
    areas = {kind: [record.units.area for record in found[kind]] for kind in TASK_INPUTS}
    for kind in TASK_INPUTS:
        share = f"{NAMES[kind]}: share of the units' variance that lies between tasks"
        rows.append(Row.of("T6", share, [record.units.task_share for record in found[kind]]))
        rows.append(Row.of("T6", f"{NAMES[kind]}: shared units, mean over thresholds", areas[kind]))
    fewer = "fewer shared units, true than shuffled Z"
    return [*rows, gain_row("T6", fewer, areas["shuffled"], areas[TRUE])]


def reference_rows(config: AblationsConfig) -> list[Row]:
    """Return what simple predictors score, to read errors after forgetting against (T7)."""
    errors = reference_errors(config.means, config.sigma)
    return [Row.of("T7", f"reference error: {name}", [e]) for name, e in errors.items()]


def forgetting_rows(found: Mapping[Schedule, Sequence[ForgettingSeed]]) -> list[Row]:
    """Return the error on the task of the last block but one after the last one (T7, C1)."""
    rows: list[Row] = []
    rates = list(dict.fromkeys(schedule.rate for schedule in found))
    for plain, name in PLAIN.items():
        pooled = {
            (rate, kind): _geometric_mean(
                [_ratio(of_seeds, plain, kind) for s, of_seeds in found.items() if s.rate == rate]
            )
            for rate in rates
            for kind in TASK_INPUTS
            if kind != plain
        }
        for (rate, kind), values in pooled.items():
            what = f"all schedules, rate {rate:g}: forgetting, {name} / {NAMES[kind]}"
            # At a larger rate than the paper's the task need not protect; the rest never should.
            target = None if kind == TRUE and rate != rates[0] else helps(kind, plain)
            ones = np.ones_like(values)
            rows.append(gain_row("T7", what, values, ones, ratio=True, helps=target))
        for rate in rates[1:]:
            what = f"all schedules: {name} / true Z, rate {rates[0]:g} / rate {rate:g}"
            pair = pooled[rates[0], TRUE], pooled[rate, TRUE]
            rows.append(gain_row("T7", what, *pair, ratio=True))
    for schedule, of_seeds in found.items():
        rows += _schedule_rows(schedule.name, of_seeds)
    return rows


def _schedule_rows(schedule: str, of_seeds: Sequence[ForgettingSeed]) -> list[Row]:
    rows: list[Row] = []
    for plain, name in PLAIN.items():
        for kind in (TRUE, *CONTROLS):
            what = f"{schedule}: forgetting, {name} / {NAMES[kind]}"
            pair = forgotten(of_seeds, plain), forgotten(of_seeds, kind)
            rows.append(gain_row("T7", what, *pair, ratio=True))
    for kind in TASK_INPUTS:
        what = f"{schedule}: error on the other task after the last block, {NAMES[kind]}"
        rows.append(Row.of("T7", what, forgotten(of_seeds, kind)))
    for kind in (*PLAIN, TRUE):
        transfer = _continual(of_seeds, kind)
        for way in ("backward", "forward"):
            what = f"{schedule}: {way} transfer, fall of the error, {NAMES[kind]}"
            rows.append(Row.of("T7", what, getattr(transfer, way).values))
    return rows


def heads_rows(found: Mapping[Schedule, Sequence[ForgettingSeed]]) -> list[Row]:
    """Return what is forgotten with a head for each task, its trunk trained or frozen (T7).

    What pre-training is worth is a ratio of average errors, by optimiser and rate.
    """
    rows = []
    for rate in dict.fromkeys(schedule.rate for schedule in found):
        for (random, pretrained), optimiser in (
            ((RANDOM, PRETRAINED), "Adam"),
            ((RANDOM_SGD, PRETRAINED_SGD), "SGD"),
        ):
            average = [
                _geometric_mean(
                    [
                        np.array(_continual(of_seeds, kind).average.values)
                        for schedule, of_seeds in found.items()
                        if schedule.rate == rate
                    ]
                )
                for kind in (random, pretrained)
            ]
            what = (
                f"all schedules, {optimiser}, rate {rate:g}: average error after the last block, "
                f"{HEAD}, frozen trunk, random / pre-trained"
            )
            row = gain_row("T7", what, *average, ratio=True)
            rows.append(replace(row, note=f"{row.note}; {NO_PRIMITIVES}"))
    for schedule, of_seeds in found.items():
        for kind, note in HEADS.items():
            what = f"{schedule.name}: error on the other task after the last block, {kind}"
            rows.append(Row.of("T7", what, forgotten(of_seeds, kind)))
            found_here = _continual(of_seeds, kind)
            what = f"{schedule.name}: average error after the last block, {kind}"
            rows.append(Row.of("T7", what, found_here.average.values))
            what = f"{schedule.name}: backward transfer, fall of the error, {kind}"
            rows.append(Row.of("T7", what, found_here.backward.values, note=note))
    return rows


def _continual(of_seeds: Sequence[ForgettingSeed], kind: str) -> Continual:
    """Return transfer between the two tasks, in errors."""
    return continual_learning(
        [record.errors[kind] for record in of_seeds],
        [record.untrained[kind] for record in of_seeds],
        errors=True,
    )


def forgotten(of_seeds: Sequence[ForgettingSeed], kind: str) -> np.ndarray:
    """Return the error on the task of the last block but one after the last, ``(seeds,)``."""
    return np.array([record.forgotten(kind) for record in of_seeds])


def _ratio(of_seeds: Sequence[ForgettingSeed], plain: str, kind: str) -> np.ndarray:
    ratio: np.ndarray = forgotten(of_seeds, plain) / forgotten(of_seeds, kind)
    return ratio


def _geometric_mean(ratios: Sequence[np.ndarray]) -> np.ndarray:
    return np.asarray(np.exp(np.mean(np.log(ratios), 0)))


def conditioner_rows(found: Mapping[str, Sequence[ConditionerSeed]]) -> list[Row]:
    """Return the ways a task enters a network, at equal size (C5)."""
    rows = []

    def divergence(way: str, name: str) -> list[float]:
        return [record.divergence[name] for record in found[way]]

    for way, of_seeds in found.items():
        curves, first = np.array([record.validation for record in of_seeds]), of_seeds[0]
        updates, never = first_below(curves, NEAR, CHECK_EVERY)
        note = f"{first.parameters} parameters, {first.hidden_size} hidden units"
        rows.append(Row.of("C5", f"{way}: final error / noise floor", curves[:, -1], note=note))
        what = f"{way}: updates to within 2 % of the noise floor"
        rows.append(Row.of("C5", what, updates, note=never))
        for name in first.divergence:
            what, values = f"{way}: filtered KL, {name}", divergence(way, name)
            rows.append(Row.of("C5", what, values))
            if way != "concat":
                gain = f"{what}: gain on concat"
                rows.append(gain_row("C5", gain, divergence("concat", name), values))
    return rows


def regularizer_rows(
    found: Mapping[str, Sequence[RegularizerSeed]],
    updates: Mapping[str, Mapping[str, LatentUpdate]],
) -> list[Row]:
    """Return entropy against L2 as the regulariser of the latent update (C2, M6)."""
    rows = []

    def scores(case: str, method: str, key: str) -> list[float]:
        return [getattr(record.scores[method], key) for record in found[case]]

    for case in found:
        for method, update in updates[case].items():
            for key, what in (
                ("divergence", "KL of single steps"),
                ("filtered", "filtered KL"),
                ("accuracy", "filtered accuracy"),
            ):
                what = f"{case}, {method}: {what}"
                rows.append(Row.of("C2", what, scores(case, method, key), note=str(update)))
            if method != ENTROPY:
                what = f"{case}: filtered KL, gain of the entropy on {method}"
                pair = scores(case, method, "filtered"), scores(case, ENTROPY, "filtered")
                rows.append(gain_row("C2", what, *pair))
        if case != "K = 2":  # two tasks have one direction
            what = f"{case}: cosine of both gradients where the entropy led"
            rows.append(Row.of("M6", what, scores(case, ENTROPY, "cosine")))
    return rows
