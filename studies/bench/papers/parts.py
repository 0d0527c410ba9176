"""The measurements of the papers as parts of a study, and their rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from studies.bench.papers import (
    ambiguity,
    amortised,
    in_context,
    point,
    predictor,
    streaming,
)
from studies.bench.papers.config import PapersConfig
from studies.core.protocol import Found, Part, Report
from studies.core.table import Row


class Paper(NamedTuple):
    """A measurement: what it returns of a seed, and the rows of several.

    Attributes:
        record: the dataclass of one seed.
        measure: from seed, configuration and report to a record.
        rows: from records, in the order of the seeds, to rows.
    """

    record: type[Any]
    measure: Callable[[int, PapersConfig, Report], Any]
    rows: Callable[[Any], list[Row]]


PAPERS = {
    "predictor": Paper(predictor.Predictor, predictor.measure, predictor.rows),
    "point": Paper(point.PointOrDistribution, point.measure, point.rows),
    "amortised": Paper(amortised.Amortised, amortised.measure, amortised.rows),
    "in-context": Paper(in_context.InContext, in_context.measure, in_context.rows),
    "ambiguity": Paper(ambiguity.Ambiguity, ambiguity.measure, ambiguity.rows),
    "streaming": Paper(streaming.Streamed, streaming.measure, streaming.rows),
}
"""The measurements by name, in the order of the table."""


def paper_parts(config: PapersConfig) -> list[Part[Any]]:
    """Return a part for each measurement; its units depend on the configuration."""
    return [
        Part.of_seed(_part(name), paper.record, partial(_measured, name, config), config)
        for name, paper in PAPERS.items()
    ]


def paper_rows(found: Found) -> list[Row]:
    """Return the rows of all measurements, from the records of their parts."""
    return [row for name, paper in PAPERS.items() for row in paper.rows(found[_part(name)])]


def _part(name: str) -> str:
    return f"papers: {name}"


def _measured(name: str, config: PapersConfig, seed: int, report: Report) -> Any:
    return PAPERS[name].measure(seed, config, report)
