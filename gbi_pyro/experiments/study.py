"""What the studies share: their seeds, how they say what they are at, what they return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gbi_pyro.experiments.results import Row

Progress = Callable[[str], None]
"""Called with what is being done, once for each of the study's ``num_stages`` stages."""


class Seeds:
    """A configuration with ``seeds``, how many, and ``first_seed``.

    >>> class Config(Seeds):
    ...     seeds, first_seed = 3, 5
    >>> Config().all_seeds
    range(5, 8)
    """

    seeds: int
    first_seed: int

    @property
    def all_seeds(self) -> range:
        """The seeds of the run."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def check_at_least_one(self, *names: str) -> None:
        """Refuse counts that are none.

        Raises:
            ValueError: for a field below 1.
        """
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class StudyResults:
    """Everything a study found.

    Attributes:
        rows: the table, every number.
        folder: where it lies on disk.
        figures: the figures' files.
    """

    rows: list[Row]
    folder: Path
    figures: list[Path]

    @property
    def bars(self) -> list[Row]:
        """The rows that have a bar."""
        return [row for row in self.rows if row.bar is not None]


def bars_first(rows: list[Row]) -> list[Row]:
    """Return the rows with those first that have a bar."""
    return sorted(rows, key=lambda row: row.bar is None)
