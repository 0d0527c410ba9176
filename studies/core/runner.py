"""From a study to its folder of results: every unit computed once, everything written whole."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import torch

from gbi_pyro.plots import save_figure
from studies.core.cache import Cache
from studies.core.device import CPU, check_device, run_device, running_on
from studies.core.processes import is_main, joined_processes, num_processes, wait_for_all
from studies.core.protocol import Part, Report, Study, part_settings
from studies.core.run_folder import CONFIG, describe, prepared, replacing_run
from studies.core.table import Row, targets_first


@dataclass(frozen=True)
class StudyResults:
    """Everything a study found.

    Attributes:
        rows: the table, every number.
        folder: where it lies on disk.
        figures: the figures' files.
        found: the records of each part, in the order of the seeds.
    """

    rows: list[Row]
    folder: Path
    figures: list[Path]
    found: dict[str, list[Any]]

    @property
    def targets(self) -> list[Row]:
        """The rows that have a target."""
        return [row for row in self.rows if row.target is not None]


@dataclass(frozen=True)
class _Unit:
    """Some seeds of one part, which are measured together."""

    part: Part[Any]
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        """The unit in words."""
        numbers = (
            f"{self.seeds[0]}" if len(self.seeds) == 1 else f"{self.seeds[0]}-{self.seeds[-1]}"
        )
        return f"seed {numbers}: {self.part.name}"


def num_stages(study: Study[Any]) -> int:
    """Return how many stages ``run`` reports where nothing was measured before."""
    seeds = study.config.all_seeds
    return sum(-(-len(seeds) // part.block_size) for part in study.parts()) + 2


def run(
    study: Study[Any],
    folder: Path,
    *,
    jobs: int = 1,
    device: str = "cpu",
    progress: Report = lambda _what: None,
    detail: Report = lambda _what: None,
) -> StudyResults:
    """Run a study and write it to a folder; units finished by an earlier run are reused.

    A unit is kept without the number of seeds: 20 seeds after 5 measure the other 15. Of processes
    started by ``torchrun`` all measure every unit, training together, and the first one writes.

    Args:
        study: what to do.
        folder: where the results go, all at once when they are whole; finished units in
            ``pieces/``. A run of the same study that is there is replaced.
        jobs: units measured side by side, in processes of one thread each.
        device: that networks run on, such as ``cuda``. Units of another device are not reused.
        progress: called at each of ``num_stages`` stages.
        detail: called within a stage; not from other processes.

    Returns:
        The table of results and where the files lie.

    Raises:
        OSError: where something cannot be written.
        ValueError: where the folder holds a run of another study, or another process writes to it;
            for a device or processes that the study does not use.
    """
    with joined_processes(_checked_device(study, device)) as here, running_on(here):
        _check_processes(study, jobs)
        with prepared(folder, study.name) if is_main() else contextlib.nullcontext():
            return _run(study, folder, jobs, progress, detail)


def _checked_device(study: Study[Any], name: str) -> torch.device:
    device = check_device(name)
    if device != CPU and not study.uses_device:
        raise ValueError(f"study {study.name} runs on the CPU alone; got device {name!r}")
    return device


def _check_processes(study: Study[Any], jobs: int) -> None:
    if num_processes() == 1:
        return
    if not study.trains_together:
        raise ValueError(
            f"study {study.name} does not train in several processes: run it without torchrun, "
            "with --jobs for units side by side"
        )
    if jobs > 1:
        raise ValueError(f"jobs should be 1 under torchrun; got {jobs}")


def _run(
    study: Study[Any], folder: Path, jobs: int, progress: Report, detail: Report
) -> StudyResults:
    start = time.perf_counter()
    cache = Cache(folder / "pieces")
    cache.remove_unfinished()
    study.checkpoints = folder / "checkpoints"
    progress("choices on validation seeds")
    study.prepare(cache, detail)
    about = describe(study.name, study.config, {**study.inputs(), **study.choices()})
    seeds, parts = study.config.all_seeds, study.parts()
    records: dict[tuple[str, int], Any] = {}
    todo: list[_Unit] = []
    for part in parts:
        missing = []
        for seed in seeds:
            found = cache.read(_name(part, seed), _unit_settings(study, part, seed), part.record)
            if found is None:
                missing.append(seed)
            else:
                records[part.name, seed] = found
        blocks = range(0, len(missing), part.block_size)
        units = [_Unit(part, tuple(missing[i : i + part.block_size])) for i in blocks]
        for _ in range(-(-len(seeds) // part.block_size) - len(units)):
            progress(f"{part.name}: finished earlier")
        todo += units
    wait_for_all()  # before any unit is written
    for unit, by_seed, seconds in _measured(todo, jobs, progress, detail):
        part, each = unit.part, seconds / len(unit.seeds)
        names = [_name(part, seed) for seed in unit.seeds]
        with cache.together(names):
            for seed, name, record in zip(unit.seeds, names, by_seed, strict=True):
                settings = _unit_settings(study, part, seed)
                kept = cache.write(name, settings, part.record, record, each)
                records[part.name, seed] = kept
    progress("table, figures and files")
    by_part = {part.name: [records[part.name, seed] for seed in seeds] for part in parts}
    if not is_main():
        return StudyResults([], folder, [], by_part)
    rows, posterior = targets_first(study.table(by_part)), study.posterior(by_part)
    networks, more = study.networks(by_part), study.extra_files(by_part)
    try:
        with replacing_run(folder, about["run"]) as store:
            store.write_json(CONFIG, about)
            drawn = [save_figure(fig, store.figures, name) for name, fig in study.figures(by_part)]
            if posterior is not None:
                store.write_posterior(posterior)
            if networks:
                store.write_weights(networks)
            for name, content in more.items():
                store.write_file(name, content)
            store.write_metrics(rows, time.perf_counter() - start + cache.seconds)
    except OSError as error:
        raise OSError(
            f"the results cannot be written ({error}); every finished unit is kept in "
            f"{cache.folder}: free some space and run again, which measures nothing twice"
        ) from error
    return StudyResults(rows, folder, [folder / "figures" / p.name for p in drawn], by_part)


def _name(part: Part[Any], seed: int) -> str:
    return f"{part.name}, seed {seed}"


def _unit_settings(study: Study[Any], part: Part[Any], seed: int) -> dict[str, Any]:
    """Return everything that a unit depends on, without the number of seeds and of other parts."""
    return {"seed": seed, **part_settings(study, part)}


def _measured(
    todo: Sequence[_Unit], jobs: int, progress: Report, detail: Report
) -> Iterator[tuple[_Unit, Sequence[Any], float]]:
    """Give each unit its records and the seconds they took, as they are finished."""
    if jobs == 1:
        for unit in todo:
            progress(unit.name)
            yield _measure(unit, detail)
        return
    calls = (joblib.delayed(_measure_on)(run_device(), unit) for unit in todo)
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
    for unit, records, seconds in parallel(calls):
        progress(unit.name)
        yield unit, records, seconds


def _measure_on(device: torch.device, unit: _Unit) -> tuple[_Unit, Sequence[Any], float]:
    """Measure a unit in another process."""
    with running_on(device):
        return _measure(unit)


def _measure(
    unit: _Unit, detail: Report = lambda _what: None
) -> tuple[_Unit, Sequence[Any], float]:
    torch.set_num_threads(1)  # small networks are fastest so, and units run side by side
    start = time.perf_counter()
    records = unit.part.measure(unit.seeds, lambda what: detail(f"{unit.name}: {what}"))
    return unit, records, time.perf_counter() - start
