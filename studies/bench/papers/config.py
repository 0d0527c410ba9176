"""What the measurements of the papers depend on, beside the seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from studies.core.seeds import Roles

# Parameters of problems come from the seed itself: generators of other roles begin elsewhere.
generator = Roles("data", "weights", "train", "draws", "parameters", first=200_000)

PREDICTOR, POINT, AMORTISED = "B4", "B5", "B6"
IN_CONTEXT, AMBIGUITY, STREAMING = "B7", "B8", "B9"
"""Codes of the claims that the rows speak to."""


@dataclass(frozen=True)
class PapersConfig:
    """Sizes of what is drawn and budgets of what is trained.

    Attributes:
        cases: test cases of each problem.
        lengths: numbers of symbols of a MetaHMM case.
        shots: numbers of observations of a regression case.
        repeats: how often the Monte-Carlo predictor draws its tasks, for each case.
        width: hidden units of recognisers and in-context networks.
        batch: cases, or tasks in context, of an update.
        recogniser_updates: of the recognisers, by problem: components, regression, hyperteacher.
        targets: cases whose exact posteriors the reverse KL is trained on.
        context: observations of a task that an in-context network is given, and is asked for.
        context_updates: of an in-context network.
        test_tasks: tasks that an in-context network is tested on.
        units: of the sequence networks.
        sequence_updates: of a sequence network.
        stream: observations that a refiner is carried along.
        stream_updates: of a carried refiner.
    """

    cases: int = 100
    lengths: tuple[int, ...] = (10, 40)
    shots: tuple[int, ...] = (1, 2, 4)
    repeats: int = 16
    width: int = 96
    batch: int = 128
    recogniser_updates: tuple[int, int, int] = (800, 1000, 1500)
    targets: int = 4096
    context: int = 32
    context_updates: int = 1000
    test_tasks: int = 512
    units: int = 64
    sequence_updates: int = 1500
    stream: int = 16
    stream_updates: int = 300

    def fast(self) -> PapersConfig:
        """Return a smoke test: everything runs in seconds, and the numbers are meaningless."""
        return replace(
            self,
            cases=8,
            lengths=(3, 4),
            repeats=2,
            width=8,
            batch=8,
            recogniser_updates=(5, 5, 5),
            targets=16,
            context=4,
            context_updates=5,
            test_tasks=8,
            units=4,
            sequence_updates=5,
            stream=3,
            stream_updates=3,
        )
