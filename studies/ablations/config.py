"""The configuration of the ablations."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gbi_pyro.data.switching import GeometricBlocks, SwitchingStream
from studies.core.blocks import LEFT_OUT
from studies.core.protocol import Seeds
from studies.core.seeds import Roles

generator = Roles("weights", "train", "validate", "test", "task input", first=1_000_000)
# Frozen networks are tested on the streams of the toy study, whose generators these are.
frozen_generator = Roles("weights", "train", "validate", "calibrate", "test")
pretraining_generator = Roles("weights", "train", "validate", first=1_500_000)
# Choices are made on seeds that no result uses. With five of them, one network that diverges
# decides how inputs are moved; ten and twenty agree.
MOVED_SEEDS, UPDATE_SEEDS = range(1000, 1010), range(1000, 1005)
FOUR_MEANS = (0.2, 0.4, 0.6, 0.8)  # of the stream with four tasks
PRETRAINING_MEANS = (0.05, 0.35, 0.5, 0.65, 0.95)  # none is that of a task


@dataclass(frozen=True)
class AblationsConfig(Seeds):
    """Everything the study depends on.

    Attributes:
        seeds: networks of each kind; the same seed sees the same data in every kind.
        first_seed: their seeds are ``first_seed``, ``first_seed + 1``, ...
        means: the means of the two tasks.
        sigma: the noise of the stream.
        hazard: the probability that the task changes at a step.
        hidden_size: of the LSTM; with other conditioners than concatenation it has the size that
            comes closest in parameters.
        sequences: training sequences per weight update.
        length: steps of a training sequence.
        updates: weight updates of a network.
        rate: AdamW's; it falls linearly to zero over the second half.
        weight_decay: AdamW's, as in the toy study.
        test_sequences: sequences of a test set and a validation set, each.
        test_length: steps of such a sequence.
        block_length: steps of the known block before one of an unseen mean.
        new_block: steps of a block of an unseen mean.
        latent_steps: steps of the latent update, entropy against L2.
        schedules: of the streams learned block after block: steps of a block, number of blocks.
        online_rates: Adam's on streams learned block after block; the paper's is its default, the
            first.
        probe_sequences: sequences of one task on which a network that learned such a stream is
            tested.
        probe_length: steps of such a sequence.
    """

    seeds: int = 10
    first_seed: int = 0
    means: tuple[float, ...] = (0.2, 0.8)
    sigma: float = 0.1
    hazard: float = 0.03
    hidden_size: int = 32
    sequences: int = 32
    length: int = 100
    updates: int = 200
    rate: float = 0.01
    weight_decay: float = 1.0
    test_sequences: int = 32
    test_length: int = 200
    block_length: int = 50
    new_block: int = 100
    latent_steps: int = 50
    schedules: tuple[tuple[int, int], ...] = ((25, 40), (50, 40), (200, 20), (500, 8), (1000, 4))
    online_rates: tuple[float, ...] = (0.001, 0.01)
    probe_sequences: int = 32
    probe_length: int = 50
    method_fields = frozenset({"hidden_size", "updates", "rate", "weight_decay"})

    def __post_init__(self) -> None:
        self.check_at_least_one("seeds", "hidden_size", "sequences", "updates", "latent_steps")
        if self.probe_length <= LEFT_OUT:
            raise ValueError(
                f"probe_length must be more than the {LEFT_OUT} steps that are left out, got "
                f"{self.probe_length}"
            )
        if not self.schedules or any(min(s) < 1 or s[1] < 2 for s in self.schedules):
            raise ValueError(
                "schedules must hold pairs of steps of a block, at least 1, and number of blocks, "
                f"at least 2, so that there is a task to forget; got {self.schedules}"
            )
        if not self.online_rates or min(self.online_rates) <= 0:
            raise ValueError(
                f"online_rates must be positive, at least one; got {self.online_rates}"
            )

    @property
    def stream(self) -> SwitchingStream:
        """The switching stream that networks learn."""
        return SwitchingStream(self.means, self.sigma, GeometricBlocks(self.hazard))

    def fast(self) -> AblationsConfig:
        """Return a smoke test: everything runs in seconds, and the numbers are meaningless."""
        return replace(
            self,
            seeds=min(self.seeds, 2),
            hidden_size=8,
            sequences=8,
            length=30,
            updates=40,
            rate=0.05,
            test_sequences=3,
            test_length=40,
            block_length=21,
            new_block=22,
            latent_steps=2,
            schedules=((5, 2), (4, 3)),
            probe_sequences=3,
            probe_length=22,
        )
