"""The table of one kind of network: what it scores, seed by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from studies.core.table import Row
from studies.told_or_not.config import ToldOrNotConfig
from studies.told_or_not.measure import ToldOrNotSeed


def told_or_not_table(config: ToldOrNotConfig, records: Sequence[ToldOrNotSeed]) -> list[Row]:
    """Return the rows, with what the generator of the data scores in their notes."""
    steps = config.test_length
    best = np.mean([r.held_out_best.mean() / steps for r in records])
    best_code = np.mean([float(r.cost_best.sum()) for r in records])
    error = np.mean([r.error_best for r in records])
    # A network without tasks predicts one Normal; where tasks may switch, the best has two.
    one_normal = -0.5 * math.log(2 * math.pi * math.e * error)
    labelled = config.task in ("labels", "shuffled")
    after = "labels of a batch given once it is predicted; " if labelled else ""
    rows = [
        Row.of(
            "",
            "held-out log predictive density of the next step, tasks summed out, nats per step",
            [r.held_out.mean() / steps for r in records],
            note=f"the generator's own filter: {best:.4f}; one Normal around its mean, of constant "
            f"width: {one_normal:.4f}",
            better="higher",
        ),
        Row.of(
            "",
            "log evidence of all held-out sequences given the weights, tasks summed out, nats",
            [r.held_out.sum() for r in records],
            note="the same in total: differences are log Bayes factors of two sets of weights",
            better="higher",
        ),
        Row.of(
            "",
            "prequential code length of the training stream, each batch before it is learned, nats",
            [r.cost.sum() for r in records],
            note=f"{after}the generator's own filter: {best_code:.0f}",
            better="lower",
        ),
        Row.of(
            "",
            "squared error of the next step, held-out",
            [r.error for r in records],
            note=f"the generator's own filter: {error:.4f}",
            better="lower",
        ),
        Row.of(
            "",
            "milliseconds of the processor per weight update, median",
            [r.milliseconds for r in records],
            better="lower",
        ),
    ]
    if config.task != "none":
        what = "accuracy of the filter's task, held-out, fraction of steps"
        rows.insert(4, Row.of("", what, [r.accuracy for r in records], better="higher"))
    return rows
