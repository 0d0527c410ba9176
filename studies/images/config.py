"""The configuration of the image study."""

from __future__ import annotations

from dataclasses import dataclass

from studies.core.protocol import Seeds
from gbi_pyro.models.layers import Latent


@dataclass(frozen=True)
class ImagesConfig(Seeds):
    """Everything the image study depends on.

    Attributes:
        dataset: ``digits``, ``mnist``, ``fashion``, ``cifar10`` or ``cifar100``.
        seeds: how many networks of each kind are trained.
        first_seed: their seeds are ``first_seed``, ``first_seed + 1``, ...
        epochs: passes over the training images.
        batch: images per weight update.
        rate: the largest rate of Adam's one-cycle schedule, reached after a fifth of it.
        bottleneck: size of the latent of the paper's network.
        bottleneck_latent: ``"plain"``, or ``"noisy"``, which limits what a wide one can hide.
        hidden: hidden units of the paper's network.
        latent: size of the latent of the affine-head network and of the classifier. On validation
            images of MNIST 64 costs half a point of accuracy; 256 moves one step away from exact.
        affine_hidden: their hidden units.
        codes: principal directions of the affine head's code space.
        iterative_steps: numbers of steps of iterative inference.
        iterative_rate: its rate, on the logits.
        chunk: images inferred at a time.
        sweep: whether the paper's network is also trained at several widths of its bottleneck.
    """

    dataset: str = "digits"
    seeds: int = 3
    first_seed: int = 0
    epochs: int = 10
    batch: int = 128
    rate: float = 0.002
    bottleneck: int = 6
    bottleneck_latent: Latent = "plain"
    hidden: int = 256
    latent: int = 128
    affine_hidden: int = 512
    codes: int = 64
    iterative_steps: tuple[int, ...] = (5, 20, 50)
    iterative_rate: float = 0.5
    chunk: int = 1000
    sweep: bool = False

    def __post_init__(self) -> None:
        self.check_at_least_one("seeds", "epochs", "batch", "bottleneck", "codes", "chunk")
