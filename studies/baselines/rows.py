"""Rows of the rivals at the price of one pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from studies.baselines.measure import (
    ACCURACY,
    CENTROID,
    KINDS,
    KL,
    KL_TEMPERED,
    LOG_SCORE,
    METHODS,
    PASSES,
)
from studies.core.table import Row

STATEMENT = "C5"


def rival_rows(found: Mapping[str, Any]) -> list[Row]:
    """Return accuracy, log score and divergences of every method on every kind of network.

    Args:
        found: what ``rivals.measure`` returned.
    """
    rows = []
    for kind in KINDS:
        for method in METHODS:
            values = found[kind][method]
            note = passes_in_words({sort: values[sort][0] for sort in PASSES})
            if method == CENTROID:
                note += f"; layers chosen: {', '.join(sorted(set(values['layer'])))}"
            name = f"{kind}: {method}"
            accuracy = [100 * share for share in values[ACCURACY]]
            rows.append(Row.of(STATEMENT, f"{name}: accuracy, %", accuracy, note=note))
            for what in (LOG_SCORE, KL, KL_TEMPERED):
                rows.append(Row.of(STATEMENT, f"{name}: {what}, nats", values[what]))
    return rows


def passes_in_words(passes: Mapping[str, int]) -> str:
    """Write passes as a note.

    >>> passes_in_words({"forward": 1, "backward": 1, "check": 0})
    '1 forward, 1 backward'
    >>> passes_in_words({"forward": 1, "backward": 0, "check": 1})
    '1 forward, 1 run for the prior'
    """
    words = [f"{passes['forward']} forward"]
    if passes["backward"]:
        words.append(f"{passes['backward']} backward")
    if passes["check"]:
        words.append(f"{passes['check']} run for the prior")
    return ", ".join(words)
