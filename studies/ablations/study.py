"""The ablations: what the task input, its conditioner and the regulariser contribute."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from matplotlib.figure import Figure

from gbi_pyro.export.inference_data import to_inference_data
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.inference.stepwise import stepwise
from gbi_pyro.models.conditioning import CONDITIONERS
from gbi_pyro.models.sequence import SequenceLSTM
from studies.ablations import figures, table
from studies.ablations.conditioners import ConditionerSeed, measure_conditioner
from studies.ablations.config import (
    MOVED_SEEDS,
    UPDATE_SEEDS,
    AblationsConfig,
    generator,
)
from studies.ablations.forgetting import (
    SIDE_BY_SIDE,
    ForgettingSeed,
    Schedule,
    measure_forgetting,
    schedules,
)
from studies.ablations.generalisation import choose_moved
from studies.ablations.heads import measure_heads
from studies.ablations.inputs import InputSeed, measure_input
from studies.ablations.regularizers import (
    METHODS,
    LatentUpdate,
    RegularizerSeed,
    cases,
    choose_update,
    measure_regularizers,
)
from studies.ablations.task_inputs import TASK_INPUTS, TRUE, InputKind
from studies.core.cache import Cache, as_json
from studies.core.protocol import Found, Part, Report, Study
from studies.core.streams import exact_filter, in_filter
from studies.core.table import Row
from studies.core.unseen_means import Rate

Choice = TypeVar("Choice", Rate, LatentUpdate)


class AblationsStudy(Study[AblationsConfig]):
    """Task inputs, conditioners, regularisers and forgetting on the toy stream."""

    name = "ablations"
    title = "The true task input compared with shuffled, random and constant ones; conditioners"
    config_type = AblationsConfig

    def __init__(self, config: AblationsConfig, data: Path | None = None) -> None:
        super().__init__(config, data)
        self.rates: dict[str, Rate] = {}  # filled by ``prepare``
        self.updates: dict[str, dict[str, LatentUpdate]] = {}

    @property
    def decays(self) -> dict[str, AblationsConfig]:
        """The study with its weight decay and without any, by what part names end with."""
        return {"": self.config, ", no weight decay": replace(self.config, weight_decay=0.0)}

    def prepare(self, cache: Cache, report: Report) -> None:
        """Choose how inputs are moved, and the latent updates, on validation seeds."""
        settings = {**as_json(self.config), "first_seed": None}

        def choose(
            name: str, record: type[Choice], seeds: range, compute: Callable[[], Choice]
        ) -> Choice:
            report(f"choice on validation seeds: {name}")
            own = {**settings, "seeds": list(seeds)}
            return cache.get(f"choice, {name}", own, record, compute)

        self.rates = {
            kind + decay: choose(
                _input(kind, decay), Rate, MOVED_SEEDS, partial(choose_moved, config, kind)
            )
            for decay, config in self.decays.items()
            for kind in TASK_INPUTS
        }
        self.updates = {
            case: {
                m: choose(
                    f"{_regularized(case)}, {m}",
                    LatentUpdate,
                    UPDATE_SEEDS,
                    partial(choose_update, config, m),
                )
                for m in METHODS
            }
            for case, config in cases(self.config).items()
        }

    def choices(self) -> dict[str, Any]:
        """Return the choices that were made."""
        return {"moved inputs": as_json(self.rates), "latent updates": as_json(self.updates)}

    def parts(self) -> list[Part[Any]]:
        """Return a part for each kind of input, conditioner, regulariser's stream and schedule."""
        config = self.config
        inputs = [
            Part.of_seed(
                _input(kind, decay),
                InputSeed,
                partial(self._measure_input, kind, decay),
                self.rates.get(kind + decay),
            )
            for decay in self.decays
            for kind in TASK_INPUTS
        ]
        ways = [
            Part.of_seed(_conditioned(w), ConditionerSeed, partial(measure_conditioner, config, w))
            for w in CONDITIONERS
        ]
        streams = [
            Part.of_seed(
                _regularized(c),
                RegularizerSeed,
                partial(self._measure_regularizers, c),
                self.updates.get(c),
            )
            for c in cases(config)
        ]
        learned = [
            Part(_learned(s), ForgettingSeed, partial(measure_forgetting, config, s), SIDE_BY_SIDE)
            for s in schedules(config)
        ]
        heads = [
            Part(_headed(s), ForgettingSeed, partial(measure_heads, config, s), SIDE_BY_SIDE)
            for s in schedules(config)
        ]
        return [*inputs, *ways, *streams, *learned, *heads]

    def _measure_input(self, kind: InputKind, decay: str, seed: int, report: Report) -> InputSeed:
        return measure_input(self.decays[decay], kind, self.rates[kind + decay], seed)

    def _measure_regularizers(self, case: str, seed: int, report: Report) -> RegularizerSeed:
        return measure_regularizers(cases(self.config)[case], self.updates[case], seed)

    def _by_input(self, found: Found, decay: str = "") -> dict[str, Sequence[InputSeed]]:
        return {kind: found[_input(kind, decay)] for kind in TASK_INPUTS}

    def _by_conditioner(self, found: Found) -> dict[str, Sequence[ConditionerSeed]]:
        return {way: found[_conditioned(way)] for way in CONDITIONERS}

    def _by_schedule(self, found: Found) -> dict[Schedule, Sequence[ForgettingSeed]]:
        return {schedule: found[_learned(schedule)] for schedule in schedules(self.config)}

    def table(self, found: Found) -> list[Row]:
        """Return what each ingredient does, with targets for the task input."""
        usual, by_stream = self._by_input(found), cases(self.config)
        unseen = [
            table.generalisation_rows(self._by_input(found, decay), config.weight_decay)
            for decay, config in self.decays.items()
        ]
        return [
            *table.speed_rows(usual),
            *itertools.chain(*unseen),
            *table.modularity_rows(usual),
            *table.reference_rows(self.config),
            *table.forgetting_rows(self._by_schedule(found)),
            *table.heads_rows({s: found[_headed(s)] for s in schedules(self.config)}),
            *table.conditioner_rows(self._by_conditioner(found)),
            *table.regularizer_rows({c: found[_regularized(c)] for c in by_stream}, self.updates),
        ]

    def figures(self, found: Found) -> Iterator[tuple[str, Figure]]:
        """Draw task inputs, forgetting and conditioners."""
        usual, undecayed = (self._by_input(found, decay) for decay in self.decays)
        yield "inputs", figures.figure_inputs(usual, undecayed)
        yield "forgetting", figures.figure_forgetting(self._by_schedule(found))
        yield "conditioners", figures.figure_conditioners(self._by_conditioner(found))

    def posterior(self, found: Found) -> Any:
        """Return the filter of the first network with the true task, beside the exact one."""
        config, seed = self.config, self.config.first_seed
        draw = generator(seed, "test")
        x, z = config.stream.sample(config.test_sequences, config.test_length, draw)
        (network,) = self.networks(found).values()
        return to_inference_data(
            in_filter(config.stream, OneStepGradient())(stepwise(network, x)),
            observed={"x": x},
            labels={"z": z},
            exact=exact_filter(config.stream, x),
            attributes={"study": self.name, "seed": seed},
        )

    def networks(self, found: Found) -> dict[str, SequenceLSTM]:
        """Return the first network with the true task."""
        network = SequenceLSTM(len(self.config.means), self.config.hidden_size)
        network.load_state_dict(self._by_input(found)[TRUE][0].weights)
        return {"true": network.requires_grad_(False).eval()}


def _input(kind: str, decay: str) -> str:
    return f"input: {kind}{decay}"


def _conditioned(way: str) -> str:
    return f"conditioned by {way}"


def _regularized(case: str) -> str:
    return f"entropy and L2: {case}"


def _learned(schedule: Schedule) -> str:
    return f"blocks: {schedule.name}"


def _headed(schedule: Schedule) -> str:
    return f"blocks, heads: {schedule.name}"
