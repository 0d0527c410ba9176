"""The table of the toy study: every statement with its measured values and its bar."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from studies.core.table import Bar, Row
from studies.toy import affine
from studies.toy.adaptation import EDGE, GBI, Adaptation, inside_hull
from studies.toy.blocks import BlockRun, reference_errors
from studies.toy.config import NOISY, ToyConfig
from studies.toy.evidence import LONG_BLOCKS, Responses, flip_latency, log_odds
from studies.toy.training import Trained, generator
from gbi_pyro.logjoint import Passes

TOLD, PLAIN = "GBI-LSTM", "LSTM"
EXACT_TO_ROUNDING = Bar(1e-6, "worst")


def affine_rows(config: ToyConfig) -> list[Row]:
    """Return what must hold to rounding on the affine Gaussian model (M2, M6, M7)."""
    draws = [generator(s, "test") for s in config.all_seeds]
    two = [affine.two_task_difference(d) for d in draws]
    rows = [
        Row.of("M2", "|f_1(exact q) - log evidence|, max", [t[1] for t in two], EXACT_TO_ROUNDING),
        Row.of(
            "M7",
            "affine, K = 2, any prior: |one step - exact|, max",
            [t[0] for t in two],
            EXACT_TO_ROUNDING,
        ),
    ]
    for sigma in (0.1, 0.3):
        five = [affine.five_task_divergences(d, sigma) for d in draws]
        for name in five[0]:
            held = name in ("second order", "calibrated")
            values = [max(f[name], 0.0) for f in five]  # rounding can fall below zero
            what = f"affine, K = 5, sigma {sigma}: KL, one step {name}"
            rows.append(Row.of("M7", what, values, EXACT_TO_ROUNDING if held else None))
    for norm in (0.1, 1.0, 5.0, 20.0):
        what = f"cosine of entropy and L2 gradients, K = 10, |y| = {norm:g}"
        rows.append(Row.of("M6", what, [affine.penalty_cosine(norm, d) for d in draws]))
    return rows


def identity_rows(identities: Sequence[Mapping[str, float]]) -> list[Row]:
    """Return what must not differ on trained networks (M1, M4, M8)."""
    whats = {
        "observed": ("M1", "log p(x, z), z observed and z relaxed: relative difference"),
        "weights": ("M4", "change of a weight by a latent update, max"),
        "future": ("M8", "change of the evidence by a changed future, max"),
    }
    return [
        Row.of(statement, what, [i[key] for i in identities], EXACT_TO_ROUNDING)
        for key, (statement, what) in whats.items()
    ]


def training_rows(told: Sequence[Trained], plain: Sequence[Trained]) -> list[Row]:
    """Return how fast the networks learn (T4)."""
    updates = np.array([t.updates_to_floor for t in told])
    seconds = updates * np.array([t.seconds for t in told])
    what = f"{TOLD}: updates to within 2 % of the noise floor"

    def end(trained: Trained) -> float:
        return float(trained.validation_mse[-1] / trained.floor)

    return [
        Row.of("T4", what, updates, Bar(100, "worst")),
        Row.of("T4", f"{TOLD}: seconds for 20 seeds to get there", 20 * seconds, Bar(20.0, "mean")),
        Row.of("T4", f"{TOLD}: final error / noise floor", [end(t) for t in told]),
        Row.of("T4", f"{PLAIN}: final error / noise floor", [end(t) for t in plain]),
    ]


def block_rows(config: ToyConfig, runs: Mapping[str, Sequence[BlockRun]]) -> list[Row]:
    """Return learning, sharing and forgetting block by block (T5-T7)."""
    measures: list[tuple[str, str, Callable[[BlockRun], float]]] = [
        ("T5", "error per block, first 5 blocks", lambda r: r.block_mse[:5].mean()),
        ("T5", "error per block, last 5 blocks", lambda r: r.block_mse[-5:].mean()),
        ("T6", "shared units, last 20 blocks", lambda r: _known(r.shared_units[-20:])),
        ("T6", "shared, silent units counted", lambda r: _known(r.shared_of_all[-20:])),
        ("T7", "error on the other task after the last block", lambda r: r.forgetting),
    ]
    rows = [
        Row.of(statement, f"{name}: {what}", [measure(r) for r in runs[name]])
        for statement, what, measure in measures
        for name in runs
    ]
    reference = ", ".join(f"{k} {v:.2f}" for k, v in reference_errors(config).items())
    ratio = [a.forgetting / b.forgetting for a, b in zip(runs[TOLD], runs[PLAIN], strict=True)]
    note = f"paper (reported elsewhere) .24 / .30 = .80; here: {reference}"
    return [*rows, Row.of("T7", f"forgetting, {TOLD} / {PLAIN}", ratio, note=note)]


def _known(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def evidence_rows(
    estimates: Mapping[str, Sequence[Mapping[str, tuple[float, Passes]]]],
) -> list[Row]:
    """Return the filtered divergences of every kind of network, and their price (T12, M10)."""
    bars = {
        ("K = 2, sigma 0.1", "one step"): Bar(0.001, "median"),
        ("K = 2, sigma 0.3", "one step"): Bar(0.004, "median"),
        ("K = 4, sigma 0.1", "calibrated"): Bar(0.05, "median"),
        ("K = 4, sigma 0.1, mixtures", "calibrated"): Bar(0.001, "median"),
    }
    rows = []
    for kind, by_seed in estimates.items():
        for name, (_, passes) in by_seed[0].items():
            values = [found[name][0] for found in by_seed]
            price = (
                f"{passes.forward} forward, 1 of them for the states; {passes.backward} backward"
            )
            what = f"{kind}: filtered KL, {name}"
            rows.append(Row.of("T12", what, values, bars.get((kind, name)), price))
    return rows


def semi_markov_rows(divergences: Sequence[Mapping[str, float]]) -> list[Row]:
    """Return the filtered divergences on blocks that have a shortest length (T3, T12)."""
    blocks = f"blocks of {LONG_BLOCKS.minimum}-{LONG_BLOCKS.maximum} steps"
    return [
        Row.of(
            "T12",
            f"K = 2, sigma {NOISY:g}, {blocks}: filtered KL, {name}",
            [d[name] for d in divergences],
            note="the exact filter knows the block lengths",
        )
        for name in divergences[0]
    ]


def response_rows(config: ToyConfig, responses: Sequence[Responses]) -> list[Row]:
    """Return what gradients at maximum entropy show (T8, T11)."""
    middle = (config.means[0] + config.means[-1]) / 2

    def correlation(r: Responses) -> float:
        odds = log_odds(r.evidence).ravel(), log_odds(r.log_likelihood).ravel()
        return float(np.corrcoef(*odds)[0, 1])

    def exact_latency(r: Responses) -> float:
        return flip_latency(r.exact.logits().numpy(), r.z)

    return [
        Row.of(
            "T8",
            "steps after a switch until the gradient at u flips",
            [flip_latency(r.evidence, r.z) for r in responses],
            note="0: with the first observation",
        ),
        Row.of(
            "T8",
            "steps after a switch until the exact filter flips",
            [exact_latency(r) for r in responses],
        ),
        Row.of(
            "T11",
            "mean output at maximum entropy",
            [r.middle.mean() for r in responses],
            note=f"the middle is {middle:g}",
        ),
        Row.of(
            "T11",
            "correlation, gradient at u and log likelihood ratio",
            [correlation(r) for r in responses],
        ),
    ]


def engaged_rows(
    responses: Sequence[Responses], predicted: np.ndarray, values: np.ndarray
) -> list[Row]:
    """Return what changes when Z is optimised online: the two modes of a network (T8, M11).

    Args:
        responses: by seed.
        predicted: predictions with the task optimised, ``(seeds, sequences, time)``.
        values: that task, as it stood before x_t was seen, ``(seeds, sequences, time, K)``.
    """
    # Z before x_t is what is known from x_1..t-1: its peer is the exact filter one step earlier.
    ahead = [r.exact.probs().numpy()[:, :-1, 1].ravel() for r in responses]
    behind = [v[:, 1:, 1].ravel() for v in values]
    return [
        Row.of(
            "T8",
            "steps after a switch until the optimised Z flips",
            [flip_latency(v, r.z) for v, r in zip(values, responses, strict=True)],
            note="Z before x_t is seen: 1 is the least",
        ),
        Row.of(
            "T8",
            "correlation, optimised Z and exact posterior",
            [np.corrcoef(b, a)[0, 1] for b, a in zip(behind, ahead, strict=True)],
        ),
        Row.of(
            "T8",
            "correlation, log odds of optimised Z and exact log odds",
            [
                np.corrcoef(
                    log_odds(np.log(v[:, 1:])).ravel(),
                    log_odds(r.exact.logits().numpy()[:, :-1]).ravel(),
                )[0, 1]
                for v, r in zip(values, responses, strict=True)
            ],
        ),
        Row.of(
            "M11",
            "error with Z at maximum entropy (default mode)",
            [np.square(r.middle - r.x).mean() for r in responses],
        ),
        Row.of(
            "M11",
            "error with Z optimised online (task-engaged mode)",
            [np.square(p - r.x).mean() for p, r in zip(predicted, responses, strict=True)],
        ),
    ]


def adaptation_rows(config: ToyConfig, adaptation: Adaptation) -> list[Row]:
    """Return generalisation to unseen means (T9, T10)."""
    inside, rows = inside_hull(config), []
    for name, errors in adaptation.errors.items():
        bar = Bar(0.015) if name == GBI else None
        chosen = adaptation.chosen.get(name)
        note = f"rate {chosen.rate:g}, horizon {chosen.horizon}, by validation" if chosen else ""
        for what, part, held in (
            (f"last {EDGE} of {config.new_block} steps", errors[..., -EDGE:], bar),
            (f"first {EDGE} steps", errors[..., :EDGE], None),
            (f"last {EDGE}, inside the hull", errors[:, inside, -EDGE:], None),
            (f"last {EDGE}, outside", errors[:, ~inside, -EDGE:], None),
        ):
            error = part.mean((1, 2))
            rows.append(Row.of("T9", f"unseen means, {name}: {what}", error, held, note))
            note = ""
        slope = [np.polyfit(adaptation.means, p, 1)[0] for p in adaptation.predicted[name]]
        rows.append(Row.of("T10", f"unseen means, {name}: slope, predicted on true mean", slope))
    return rows


def rival_rows(errors: Mapping[str, np.ndarray]) -> list[Row]:
    """Return the predictors on the switching stream (T13)."""
    best = errors["exact filter"]
    return [
        Row.of("T13", f"error, {name}", e, note=f"{(e / best).mean():.2f} of the exact filter's")
        for name, e in errors.items()
    ]
