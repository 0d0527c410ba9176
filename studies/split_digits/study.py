"""The study of the split digits: five tasks in sequence, with and without a task input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from studies.core.image_data import image_sets, sets_checksum
from studies.core.protocol import Found, Report, Study
from studies.core.table import Row
from studies.split_digits.config import SplitDigitsConfig
from studies.split_digits.figures import figure_digits
from studies.split_digits.measure import NETWORKS, NetworkScores, measure_network
from studies.split_digits.table import ByNetwork, rate_rows


@dataclass(frozen=True)
class SplitDigitsSeed:
    """Every kind of network of one seed, by rate and by name in ``NETWORKS``."""

    scores: dict[float, dict[str, NetworkScores]]


class SplitDigitsStudy(Study[SplitDigitsConfig]):
    """What a task input protects when five tasks are learned one after another."""

    name = "split_digits"
    title = "Five tasks of two digits learned in sequence, with and without a task input"
    config_type = SplitDigitsConfig
    reads_files = True

    def inputs(self) -> dict[str, Any]:
        """Return the checksum of the images."""
        return {"images": sets_checksum(self.config.dataset, self.data)}

    def measure(self, seed: int, report: Report) -> SplitDigitsSeed:
        """Train and score every kind of network at every rate."""
        config, sets = self.config, image_sets(self.config.dataset, self.data, seed)
        scores: dict[float, dict[str, NetworkScores]] = {rate: {} for rate in config.rates}
        for rate in config.rates:
            for network in NETWORKS:
                report(f"rate {rate:g}: {network}")
                scores[rate][network] = measure_network(config, sets, network, rate, seed)
        return SplitDigitsSeed(scores)

    def table(self, found: Found) -> list[Row]:
        """Return accuracies, forgetting and transfers, and their differences to the baseline."""
        return [row for rate, one in self._by_rate(found).items() for row in rate_rows(rate, one)]

    def figures(self, found: Found) -> Iterator[tuple[str, Figure]]:
        """Draw what is left of the tasks after each block and at the end."""
        yield "digits", figure_digits(self._by_rate(found))

    def _by_rate(self, found: Found) -> dict[float, ByNetwork]:
        records: list[SplitDigitsSeed] = list(found[self.name])
        return {
            rate: {network: [r.scores[rate][network] for r in records] for network in NETWORKS}
            for rate in self.config.rates
        }
