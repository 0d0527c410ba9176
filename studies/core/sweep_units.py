"""Units of a sweep: some seeds of one part under one combination of settings, one file each."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import platform
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from gbi_pyro.files import replacing
from studies.core.cache import (
    VERSIONS,
    Cache,
    Record,
    as_file_name,
    as_json,
    read_record,
    write_record,
)
from studies.core.protocol import Part, Seeds, Study, part_settings
from studies.core.settings import format_seeds, parse_seeds

UNITS, CHOICES, FAILED = "units", "choices", "failed"
DIGITS = 16  # of the digest in a file's name
_ONE_AT_A_TIME = threading.Lock()  # units change torch's threads and Pyro's parameters


@dataclass(frozen=True)
class Combination:
    """A study under one combination of the settings that are compared.

    Attributes:
        study: its class, which the processes of the sweep can import.
        config: its configuration; the seeds in it are not used.
        folder: of the sweep, shared by all processes.
        data: the folder of data files, for studies that read any.
        settings: those that are compared, by name.
        name: those of them that differ, in words.
    """

    study: type[Study[Any]]
    config: Seeds
    folder: Path
    data: Path | None = None
    settings: tuple[tuple[str, Any], ...] = ()
    name: str = ""

    @property
    def digest(self) -> str:
        """The digest of the configuration without its seeds."""
        config = {k: v for k, v in asdict(self.config).items() if k not in asdict(Seeds())}
        return _digest(config)

    def prepare(self, *, compute: bool) -> Study[Any] | None:
        """Return the study with its choices made, or None where there are some to make.

        Args:
            compute: whether to make those that are not there.
        """
        study = self.study(self.config, self.data)
        study.checkpoints = self.folder / "checkpoints" / self.digest
        folder = self.folder / CHOICES / self.digest
        try:
            study.prepare(Cache(folder) if compute else _Finished(folder), lambda _what: None)
        except _NotThereError:
            return None
        return study


def shown(value: Any) -> str:
    """Return a setting's value as it is given on the command line."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else f"{value}"


class _NotThereError(Exception):
    """A choice is still to be made."""


class _Finished(Cache):
    """The records of a folder, of which none is computed."""

    def get(
        self,
        name: str,
        settings: Mapping[str, Any],
        record: type[Record],
        compute: Callable[[], Record],
    ) -> Record:
        if (found := self.read(name, settings, record)) is None:
            raise _NotThereError
        return found


@dataclass(frozen=True)
class Unit:
    """Some seeds of one part, or the choices that all parts of a combination wait for.

    Attributes:
        combination: the study and its settings.
        part: the name of the part; None for the choices.
        seeds: those that are measured together.
        digest: of everything that the numbers depend on beside the seeds.
    """

    combination: Combination
    part: str | None
    seeds: tuple[int, ...]
    digest: str

    @property
    def name(self) -> str:
        """The unit in words."""
        seeds = f"seed {format_seeds(self.seeds)}" if self.seeds else ""
        words = self.combination.name, seeds, self.part or "choices on validation seeds"
        return ", ".join(filter(None, words))

    @property
    def path(self) -> Path:
        """The file of its records."""
        return self.combination.folder / UNITS / f"{self._stem}.npz"

    @property
    def failure(self) -> Path:
        """The file of the traceback, if it fails."""
        return self.combination.folder / FAILED / f"{self._stem}.txt"

    @property
    def _stem(self) -> str:
        return f"{as_file_name(self.part or CHOICES)}.{self.digest}.{format_seeds(self.seeds)}"

    def read(self, study: Study[Any], part: Part[Any]) -> tuple[list[Any], float] | None:
        """Return its records in the order of the seeds, and the seconds they took, if it is done.

        Args:
            study: with its choices made.
            part: the one that it measures.
        """
        kind: Any = list[part.record]  # type: ignore[name-defined]
        return read_record(self.path, self._key(study, part), kind)

    def measure(self, study: Study[Any], part: Part[Any]) -> None:
        """Measure and write its records, all by one rename."""
        start = time.perf_counter()
        records = list(part.measure(self.seeds, lambda _what: None))
        seconds = time.perf_counter() - start
        kind: Any = list[part.record]  # type: ignore[name-defined]
        write_record(self.path, self._key(study, part), kind, records, seconds)

    def _key(self, study: Study[Any], part: Part[Any]) -> dict[str, Any]:
        return {"settings": part_settings(study, part), "seeds": list(self.seeds)}


def digest_of(study: Study[Any], part: Part[Any]) -> str:
    """Return the digest of everything that the units of a part depend on beside their seeds."""
    return _digest({**part_settings(study, part), "versions": VERSIONS})


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(as_json(content), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def finished_seeds(folder: Path) -> dict[str, dict[int, tuple[int, ...]]]:
    """Return the seeds of the finished units by digest: for each seed those of its unit."""
    found: dict[str, dict[int, tuple[int, ...]]] = {}
    for path in sorted((folder / UNITS).glob("*.npz")):
        if path.name.startswith("."):  # not finished
            continue
        _, digest, seeds = path.stem.rsplit(".", 2)
        together = parse_seeds(seeds)
        found.setdefault(digest, {}).update(dict.fromkeys(together, together))
    return found


@dataclass(frozen=True)
class Outcome:
    """What became of a unit.

    Attributes:
        unit: which.
        error: the reason in one line, if it failed.
    """

    unit: Unit
    error: str = ""


def attempt(unit: Unit) -> Outcome:
    """Measure a unit, if it is not finished; an error is written to its file and returned."""
    with _ONE_AT_A_TIME:
        try:
            _measure(unit)
        except Exception as error:
            return failed(unit, error)
    with contextlib.suppress(OSError):
        unit.failure.unlink(missing_ok=True)
    return Outcome(unit)


def failed(unit: Unit, error: BaseException) -> Outcome:
    """Write an error with its traceback to the unit's file."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    text = "".join(traceback.format_exception(error))
    with contextlib.suppress(OSError), replacing(unit.failure) as temporary:
        temporary.write_text(f"{unit.name}\non {platform.node()}\n\n{text}")
    return Outcome(unit, reason)


def _measure(unit: Unit) -> None:
    torch.set_num_threads(1)  # small networks are fastest so, and units run side by side
    if unit.part is None:
        unit.combination.prepare(compute=True)
        return
    study = _prepared(unit.combination)
    part = next(part for part in study.parts() if part.name == unit.part)
    if digest_of(study, part) != unit.digest:
        raise ValueError(
            f"{unit.name} should be measured with the data and the versions of the process that "
            f"asks for it; on {platform.node()} they differ"
        )
    if unit.read(study, part) is None:  # nobody else finished it meanwhile
        unit.measure(study, part)


@functools.lru_cache(maxsize=1)  # units of a combination mostly come one after another
def _prepared(combination: Combination) -> Study[Any]:
    study = combination.prepare(compute=True)
    assert study is not None
    return study
