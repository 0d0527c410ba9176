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
        left_out: classes, the last ones, that further networks never see: near outliers; 0 for
            none.
        ensemble: members of the ensemble of classifiers.
        filters: of the patch features.
        pool: regions of them along each side.
        shrinkage: of their covariance towards its diagonal. On altered validation images of MNIST
            and Fashion-MNIST .003 to .3 differ by less than .01.
        bootstrap: resamples of each interval.
    """

    seeds: int = 1
    other: str | None = None
    left_out: int = 0
    ensemble: int = 5
    filters: int = 150
    pool: int = 3
    shrinkage: float = 0.1
    bootstrap: int = 1000
    method_fields = ImageConfig.method_fields | {"ensemble", "filters", "pool", "shrinkage"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least_one("ensemble", "bootstrap", "filters", "pool")
        if self.left_out < 0:
            raise ValueError(f"left_out must not be negative, got {self.left_out}")
        if not 0 <= self.shrinkage <= 1:
            raise ValueError(f"shrinkage must be from 0 to 1, got {self.shrinkage}")
        if self.other == self.dataset:
            raise ValueError(f"dataset and other are both {self.other}: choose two sets")

    @property
    def datasets(self) -> tuple[str, ...]:
        """The sets that are in distribution, one after the other."""
        return (self.dataset, self.other) if self.other else (self.dataset,)

    def fast(self) -> Self:
        """Return a smoke test: everything runs in seconds, and the numbers are meaningless."""
        return replace(super().fast(), ensemble=2, bootstrap=20, filters=5)
