"""The configuration of the study of unsupervised learning."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gbi_pyro.data.switching import BlockLaw, GeometricBlocks, SwitchingStream
from studies.core.protocol import Seeds
from studies.core.seeds import Roles

USUAL, NOISY = 0.1, 0.3  # the noise that targets are stated for
# Data sets whose networks are trained in one tensor: those of the full study. Which others lie
# beside it changes a data set's divergences by 1e-4 of their value at most: by Adam's epsilon.
SIDE_BY_SIDE = 20
generator = Roles("stream", "held out", "weights", "labels")


@dataclass(frozen=True)
class UnsupervisedConfig(Seeds):
    """Everything the study depends on; rates were chosen on other streams (see ``validation``).

    Attributes:
        seeds: data sets of each kind; each has its own network. 20 is the full study.
        first_seed: their seeds are ``first_seed``, ``first_seed + 1``, ...
        sigmas: the noise of the streams; 0.1 and 0.3, which targets are stated for, are among them.
        hazard: the probability that the task changes at a step.
        hazard_guess: where learning begins.
        stay, switch: pseudo-counts of the hazard that is learned.
        steps: of the online stream of two tasks; those of three and five tasks are two and four
            times as long.
        tail: its last steps, which are scored.
        rate: of the means in the online form, Adam's.
        noise_rate: of the noise, as a multiple of it.
        decay: the rate is halved after this share of the stream, rate / (1 + t / (decay T)).
        hazard_guesses, adam_epsilons: where hypotheses of one stream begin and Adam's epsilon, a
            learner for each pair. Below a large epsilon a task that does not occur for long keeps
            its weights, which Adam's default would move by gradients however small.
        spread: standard deviation of the first means around the middle.
        sequences, length: of a data set of the batch form.
        restarts: of which the best by evidence is kept.
        start_steps: EM steps with the tasks of ``window_labels``.
        em_steps: EM steps after them.
        window: steps of a window.
        batch_rate: of the means in the batch form, Adam's.
        batch_noise_rate: of the noise.
        most_tasks: the largest number of tasks that is tried where it is not known.
        choice_restarts, choice_start, choice_steps: restarts and steps there.
        labelled_sequences: of a data set of which a fraction is labelled.
        label_steps: EM steps once labels are known.
        test_sequences: of the data that posteriors are compared on.
        recurrent_sequences: of a data set of the recurrent network.
        hidden_size: of that network.
        recurrent_rate: Adam's.
        recurrent_start, recurrent_steps: EM steps with the tasks of windows, and after them.
        baseline_steps: iterations of Baum-Welch, and a tenth of the training steps of the network
            with labels.
    """

    seeds: int = 5
    first_seed: int = 0
    sigmas: tuple[float, ...] = (0.05, 0.1, 0.3)
    hazard: float = 0.03
    hazard_guess: float = 0.04
    stay: float = 50.0
    switch: float = 2.0
    steps: int = 1000
    tail: int = 300
    rate: float = 0.02
    noise_rate: float = 3.0
    decay: float = 0.1
    hazard_guesses: tuple[float, ...] = (0.03, 0.01, 0.1)
    adam_epsilons: tuple[float, ...] = (1.0, 5.0)
    spread: float = 0.2
    sequences: int = 10
    length: int = 100
    restarts: int = 4
    start_steps: int = 30
    em_steps: int = 30
    window: int = 5
    batch_rate: float = 0.03
    batch_noise_rate: float = 0.1
    most_tasks: int = 6
    choice_restarts: int = 2
    choice_start: int = 20
    choice_steps: int = 60
    labelled_sequences: int = 16
    label_steps: int = 40
    test_sequences: int = 20
    recurrent_sequences: int = 32
    hidden_size: int = 32
    recurrent_rate: float = 0.01
    recurrent_start: int = 30
    recurrent_steps: int = 60
    baseline_steps: int = 30
    method_fields = frozenset(
        {
            *("hazard_guess", "rate", "noise_rate", "decay", "spread", "restarts"),
            *("hazard_guesses", "adam_epsilons"),
            *("start_steps", "em_steps", "window", "batch_rate", "batch_noise_rate"),
            *("label_steps", "hidden_size", "recurrent_rate", "recurrent_start"),
            *("recurrent_steps", "baseline_steps"),
        }
    )

    def __post_init__(self) -> None:
        self.check_at_least_one(
            *("seeds", "steps", "tail", "sequences", "length", "restarts", "em_steps", "window"),
            *("choice_restarts", "choice_steps", "label_steps", "baseline_steps"),
        )
        if self.steps < 2 * self.tail:
            raise ValueError(
                f"steps must be at least twice tail = {self.tail}, so that tasks are matched on "
                f"steps before those that are scored; got {self.steps}"
            )
        if not {USUAL, NOISY} <= set(self.sigmas):
            raise ValueError(
                f"sigmas must contain {USUAL:g} and {NOISY:g}, which targets are stated for; got "
                f"{self.sigmas}"
            )
        if self.sequences < 2 or self.most_tasks < 2:
            raise ValueError(
                "sequences and most_tasks must be at least 2, for held-out evidence to compare; got"
                f" {self.sequences} and {self.most_tasks}"
            )
        if self.window > self.length:
            raise ValueError(f"window must be at most length = {self.length}, got {self.window}")

    def stream(
        self, means: tuple[float, ...], sigma: float, blocks: BlockLaw | None = None
    ) -> SwitchingStream:
        """Return a stream of some tasks, by default with the study's hazard."""
        return SwitchingStream(means, sigma, blocks or GeometricBlocks(self.hazard))

    def fast(self) -> UnsupervisedConfig:
        """Return a smoke test: everything runs in seconds, and the numbers are meaningless."""
        once = ("restarts", "start_steps", "choice_restarts", "choice_start", "choice_steps")
        twice = ("em_steps", "label_steps", "baseline_steps")
        sizes = {"steps": 40, "tail": 10, "length": 20, "most_tasks": 3, "hidden_size": 4}
        few = ("sequences", "test_sequences", "recurrent_sequences")
        return replace(
            self,
            seeds=min(self.seeds, 2),
            sigmas=(USUAL, NOISY),
            labelled_sequences=4,
            hazard_guesses=self.hazard_guesses[:1],
            adam_epsilons=self.adam_epsilons,
            **dict.fromkeys((*once, "recurrent_start", "recurrent_steps"), 1),
            **dict.fromkeys(twice, 2),
            **dict.fromkeys(few, 3),
            **sizes,
        )
