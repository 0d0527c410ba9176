"""The study of controls from one call: everything measured and written down."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gbi_pyro.export.inference_data import to_inference_data
from studies.ablations import (
    conditioners,
    digit_rows,
    digits,
    figures,
    forgetting,
    inputs,
    regularizers,
    rival_rows,
    rivals,
    rows,
)
from studies.ablations.config import ControlsConfig, generator
from studies.split_digits.measure import DigitsConfig
from studies.ablations.task_inputs import KINDS, TRUE
from studies.baselines.measure import RivalsConfig
from studies.ablations.training import train
from studies.core.cache import Pieces
from studies.core.run_folder import RunFolder
from studies.core.protocol import Progress, StudyResults, bars_first
from studies.toy.evidence import exact_filter, in_filter
from gbi_pyro.inference.stepwise import stepwise
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.models.conditioning import CONDITIONERS

Found = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class StudyConfig:
    """What the parts of the study depend on, each with the same seeds.

    Attributes:
        toy: kinds of task input, conditioners, regularisers and forgetting on the toy stream.
        rivals: recognisers and centroids on images.
        digits: split digits in sequence.
    """

    toy: ControlsConfig = ControlsConfig()
    rivals: RivalsConfig = RivalsConfig()
    digits: DigitsConfig = DigitsConfig()

    @classmethod
    def of(cls, seeds: int, first_seed: int = 0) -> StudyConfig:
        """Return the study with so many seeds."""
        return cls(
            ControlsConfig(seeds=seeds, first_seed=first_seed),
            RivalsConfig(seeds=seeds, first_seed=first_seed),
            DigitsConfig(seeds=seeds, first_seed=first_seed),
        )

    def fast(self) -> StudyConfig:
        """Return a configuration that runs through everything in seconds and shows nothing."""
        return StudyConfig(self.toy.fast(), self.rivals.fast(), self.digits.fast())


def num_stages(config: StudyConfig) -> int:
    """Return how many stages ``run`` reports."""
    toy = config.toy
    counts = KINDS, KINDS, CONDITIONERS, regularizers.cases(toy), forgetting.schedules(toy)
    return sum(map(len, counts)) + 2 + 1


def run(config: StudyConfig, folder: Path, progress: Progress = lambda _what: None) -> StudyResults:
    """Run the study and write it to a folder; pieces finished by an earlier run are taken up.

    Args:
        config: what to do.
        folder: where the results go; finished pieces in ``pieces/``.
        progress: called with what is being done, ``num_stages`` times.

    Returns:
        What was measured and where the files lie.
    """
    start = time.perf_counter()
    store = RunFolder(folder)
    store.write_config("controls", config)

    pieces = Pieces(folder / "pieces")

    def piece(name: str, measure: Callable[..., Any], key: Any, *args: Any) -> dict[str, Any]:
        progress(name)
        return pieces.get(name, key, lambda: measure(key, *args))

    toy = config.toy
    by_kind: Found = {k: piece(f"Z: {k}", inputs.measure, toy, k) for k in KINDS}
    plain = replace(toy, weight_decay=0.0)
    undecayed: Found = {
        k: piece(f"Z: {k}, no weight decay", inputs.measure, plain, k) for k in KINDS
    }
    by_way: Found = {w: piece(f"told by {w}", conditioners.measure, toy, w) for w in CONDITIONERS}
    by_stream = {
        name: piece(f"entropy against L2: {name}", regularizers.measure, case)
        for name, case in regularizers.cases(toy).items()
    }
    by_schedule = {
        schedule: piece(f"blocks: {schedule.name}", forgetting.measure, toy, schedule)
        for schedule in forgetting.schedules(toy)
    }
    recognised = piece("rival recognisers", rivals.measure, config.rivals)
    split = piece("split digits", digits.measure, config.digits)
    table = [
        *rows.speed_rows(by_kind),
        *rows.generalisation_rows(by_kind, toy.weight_decay),
        *rows.generalisation_rows(undecayed, plain.weight_decay),
        *rows.modularity_rows(by_kind),
        *rows.reference_rows(toy),
        *rows.forgetting_rows(by_schedule),
        *rows.conditioner_rows(by_way),
        *rows.regularizer_rows(by_stream),
        *rival_rows.rival_rows(recognised),
        *digit_rows.digit_rows(split),
    ]
    progress("figures and files")
    drawn = [
        figures.figure_inputs(store.figures, by_kind, undecayed),
        figures.figure_forgetting(store.figures, by_schedule),
        figures.figure_conditioners(store.figures, by_way),
        figures.figure_rivals(store.figures, recognised),
        digit_rows.figure_digits(store.figures, split),
    ]
    _write_network(store, toy)
    seconds = time.perf_counter() - start + pieces.earlier
    store.write_metrics(bars_first(table), seconds)
    return StudyResults(table, folder, drawn)


def _write_network(store: RunFolder, config: ControlsConfig) -> None:
    """Write the first network with the true task, and its filter beside the exact one."""
    seed, stream = config.first_seed, config.stream
    network = train(config, seed, TRUE, "concat").network
    x, z = stream.sample(config.test_sequences, config.test_length, generator(seed, "test"))
    store.write_posterior(
        to_inference_data(
            in_filter(stream, OneStepGradient())(stepwise(network, x)),
            observed={"x": x},
            labels={"z": z},
            exact=exact_filter(stream, x),
            attributes={"study": "controls", "seed": seed},
        )
    )
    store.write_weights({"true": network})
