"""Sweeps: a study under several settings and seeds, each unit measured once wherever it runs."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gbi_pyro.files import check_writable, remove_partials
from studies.core.protocol import Seeds, Study
from studies.core.run_folder import check_study
from studies.core.sweep_engines import Engine, in_this_process
from studies.core.sweep_units import (
    CHOICES,
    UNITS,
    Combination,
    Outcome,
    Unit,
    digest_of,
    failed,
    finished_seeds,
    shown,
)

Progress = Callable[[int, int, str], None]
"""Called with the number of units that are done, that of all, and the last one in words."""
ANY = ""  # the digest where choices are still to be made


@dataclass
class Measured:
    """What is known of a study under one combination of settings.

    Attributes:
        combination: the settings.
        study: with its choices made; None before.
        records: those that are finished, by part and seed.
        seconds: what they took.
    """

    combination: Combination
    study: Study[Any] | None
    records: dict[str, dict[int, Any]] = field(default_factory=dict)
    seconds: dict[str, dict[int, float]] = field(default_factory=dict)

    def read(self, seeds: Sequence[int]) -> None:
        """Read the records of some seeds that are finished, and not read yet."""
        if self.study is None:
            return
        finished = finished_seeds(self.combination.folder)
        for part in self.study.parts():
            digest = digest_of(self.study, part)
            records = self.records.setdefault(part.name, {})
            seconds = self.seconds.setdefault(part.name, {})
            together = finished.get(digest, {})
            for of_unit in {together[s] for s in seeds if s in together and s not in records}:
                unit = Unit(self.combination, part.name, of_unit, digest)
                if found := unit.read(self.study, part):
                    records.update(zip(of_unit, found[0], strict=True))
                    seconds.update(dict.fromkeys(of_unit, found[1] / len(of_unit)))

    def missing(self, seeds: Sequence[int]) -> list[Unit]:
        """Return the units that are to be measured."""
        study = self.study or self.combination.study(self.combination.config, self.combination.data)
        units = []
        for part in study.parts():
            digest = digest_of(study, part) if self.study else ANY
            todo = [seed for seed in seeds if seed not in self.records.get(part.name, {})]
            for i in range(0, len(todo), part.block_size):
                together = tuple(todo[i : i + part.block_size])
                units.append(Unit(self.combination, part.name, together, digest))
        return units

    def found(self, seed: int) -> dict[str, list[Any]] | None:
        """Return the records of a seed by part, or None where one of them is not there."""
        if not self.records or any(seed not in records for records in self.records.values()):
            return None
        return {part: [records[seed]] for part, records in self.records.items()}

    def study_of(self, seed: int) -> Study[Any]:
        """Return the study with one seed alone in its configuration."""
        study = copy.copy(self.study)
        assert study is not None
        study.config = replace(study.config, seeds=1, first_seed=seed)
        return study


def combinations(
    study: type[Study[Any]],
    config: Seeds,
    grid: Mapping[str, Sequence[Any]],
    folder: Path,
    data: Path | None = None,
) -> list[Combination]:
    """Return every combination of settings, the last name varying fastest.

    Args:
        study: its class.
        config: all other settings.
        grid: the values of each setting that is compared.
        folder: of the sweep.
        data: the folder of data files, for studies that read any.

    Raises:
        ValueError: for settings that the configuration refuses, or that a sweep sets itself.
    """
    if own := sorted(asdict(Seeds()).keys() & grid.keys()):
        raise ValueError(f"{own[0]} is no setting of a sweep: give the seeds by --seeds 0-19")
    found, where = [], (folder.resolve(), data and data.resolve())  # workers run elsewhere
    for values in itertools.product(*grid.values()):
        settings = tuple(zip(grid, values, strict=True))
        given = replace(config, **dict(settings))
        words = [f"{key} {shown(value)}" for key, value in settings if len(grid[key]) > 1]
        found.append(Combination(study, given, *where, settings, ", ".join(words)))
    return found


def sweep_name(study: type[Study[Any]]) -> str:
    """Return what the ``config.json`` of a sweep calls its study."""
    return f"{study.name} (sweep)"


def measure(
    todo: Sequence[Combination],
    seeds: Sequence[int],
    engine: contextlib.AbstractContextManager[Engine] | None = None,
    progress: Progress = lambda _done, _all, _what: None,
    report: Callable[[Outcome], None] = lambda _failure: None,
) -> tuple[list[Measured], list[Outcome]]:
    """Measure the units of a sweep that are not finished, and read all of them.

    Args:
        todo: the combinations of settings, of one study and folder.
        seeds: of each, in ascending order.
        engine: where units run; in this process without. It is started for the first unit.
        progress: called as units are finished.
        report: called with each unit that failed.

    Returns:
        What was measured under each combination, by this call or before, and what became of the
        units of this call.

    Raises:
        OSError: where something cannot be written.
        ValueError: where the folder holds another run.
    """
    folder = todo[0].folder
    check_study(folder, sweep_name(todo[0].study))
    check_writable(folder)
    for inner in (UNITS, f"{CHOICES}/*", "checkpoints/*", "checkpoints/*/*"):
        for used in folder.glob(inner):
            remove_partials(used)  # of ended processes: others may be writing
    everything = [Measured(c, c.prepare(compute=False)) for c in todo]
    with contextlib.ExitStack() as stack:
        run = _Counted(stack, engine, progress, report)
        for measured in everything:
            measured.read(seeds)
        waiting = [m for m in everything if m.study is None]
        choices = [Unit(m.combination, None, (), m.combination.digest) for m in waiting]
        run.expect([*choices, *_different(everything, seeds)])
        run(choices)
        for measured in waiting:
            measured.study = measured.combination.prepare(compute=False)
            measured.read(seeds)
        units = _different([m for m in everything if m.study], seeds)
        run.expect(units)
        run(units)
    for measured in everything:
        measured.read(seeds)
    unread = {unit.path for m in everything if m.study for unit in m.missing(seeds)}
    for i, outcome in enumerate(run.outcomes):
        if not outcome.error and outcome.unit.path in unread:
            error = FileNotFoundError(
                f"it is measured, and not in {folder}, which all workers should share"
            )
            run.outcomes[i] = failed(outcome.unit, error)
            report(run.outcomes[i])
    return everything, run.outcomes


def _different(everything: Iterable[Measured], seeds: Sequence[int]) -> list[Unit]:
    """Return the units that are missing, each once: a part need not depend on every setting."""
    units = itertools.chain.from_iterable(m.missing(seeds) for m in everything)
    return [*{(u.path, u.digest or u.combination): u for u in units}.values()]


class _Counted:
    """Runs units on an engine, which is started for the first one, and counts them."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        engine: contextlib.AbstractContextManager[Engine] | None,
        progress: Progress,
        report: Callable[[Outcome], None],
    ) -> None:
        self.stack, self.engine = stack, engine
        self.progress, self.report = progress, report
        self.run: Engine | None = None if engine else in_this_process
        self.outcomes: list[Outcome] = []
        self.total = 0

    def expect(self, units: Sequence[Unit]) -> None:
        """Correct the number of all units by those that are still to come."""
        self.total = len(self.outcomes) + len(units)

    def __call__(self, units: Sequence[Unit]) -> None:
        if not units:
            return
        if self.run is None and self.engine is not None:
            self.run = self.stack.enter_context(self.engine)
        assert self.run is not None
        for outcome in self.run(units):
            self.outcomes.append(outcome)
            self.progress(len(self.outcomes), self.total, outcome.unit.name)
            if outcome.error:
                self.report(outcome)
