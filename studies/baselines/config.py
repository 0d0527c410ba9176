"""The configuration of the baselines study."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from studies.core.image_data import Dataset
from studies.core.protocol import Seeds


@dataclass(frozen=True)
class BaselinesConfig(Seeds):
    """Everything the comparison depends on.

    Attributes:
        dataset: ``digits``, ``mnist``, ``fashion`` or another of ``load_images``.
        seeds: how many networks of each kind are trained; each has its own validation images.
        first_seed: their seeds are ``first_seed``, ``first_seed + 1``, ...
        epochs: passes over the training images, for networks and recognisers alike.
        batch: images per weight update.
        rate: Adam's; it falls linearly to zero over the second half.
        hidden: hidden units of all networks.
        bottleneck: size of the latent of the paper's network.
        latent: size of the noisy latent of the affine head, and of the recognisers' plain one.
        hot: temperature of the posterior that reverse KL starts from; it falls geometrically to 1
            over the first half. At 1 from the start the recogniser settles on a few classes. Of
            1, 30 and 300 the best by its divergence on validation images, seeds 1000 and 1001.
        judged_on: images that methods are scored on: ``test``, or ``validation`` to make a choice.
    """

    dataset: Dataset = "digits"
    seeds: int = 10
    epochs: int = 30
    batch: int = 64
    rate: float = 0.003
    hidden: int = 128
    bottleneck: int = 6
    latent: int = 32
    hot: float = 300.0
    judged_on: Literal["test", "validation"] = "test"
    method_fields = frozenset({"epochs", "batch", "rate", "hidden", "bottleneck", "latent"})

    def __post_init__(self) -> None:
        self.check_at_least_one("seeds", "epochs", "batch", "hidden", "bottleneck", "latent")
        if not self.rate > 0:
            raise ValueError(f"rate must be positive, got {self.rate}")
        if self.judged_on not in ("test", "validation"):
            raise ValueError(f"judged_on must be test or validation, got {self.judged_on!r}")
        if not self.hot >= 1:
            raise ValueError(f"hot must be at least 1, the temperature it falls to; got {self.hot}")

    def fast(self) -> BaselinesConfig:
        """Return a smoke test: everything runs in seconds, and the numbers are meaningless."""
        return replace(self, seeds=min(self.seeds, 2), epochs=2, hidden=32, batch=128)

    def temperature(self, epoch: int) -> float:
        """Return the temperature of an epoch: from ``hot`` to 1 over the first half.

        >>> config = BaselinesConfig(epochs=4, hot=9.0)
        >>> [round(config.temperature(epoch), 6) for epoch in range(4)]
        [9.0, 3.0, 1.0, 1.0]
        """
        return float(self.hot ** max(0.0, 1 - 2 * epoch / self.epochs))
