"""The table of the toy study: every claim with its measured values and its target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from studies.core.blocks import reference_errors
from studies.core.table import Row, Target
from studies.core.unseen_means import EDGE, UNSEEN, Rate
from studies.toy.adaptation import GBI, inside_hull
from studies.toy.blocks import BlockRun
from studies.toy.config import NOISY, ToyConfig
from studies.toy.record import CONDITIONED, PLAIN, ToySeed
from studies.toy.responses import LONG_BLOCKS, flip_latency, log_odds

EXACT_TO_ROUNDING = Target(1e-6, "worst")
Records = Sequence[ToySeed]


def toy_table(config: ToyConfig, rates: Mapping[str, Rate], found: Records) -> list[Row]:
    """Return every row.

    Args:
        config: the study.
        rates: chosen for unseen means, by method.
        found: the record of each seed.
    """
    return [
        *_identity_rows(found),
        *_training_rows(found),
        *_block_rows(config, found),
        *_response_rows(config, found),
        *_online_rows(found),
        *_unseen_rows(config, rates, found),
        *_evidence_rows(found),
        *_semi_markov_rows(found),
        *_predictor_rows(found),
    ]


def _identity_rows(found: Records) -> list[Row]:
    """Return what must hold to rounding (M1, M2, M4, M7, M8), and the cosine of M6."""
    identities = [r.identities for r in found]

    def exact(claim: str, what: str, values: Sequence[float]) -> Row:
        return Row.of(claim, what, values, EXACT_TO_ROUNDING)

    rows = [
        exact("M2", "|f_1(exact q) - log evidence|, max", [i.objective for i in identities]),
        exact(
            "M7",
            "affine, K = 2, any prior: |one step - exact|, max",
            [i.two_tasks for i in identities],
        ),
    ]
    for sigma, by_estimate in identities[0].five_tasks.items():
        for name in by_estimate:
            held = name in ("second order", "calibrated")
            values = [max(i.five_tasks[sigma][name], 0.0) for i in identities]  # rounding
            what = f"affine, K = 5, sigma {sigma}: KL, one step {name}"
            rows.append(Row.of("M7", what, values, EXACT_TO_ROUNDING if held else None))
    for norm in identities[0].cosines:
        what = f"cosine of entropy and L2 gradients, K = 10, |y| = {norm:g}"
        rows.append(Row.of("M6", what, [i.cosines[norm] for i in identities]))
    return [
        *rows,
        exact(
            "M1",
            "log p(x, z), z observed and z relaxed: relative difference",
            [i.observed for i in identities],
        ),
        exact("M4", "change of a weight by a latent update, max", [i.weights for i in identities]),
        exact(
            "M8",
            "change of the evidence by a changed future, max",
            [i.future for i in identities],
        ),
    ]


def _training_rows(found: Records) -> list[Row]:
    """Return how fast the networks learn (T4)."""
    curves = [r.curves[CONDITIONED] for r in found]
    updates = np.array([c.updates_to_floor for c in curves])
    seconds = updates * np.array([c.seconds for c in curves])
    what = f"{CONDITIONED}: updates to within 2 % of the noise floor"
    clock = f"{CONDITIONED}: seconds for 20 seeds to get there"
    return [
        Row.of("T4", what, updates, Target(100, "worst")),
        Row.of("T4", clock, 20 * seconds, Target(20.0, "mean")),
        *(
            Row.of(
                "T4",
                f"{name}: final error / noise floor",
                [r.curves[name].final_over_floor for r in found],
            )
            for name in (CONDITIONED, PLAIN)
        ),
    ]


def _block_rows(config: ToyConfig, found: Records) -> list[Row]:
    """Return learning, sharing and forgetting block by block (T5-T7)."""
    measures: list[tuple[str, str, Callable[[BlockRun], float]]] = [
        ("T5", "error per block, first 5 blocks", lambda r: r.block_mse[:5].mean()),
        ("T5", "error per block, last 5 blocks", lambda r: r.block_mse[-5:].mean()),
        ("T6", "shared units, last 20 blocks", lambda r: _known(r.shared_units[-20:])),
        ("T6", "shared, silent units counted", lambda r: _known(r.shared_of_all[-20:])),
        ("T7", "error on the other task after the last block", lambda r: r.forgetting),
    ]
    rows = [
        Row.of(claim, f"{name}: {what}", [measure(r.blocks[name]) for r in found])
        for claim, what, measure in measures
        for name in (CONDITIONED, PLAIN)
    ]
    simple = reference_errors(config.means, config.sigma)
    reference = ", ".join(f"{name} {error:.2f}" for name, error in simple.items())
    ratio = [r.blocks[CONDITIONED].forgetting / r.blocks[PLAIN].forgetting for r in found]
    note = f"paper (reported elsewhere) .24 / .30 = .80; here: {reference}"
    return [*rows, Row.of("T7", f"forgetting, {CONDITIONED} / {PLAIN}", ratio, note=note)]


def _known(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _response_rows(config: ToyConfig, found: Records) -> list[Row]:
    """Return what gradients at maximum entropy show (T8, T11)."""
    responses = [r.responses for r in found]
    middle = (config.means[0] + config.means[-1]) / 2
    return [
        Row.of(
            "T8",
            "steps after a switch until the gradient at u flips",
            [flip_latency(r.gradient, r.z) for r in responses],
            note="0: with the first observation",
        ),
        Row.of(
            "T8",
            "steps after a switch until the exact filter flips",
            [flip_latency(r.exact, r.z) for r in responses],
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
            [_correlation(log_odds(r.gradient), log_odds(r.log_likelihood)) for r in responses],
        ),
    ]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def _online_rows(found: Records) -> list[Row]:
    """Return what changes when Z is optimised online: the two modes of a network (T8, M11).

    Z before x_t is what is known from x_1..t-1: it compares with the exact filter one step earlier.
    """
    behind = [r.values[:, 1:] for r in found]
    ahead = [r.responses.exact[:, :-1] for r in found]
    return [
        Row.of(
            "T8",
            "steps after a switch until the optimised Z flips",
            [flip_latency(r.values, r.responses.z) for r in found],
            note="Z before x_t is seen: 1 is the least",
        ),
        Row.of(
            "T8",
            "correlation, optimised Z and exact posterior",
            [
                _correlation(z[..., 1], np.exp(q)[..., 1])
                for z, q in zip(behind, ahead, strict=True)
            ],
        ),
        Row.of(
            "T8",
            "correlation, log odds of optimised Z and exact log odds",
            [
                _correlation(log_odds(np.log(z)), log_odds(q))
                for z, q in zip(behind, ahead, strict=True)
            ],
        ),
        Row.of(
            "M11",
            "error with Z at maximum entropy (default mode)",
            [np.square(r.responses.middle - r.responses.x).mean() for r in found],
        ),
        Row.of(
            "M11",
            "error with Z optimised online (task-engaged mode)",
            [np.square(r.predicted - r.responses.x).mean() for r in found],
        ),
    ]


def _unseen_rows(config: ToyConfig, rates: Mapping[str, Rate], found: Records) -> list[Row]:
    """Return generalisation to unseen means (T9, T10)."""
    inside, rows = inside_hull(config), []
    for name in found[0].unseen:
        errors = np.stack([r.unseen[name].error for r in found])
        target = Target(0.015) if name == GBI else None
        note = str(rates[name]) if name in rates else ""
        for what, part, held in (
            (f"last {EDGE} of {config.new_block} steps", errors[..., -EDGE:], target),
            (f"first {EDGE} steps", errors[..., :EDGE], None),
            (f"last {EDGE}, inside the hull", errors[:, inside, -EDGE:], None),
            (f"last {EDGE}, outside", errors[:, ~inside, -EDGE:], None),
        ):
            what = f"unseen means, {name}: {what}"
            rows.append(Row.of("T9", what, part.mean((1, 2)), held, note))
            note = ""
        slope = [np.polyfit(UNSEEN.numpy(), r.unseen[name].predicted, 1)[0] for r in found]
        rows.append(Row.of("T10", f"unseen means, {name}: slope, predicted on true mean", slope))
    return rows


def _evidence_rows(found: Records) -> list[Row]:
    """Return the filtered divergences of every kind of network, and their cost (T12, M10)."""
    targets = {
        ("K = 2, sigma 0.1", "one step"): Target(0.001, "median"),
        ("K = 2, sigma 0.3", "one step"): Target(0.004, "median"),
        ("K = 4, sigma 0.1", "calibrated"): Target(0.05, "median"),
        ("K = 4, sigma 0.1, mixtures", "calibrated"): Target(0.001, "median"),
    }
    rows = []
    for kind, by_name in found[0].estimates.items():
        for name, first in by_name.items():
            values = [r.estimates[kind][name].divergence for r in found]
            cost = f"{first.forward} forward, 1 of them for the states; {first.backward} backward"
            what = f"{kind}: filtered KL, {name}"
            rows.append(Row.of("T12", what, values, targets.get((kind, name)), cost))
    return rows


def _semi_markov_rows(found: Records) -> list[Row]:
    """Return the filtered divergences on blocks that have a shortest length (T3, T12)."""
    blocks = f"blocks of {LONG_BLOCKS.minimum}-{LONG_BLOCKS.maximum} steps"
    return [
        Row.of(
            "T12",
            f"K = 2, sigma {NOISY:g}, {blocks}: filtered KL, {name}",
            [r.semi_markov[name] for r in found],
            note="the exact filter knows the block lengths",
        )
        for name in found[0].semi_markov
    ]


def _predictor_rows(found: Records) -> list[Row]:
    """Return the predictors on the switching stream (T13)."""
    best = np.array([r.errors["exact filter"] for r in found])
    rows = []
    for name in found[0].errors:
        errors = np.array([r.errors[name] for r in found])
        note = f"{(errors / best).mean():.2f} of the exact filter's"
        rows.append(Row.of("T13", f"error, {name}", errors, note=note))
    return rows
