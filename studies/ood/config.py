"""The configuration of the out-of-distribution study."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from studies.core.image_networks import ImageConfig


@dataclass(frozen=True)
class OODConfig(ImageConfig):
    """Everything the out-of-distribution study depends on; ``dataset`` is in distribution.

    Attributes:
        other: a second set: out of distribution for networks trained on ``dataset``, and the
            other way round; None for none.
        ensemble: members of the ensemble of classifiers.
        bootstrap: resamples of each interval.
    """

    seeds: int = 1
    other: str | None = None
    ensemble: int = 5
    bootstrap: int = 1000
    method_fields = ImageConfig.method_fields | {"ensemble"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least_one("ensemble", "bootstrap")
        if self.other == self.dataset:
            raise ValueError(f"dataset and other are both {self.other}: choose two sets")

    @property
    def datasets(self) -> tuple[str, ...]:
        """The sets that are in distribution, one after the other."""
        return (self.dataset, self.other) if self.other else (self.dataset,)

    def fast(self) -> Self:
        """Return a smoke test: everything runs in seconds, and the numbers are meaningless."""
        return replace(super().fast(), ensemble=2, bootstrap=20)
