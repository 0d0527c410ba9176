"""The table of the study on the toy stream: what was measured, against what it has to show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gbi_pyro.metrics.continual import continual_learning
from studies.ablations.config import ControlsConfig
from studies.ablations.forgetting import Schedule
from studies.ablations.gains import first_below, gain_rows
from studies.ablations.generalisation import MOVED
from studies.ablations.task_inputs import CONTROLS, KINDS, NONE, SAME_START, TRUE
from studies.ablations.regularizers import ENTROPY, L2, L2_CHOSEN
from studies.core.table import Row
from studies.toy.adaptation import EDGE
from studies.toy.blocks import reference_errors
from studies.toy.training import CHECK_EVERY

Found = Mapping[str, Any]
NEAR = 1.02  # of a level counts as there
PLAIN = {NONE: "plain LSTM", SAME_START: "plain LSTM from the same start"}
NAMES = {**PLAIN, TRUE: "true Z", **{kind: f"{kind} Z" for kind in CONTROLS}}


def helps(kind: str, plain: str) -> bool | None:
    """Say what a kind of input has to show: the task to help, what is empty of it not to.

    Bars are held against the plain LSTM as it is; the one from the same start is there to explain.
    """
    return None if kind in PLAIN or plain != NONE else kind == TRUE


def speed_rows(found: Mapping[str, Found]) -> list[Row]:
    """Return how fast networks learn with each kind of task input (T4, C1)."""
    rows = []
    curves = {kind: np.array(found[kind]["validation"]) for kind in KINDS}
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
                what = f"{NAMES[kind]}: updates saved on the {name}"
                bar = helps(kind, plain)
                rows += gain_rows("C1", what, reached[plain][0], updates, helps=bar)
            if kind != plain:
                what = f"{NAMES[kind]}: gain in final error / noise floor on the {name}"
                rows += gain_rows("C1", what, curves[plain][:, -1], curves[kind][:, -1])
    return rows


def generalisation_rows(found: Mapping[str, Found], weight_decay: float) -> list[Row]:
    """Return how well unseen means are predicted with each kind of task input (T9, C1, C6).

    Like is held against like: inputs as in training, zero-shot, and inputs that move, adaptation.
    The bars are those of the study's usual, decaying weights.
    """
    rows = []
    unseen = f"unseen means, {'' if weight_decay else 'no '}weight decay"
    for kind in KINDS:
        for way, errors in found[kind]["generalisation"].items():
            what = f"{unseen}, {NAMES[kind]}, {way}"
            rows.append(Row.of("T9", f"{what}: error", errors["block"]))
            rows.append(Row.of("T9", f"{what}: error, last {EDGE} steps", errors["end"]))
            for plain, name in PLAIN.items():
                if kind != plain:
                    reference = found[plain]["generalisation"][way]["block"]
                    bar = helps(kind, plain) if weight_decay else None
                    gain = f"{what}: gain on the {name}, likewise"
                    rows += gain_rows("C1", gain, reference, errors["block"], helps=bar)
    # What the task itself is worth, where an empty input of its width may move as freely.
    true = found[TRUE]["generalisation"][MOVED]["block"]
    for kind in CONTROLS:
        gain = f"{unseen}, {MOVED}: gain of true Z on {NAMES[kind]}"
        rows += gain_rows("C1", gain, found[kind]["generalisation"][MOVED]["block"], true)
    return rows


def modularity_rows(found: Mapping[str, Found]) -> list[Row]:
    """Return how units are divided among tasks with each kind of task input (T6)."""
    rows = []
    for kind in KINDS:
        units = found[kind]["modularity"]
        share = f"{NAMES[kind]}: share of the units' variance that lies between tasks"
        rows.append(Row.of("T6", share, units["task_share"]))
        area = f"{NAMES[kind]}: shared units, mean over thresholds"
        rows.append(Row.of("T6", area, units["area"]))
    true, shuffled = (found[kind]["modularity"]["area"] for kind in (TRUE, "shuffled"))
    return [*rows, *gain_rows("T6", "fewer shared units, true than shuffled Z", shuffled, true)]


def reference_rows(config: ControlsConfig) -> list[Row]:
    """Return what simple predictors score, to read errors after forgetting against (T7)."""
    return [
        Row.of("T7", f"reference error: {name}", [value])
        for name, value in reference_errors(config.toy).items()
    ]


def forgetting_rows(found: Mapping[Schedule, Found]) -> list[Row]:
    """Return the error on the task of the last block but one after the last one (T7, C1)."""
    rows: list[Row] = []
    rates = list(dict.fromkeys(schedule.rate for schedule in found))
    for plain, name in PLAIN.items():
        pooled = {
            (rate, kind): np.exp(
                np.mean(
                    [np.log(ratio(r, plain, kind)) for s, r in found.items() if s.rate == rate], 0
                )
            )
            for rate in rates
            for kind in KINDS
            if kind != plain
        }
        for (rate, kind), values in pooled.items():
            what = f"all schedules, rate {rate:g}: forgetting, {name} / {NAMES[kind]}"
            # At a larger rate than the paper's the task need not protect; the rest never should.
            bar = None if kind == TRUE and rate != rates[0] else helps(kind, plain)
            rows += gain_rows("T7", what, values, np.ones_like(values), ratio=True, helps=bar)
        for rate in rates[1:]:
            what = f"all schedules: {name} / true Z, rate {rates[0]:g} / rate {rate:g}"
            rows += gain_rows("T7", what, pooled[rates[0], TRUE], pooled[rate, TRUE], ratio=True)
    for schedule, result in found.items():
        for plain, name in PLAIN.items():
            for kind in (TRUE, *CONTROLS):
                what = f"{schedule.name}: forgetting, {name} / {NAMES[kind]}"
                errors = forgotten(result, plain), forgotten(result, kind)
                rows += gain_rows("T7", what, *errors, ratio=True)
        for kind in KINDS:
            what = f"{schedule.name}: error on the other task after the last block, {NAMES[kind]}"
            rows.append(Row.of("T7", what, forgotten(result, kind)))
        for kind in (*PLAIN, TRUE):
            errors, untrained = result["errors"][kind], result["untrained"][kind]
            told = continual_learning(errors, untrained, errors=True)
            for name in ("backward", "forward"):
                what = f"{schedule.name}: {name} transfer, fall of the error, {NAMES[kind]}"
                rows.append(Row.of("T7", what, getattr(told, name).values))
    return rows


def forgotten(result: Found, kind: str) -> np.ndarray:
    """Return the error on the task of the last block but one after the last, ``(seeds,)``."""
    return np.array(result["errors"][kind])[:, 1, 0]


def ratio(result: Found, plain: str, kind: str) -> np.ndarray:
    """Return a plain LSTM's error after forgetting over that of a kind of input, ``(seeds,)``."""
    return forgotten(result, plain) / forgotten(result, kind)


def conditioner_rows(found: Mapping[str, Found]) -> list[Row]:
    """Return the ways to tell a network its task, at equal size (C5)."""
    rows = []
    usual = found["concat"]
    for way, result in found.items():
        curves, size = np.array(result["validation"]), result["hidden_size"]
        updates, never = first_below(curves, NEAR, CHECK_EVERY)
        note = f"{result['parameters']} parameters, {size} hidden units"
        rows.append(Row.of("C5", f"{way}: final error / noise floor", curves[:, -1], note=note))
        what = f"{way}: updates to within 2 % of the noise floor"
        rows.append(Row.of("C5", what, updates, note=never))
        for name, values in result["divergence"].items():
            what = f"{way}: filtered KL, {name}"
            rows.append(Row.of("C5", what, values))
            if way != "concat":
                what += ": gain on concat"
                rows += gain_rows("C5", what, usual["divergence"][name], values)
    return rows


def regularizer_rows(found: Mapping[str, Found]) -> list[Row]:
    """Return entropy against L2 as the regulariser of the latent update (C2, M6)."""
    rows = []
    for case, result in found.items():
        for method in (ENTROPY, L2, L2_CHOSEN):
            scores = result[method]
            note = f"rate {scores['rate']:g}, weight {scores['weight']:g}"
            for key, what in (
                ("divergence", "KL of single steps"),
                ("filtered", "filtered KL"),
                ("accuracy", "filtered accuracy"),
            ):
                rows.append(Row.of("C2", f"{case}, {method}: {what}", scores[key], note=note))
            if method != ENTROPY:
                what = f"{case}: filtered KL, gain of the entropy on {method}"
                rows += gain_rows("C2", what, scores["filtered"], result[ENTROPY]["filtered"])
        if case != "K = 2":  # two tasks have one direction
            what = f"{case}: cosine of both gradients where the entropy led"
            rows.append(Row.of("M6", what, result["cosine"]))
    return rows
