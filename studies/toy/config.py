"""The configuration of the toy study."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gbi_pyro.data.switching import GeometricBlocks, SwitchingStream
from studies.core.protocol import Seeds
from studies.core.seeds import Roles

generator = Roles("weights", "train", "validate", "calibrate", "test")
FOUR_MEANS = (0.2, 0.4, 0.6, 0.8)  # of the networks with four tasks
NOISY = 0.3  # the noise of those that find it harder to tell their tasks apart


@dataclass(frozen=True)
class ToyConfig(Seeds):
    """Everything the toy study depends on.

    Attributes:
        seeds: how many networks of each kind are trained.
        first_seed: their seeds are ``first_seed``, ``first_seed + 1``, ...
        means: the means of the two tasks.
        sigma: the noise of the stream.
        hazard: the probability that the task changes at a step.
        sequences: training sequences per weight update.
        length: their length in steps.
        updates: weight updates of a network.
        rate: AdamW's rate; it falls linearly to zero over the second half.
        weight_decay: AdamW's. It keeps a network nearly affine between the corners of the simplex,
            where training puts it, and so one gradient step from the middle nearly exact. Chosen
            on seeds that no result uses: ``python -m benchmarks.weight_decay``.
        test_sequences: sequences of a test set, a validation set and a calibration set, each.
        test_length: their length.
        block_length: steps of a block when one stream is learned block after block.
        num_blocks: the number of those blocks.
        new_block: steps of a block of an unseen mean.
    """

    seeds: int = 5
    first_seed: int = 0
    means: tuple[float, ...] = (0.2, 0.8)
    sigma: float = 0.1
    hazard: float = 0.03
    sequences: int = 32
    length: int = 100
    updates: int = 300
    rate: float = 0.01
    weight_decay: float = 1.0
    test_sequences: int = 32
    test_length: int = 300
    block_length: int = 50
    num_blocks: int = 40
    new_block: int = 100
    method_fields = frozenset({"updates", "rate", "weight_decay"})

    def __post_init__(self) -> None:
        self.check_at_least_one(
            *("seeds", "sequences", "length", "updates", "test_sequences", "test_length"),
            *("block_length", "num_blocks", "new_block"),
        )
        if self.block_length <= 20 or self.new_block <= 20:
            raise ValueError("blocks must be longer than 20 steps, which are left out or apart")

    def stream(
        self, means: tuple[float, ...] | None = None, sigma: float | None = None
    ) -> SwitchingStream:
        """Return the stream that the study draws from, with other means or noise where given."""
        return SwitchingStream(
            means=means or self.means,
            sigma=sigma or self.sigma,
            blocks=GeometricBlocks(self.hazard),
        )

    def fast(self) -> ToyConfig:
        """Return a smoke test: everything runs in seconds, and the numbers are meaningless."""
        return replace(
            self,
            seeds=min(self.seeds, 2),
            updates=20,
            sequences=8,
            length=40,
            test_sequences=4,
            test_length=40,
            block_length=22,
            num_blocks=6,
            new_block=22,
        )
