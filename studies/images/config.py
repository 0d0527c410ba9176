"""The configuration of the image study."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from gbi_pyro.models.layers import Latent
from studies.core.image_networks import ImageConfig


@dataclass(frozen=True)
class ImagesConfig(ImageConfig):
    """Everything the image study depends on.

    Attributes:
        bottleneck: size of the latent of the paper's network.
        bottleneck_latent: ``plain``, or ``noisy``, which limits what a wide one can hide.
        hidden: hidden units of the paper's network and of the pure generative one.
        iterative_steps: numbers of steps of iterative inference, each a method of its own.
        iterative_rate: the rate of iterative inference, on the logits.
        filters: random patches that are the filters of the features.
        pool: regions along each side that the features are pooled over.
        mirror: whether the features do not distinguish left and right.
        prototypes: of a class, tried beside one; the better number on validation is taken.
        sweep: whether the paper's network is also trained at several widths of its bottleneck,
            with the first seed.
    """

    seeds: int = 3
    bottleneck: int = 6
    bottleneck_latent: Latent = "plain"
    hidden: int = 256
    iterative_steps: tuple[int, ...] = (5, 20, 50)
    iterative_rate: float = 0.5
    filters: int = 400
    pool: int = 3
    mirror: bool = False
    prototypes: tuple[int, ...] = (5, 15)
    sweep: bool = False
    method_fields = ImageConfig.method_fields | {
        *("bottleneck", "bottleneck_latent", "hidden", "iterative_steps", "iterative_rate"),
        *("filters", "pool", "mirror", "prototypes", "sweep"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least_one("bottleneck", "filters", "pool")

    def fast(self) -> Self:
        """Return a smoke test: everything runs in seconds, and the numbers are meaningless."""
        return replace(super().fast(), hidden=32, filters=20, iterative_steps=(2,))
