"""The configuration of the split digits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from studies.core.protocol import Seeds
from studies.core.seeds import Roles

# One stream of draws for all kinds of network: the same pairs for all, and for a way the task
# enters the same weights and batches with every Z.
generator = Roles("pairs, weights and batches", "shuffled tasks")


@dataclass(frozen=True)
class SplitDigitsConfig(Seeds):
    """Everything the split digits depend on.

    Attributes:
        dataset: ten classes, for five tasks.
        seeds: how many networks of each kind are trained.
        first_seed: their seeds are ``first_seed``, ``first_seed + 1``, ...
        epochs: passes over the images of a block.
        batch: images per weight update.
        rates: Adam's. Of .001, .003 and .01 the first is the one whose networks in sequence have
            the highest mean accuracy on the task just learned, on validation images and seeds from
            1000 on, that no result uses; the second is the next slower. What is forgotten does not
            enter, so that no kind of network is favoured.
        hidden: hidden units.
        latent: size of the latent that the task joins.
        judged_on: ``validation`` for a choice.
    """

    dataset: Literal["digits", "mnist", "fashion"] = "digits"
    seeds: int = 10
    first_seed: int = 0
    epochs: int = 10
    batch: int = 32
    rates: tuple[float, ...] = (0.01, 0.003)
    hidden: int = 64
    latent: int = 8
    judged_on: Literal["test", "validation"] = "test"
    method_fields = frozenset({"epochs", "batch", "hidden", "latent"})

    def __post_init__(self) -> None:
        self.check_at_least_one("seeds", "epochs", "batch", "hidden", "latent")
        if not self.rates or not min(self.rates) > 0:
            raise ValueError(f"rates must be positive, one or more, got {self.rates}")
        if self.dataset not in ("digits", "mnist", "fashion"):
            raise ValueError(
                f"dataset must be digits, mnist or fashion, which have ten classes for five tasks; "
                f"got {self.dataset!r}"
            )
        if self.judged_on not in ("test", "validation"):
            raise ValueError(f"judged_on must be test or validation, got {self.judged_on!r}")

    def fast(self) -> SplitDigitsConfig:
        """Return a smoke test: everything runs in seconds, and the numbers are meaningless."""
        return replace(self, seeds=min(self.seeds, 2), epochs=1, batch=128, hidden=16)
