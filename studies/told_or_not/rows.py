"""The table of one kind of network: what it scored, seed by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from studies.told_or_not.config import FitConfig
from studies.core.table import Row


class SeedScores(NamedTuple):
    """What one network scored, and what the generator of the data itself scores, by exact filter.

    Attributes:
        held_out: log p(x) of each held-out sequence, ``(B,)``, in nats.
        held_out_best: of the generator.
        code_length: of the training stream, in nats.
        code_length_best: of the generator.
        error: mean squared error of the next step, held-out.
        error_best: of the generator.
        right: share of held-out steps whose task is named right by the filter; NaN without tasks.
        milliseconds: of the processor for a weight update, median.
    """

    held_out: np.ndarray
    held_out_best: np.ndarray
    code_length: float
    code_length_best: float
    error: float
    error_best: float
    right: float
    milliseconds: float


def fit_rows(config: FitConfig, scores: Sequence[SeedScores]) -> list[Row]:
    """Return the rows; the statement of each is the criterion it belongs to."""
    steps = config.test_length
    best = np.mean([s.held_out_best.mean() / steps for s in scores])
    best_code = np.mean([s.code_length_best for s in scores])
    error = np.mean([s.error_best for s in scores])
    # A network without tasks predicts one Normal; where tasks may switch, the best has two.
    one_normal = -0.5 * math.log(2 * math.pi * math.e * error)
    told = config.task in ("labels", "shuffled")
    after = "labels of a batch told once it is predicted; " if told else ""
    rows = [
        Row.of(
            "held-out",
            "log predictive density of the next step, tasks summed out, nats per step",
            [s.held_out.mean() / steps for s in scores],
            note=f"the generator's own filter: {best:.4f}; one Normal around its mean, of constant "
            f"width: {one_normal:.4f}",
        ),
        Row.of(
            "log evidence",
            "of all held-out sequences given the weights, tasks summed out, nats",
            [s.held_out.sum() for s in scores],
            note="the same in total: differences are log Bayes factors of two sets of weights",
        ),
        Row.of(
            "prequential",
            "code length of the training stream, each batch before it is learned, nats",
            [s.code_length for s in scores],
            note=f"{after}the generator's own filter: {best_code:.0f}",
        ),
        Row.of(
            "",
            "squared error of the next step, held-out",
            [s.error for s in scores],
            note=f"the generator's own filter: {error:.4f}",
        ),
    ]
    if config.task != "none":
        what = "tasks named right by the filter, held-out, share of steps"
        rows.append(Row.of("", what, [s.right for s in scores]))
    rows.append(
        Row.of(
            "",
            "milliseconds of the processor per weight update, median",
            [s.milliseconds for s in scores],
        )
    )
    return rows
