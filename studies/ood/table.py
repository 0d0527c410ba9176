"""The table of the out-of-distribution study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gbi_pyro.metrics.auroc import AUROC
from gbi_pyro.metrics.intervals import Interval
from gbi_pyro.metrics.table import format_number
from studies.core.table import Row, Target
from studies.ood.detectors import BASELINE, MAXIMUM
from studies.ood.record import UPSIDE_DOWN, OODSeed


@dataclass(frozen=True)
class Case:
    """One detection problem: which images are in and out of distribution, and how prepared.

    Attributes:
        inside: name of the set trained on.
        outside: name of the other images.
        normalised: whether images are normalised one by one.
        records: what was found, seed by seed.
    """

    inside: str
    outside: str
    normalised: bool
    records: Sequence[OODSeed]

    @property
    def title(self) -> str:
        """The case in words."""
        how = "normalised" if self.normalised else "raw"
        return f"{self.inside} -> {self.outside}, {how}"

    def aurocs(self, score: str) -> list[AUROC]:
        """Return the AUROC of a score, seed by seed."""
        return [record.aurocs[self.outside][score] for record in self.records]

    def best_on_validation(self) -> list[str]:
        """Return the score that is best on this case's own validation images, seed by seed."""
        return [max(r.validation, key=r.validation.__getitem__) for r in self.records]

    def targets(self) -> dict[str, Target]:
        """Return what scores have to reach where the paper's setting is the same."""
        if not self.normalised:
            return {}
        if (self.inside, self.outside) == ("mnist", "fashion"):
            return {MAXIMUM: Target(0.96, at_least=True), "default": Target(0.997, at_least=True)}
        if (self.inside, self.outside) == ("fashion", "mnist"):
            baseline = float(np.mean([d.value for d in self.aurocs(BASELINE)]))
            return {"default": Target(max(0.997, baseline), at_least=True)}
        if (self.inside, self.outside) == ("mnist", UPSIDE_DOWN):
            return {"default": Target(0.93, at_least=True)}
        return {}

    def rows(self, default: str) -> list[Row]:
        """Return every score of the case, the default again, and the best on its validation."""
        targets, own = self.targets(), self.best_on_validation()
        best = [self.aurocs(score)[i] for i, score in enumerate(own)]
        names = " / ".join(dict.fromkeys(own))
        return [
            *(
                self._row(score, self.aurocs(score), targets.get(score))
                for score in self.records[0].aurocs[self.outside]
            ),
            self._row(f"default ({default})", self.aurocs(default), targets.get("default")),
            self._row(f"best on this case's own validation ({names})", best),
        ]

    def _row(self, name: str, found: list[AUROC], target: Target | None = None) -> Row:
        """Return the AUROC of a score; its interval holds those of all seeds."""
        values = tuple(d.value for d in found)
        low, high = min(d.low for d in found), max(d.high for d in found)
        fpr = float(np.mean([d.fpr_at_95 for d in found]))
        note = f"interval: bootstrap over images; FPR at 95 %: {format_number(fpr)}"
        if name in self.records[0].validation:
            chosen_by = float(np.mean([record.validation[name] for record in self.records]))
            note += f"; on altered validation images: {chosen_by:.3f}"
        interval = Interval(float(np.mean(values)), low, high, values)
        return Row.of("I4", f"{self.title}: AUROC, {name}", values, target, note, interval)


def default_score(cases: Sequence[Case]) -> str:
    """Return the one score to offer: best on altered validation images over the whole study.

    The mean of its AUROC there, over every set trained on, raw and normalised, and every seed. No
    image that is tested on has a say.
    """
    records = {(c.inside, c.normalised): c.records for c in cases}
    every = [record.validation for of_set in records.values() for record in of_set]
    return max(every[0], key=lambda score: float(np.mean([found[score] for found in every])))
