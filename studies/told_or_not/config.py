"""The configuration of the study that trains one kind of network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from gbi_pyro.data.switching import GeometricBlocks, SwitchingStream
from studies.core.protocol import Seeds
from studies.core.seeds import Roles

Task = Literal["labels", "none", "shuffled", "unlabelled"]
NETWORKS: dict[Task, str] = {
    "labels": "conditioned on its task",
    "none": "unconditioned",
    "shuffled": "given shuffled labels",
    "unlabelled": "task found without labels",
}
"""The kinds of network in words."""
generator = Roles("weights", "train", "test")


@dataclass(frozen=True)
class ToldOrNotConfig(Seeds):
    """Everything the study depends on; rates were chosen on seeds from 1000 on.

    Attributes:
        task: what the network is conditioned on while it learns. ``labels``: the true task;
            ``none``: nothing, it has no task; ``shuffled``: the task of another sequence, which
            carries no information about this one; ``unlabelled``: tasks that EM finds.
        seeds: how many networks are trained.
        first_seed: their seeds are ``first_seed``, ``first_seed + 1``, ... The same seed sees the
            same data whatever ``task`` is.
        means: of the tasks of the stream.
        sigma: the noise of the stream.
        hazard: the probability that the task changes at a step.
        rounds: batches of the training stream. Each is new: predicted first, then learned once.
        sequences: of a batch.
        length: their length in steps.
        test_sequences: held-out sequences of each seed.
        test_length: their length.
        hidden_size: of the LSTM.
        rate: AdamW's; it falls linearly to zero over the second half.
        noise_rate: that of the learned noise, as a multiple of it.
        weight_decay: AdamW's.
        hazard_guess: hazard of the chain of tasks, before it is learned.
        start_rounds: rounds in which EM takes the tasks of ``window_labels``.
        window: steps of their windows.
    """

    task: Task = "labels"
    seeds: int = 10
    first_seed: int = 0
    means: tuple[float, ...] = (0.2, 0.8)
    sigma: float = 0.1
    hazard: float = 0.03
    rounds: int = 60
    sequences: int = 16
    length: int = 50
    test_sequences: int = 16
    test_length: int = 100
    hidden_size: int = 32
    rate: float = 0.02
    noise_rate: float = 5.0
    weight_decay: float = 0.01
    hazard_guess: float = 0.04
    start_rounds: int = 10
    window: int = 5
    method_fields = frozenset(
        {
            *("task", "hidden_size", "rate", "noise_rate", "weight_decay"),
            *("hazard_guess", "start_rounds", "window"),
        }
    )

    def __post_init__(self) -> None:
        if self.task not in get_args(Task):
            raise ValueError(f"task should be one of {', '.join(NETWORKS)}; got {self.task!r}")
        self.check_at_least_one(
            "seeds", "rounds", "length", "test_sequences", "test_length", "hidden_size"
        )
        if self.sequences < 2:
            raise ValueError(
                "sequences should be at least 2, for a shuffled task to be that of another one; "
                f"got {self.sequences}"
            )
        if not 1 <= self.window <= self.length:
            raise ValueError(f"window should lie in 1 .. length = {self.length}; got {self.window}")

    @property
    def stream(self) -> SwitchingStream:
        """What the data are drawn from."""
        return SwitchingStream(self.means, self.sigma, GeometricBlocks(self.hazard))

    def fast(self) -> ToldOrNotConfig:
        """Return a smoke test: everything runs in seconds, and the numbers are meaningless."""
        return replace(
            self,
            seeds=min(self.seeds, 3),
            rounds=4,
            sequences=4,
            length=12,
            test_sequences=3,
            test_length=10,
            hidden_size=6,
            start_rounds=2,
        )
