"""A run on disk: config, metrics, posterior, weights and figures, which appear together."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gbi_pyro.export.inference_data import save_dataset, save_inference_data
from gbi_pyro.files import (
    MANIFEST,
    check_writable,
    partial_path,
    put_in_place,
    remove_partials,
    replacing,
)
from gbi_pyro.models.saved import save_networks
from studies.core.cache import as_json
from studies.core.device import describe_device, run_device
from studies.core.processes import num_processes
from studies.core.table import Row, markdown_table

try:
    import fcntl
except ImportError:  # not on Windows, where two runs in one folder are not distinguished
    fcntl = None  # type: ignore[assignment]

PACKAGES = ("gbi-pyro", "pyro-ppl", "torch", "numpy", "arviz", "matplotlib")
CONFIG, METRICS, TABLE, POSTERIOR = "config.json", "metrics.json", "table.md", "posterior.nc"


def describe(study: str, config: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration with what else a run depends on, its versions, and a name of it all.

    The name, ``run``, is the same in every file of the run, and in a run of the same content.
    """
    content = {
        "study": study,
        "config": asdict(config),
        "method_fields": sorted(getattr(config, "method_fields", ())),
        "inputs": as_json(inputs),
        "versions": {p: version(p) for p in PACKAGES},
        "python": platform.python_version(),
        "device": describe_device(run_device()),
        "processes": num_processes(),
        "threads": torch.get_num_threads(),
    }
    text = json.dumps(content, sort_keys=True)
    return {"run": hashlib.sha256(text.encode()).hexdigest()[:16], **content}


@dataclass(frozen=True)
class RunFolder:
    """The folder that the files of one run are written to.

    ``config.json``, ``metrics.json``, ``table.md``, ``posterior.nc``, ``weights.safetensors`` with
    ``weights.json`` (its manifest), and ``figures/``. No pickle is written or read.

    Args:
        path: where; made if it is not there.
        run: the name of the run, as ``describe`` gives it.
    """

    path: Path
    run: str = ""

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one JSON file; a number that is not finite becomes null."""
        text = json.dumps(as_json(content), indent=2, allow_nan=False)
        self.write_file(name, f"{text}\n")

    def write_config(self, study: str, config: Any, inputs: Mapping[str, Any]) -> None:
        """Write the configuration with what else the run depends on, and its versions."""
        self.write_json(CONFIG, describe(study, config, inputs))

    def write_file(self, name: str, content: Any) -> None:
        """Write one more file: text as it is, a data set as netCDF, anything else as JSON."""
        if isinstance(content, str):
            with replacing(self.path / name) as temporary:
                temporary.write_text(content)
        elif Path(name).suffix == ".nc":
            save_dataset(content.assign_attrs(run=self.run), self.path / name)
        else:
            self.write_json(name, content)

    def write_metrics(self, rows: list[Row], wall_time: float) -> None:
        """Write every row of the table of results, seed by seed, and the table to read."""
        times = {"run": self.run, "wall_time_s": round(wall_time, 1)}
        self.write_json(METRICS, {**times, "rows": [row.as_dict() for row in rows]})
        self.write_file(TABLE, markdown_table(rows) + "\n")

    def write_weights(self, networks: Mapping[str, nn.Module]) -> None:
        """Write the weights of named networks; ``gbi_pyro.models.load_network`` reads them."""
        save_networks(self.path, networks, run=self.run)

    def write_posterior(self, data: Any) -> None:
        """Write what ``to_inference_data`` returned."""
        data.attrs["run"] = self.run
        save_inference_data(data, self.path / POSTERIOR)

    @property
    def figures(self) -> Path:
        """The folder of the figures."""
        return self.path / "figures"


@contextlib.contextmanager
def prepared(folder: Path, study: str) -> Iterator[None]:
    """Hold a folder for a run of a study, before anything is computed.

    What ended processes left unfinished is removed.

    Args:
        folder: of the run; made if it is not there.
        study: its name.

    Raises:
        OSError: where the folder cannot be written to.
        ValueError: where it holds another study's run, or another process writes to it.
    """
    check_study(folder, study)
    check_writable(folder)
    with locked(folder, wait=False):
        remove_partials(folder, of_living=True)
        for inner in ("pieces", "checkpoints", "checkpoints/*"):
            for used in folder.glob(inner):
                remove_partials(used, of_living=True)
        yield


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool) -> Iterator[None]:
    """Hold a folder alone, where the file system has locks.

    Args:
        folder: which is there.
        wait: for the end of another process that holds it; else it is an error.

    Raises:
        ValueError: where another process holds it.
    """
    if not fcntl:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path, how: int) -> None:
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        raise ValueError(
            f"{folder} should be free; another process is writing a run to it: wait for its end, "
            "or give another folder"
        ) from None
    except OSError:  # a file system without locks
        return


def check_study(folder: Path, study: str) -> None:
    """Refuse a folder that holds a run of another study.

    Raises:
        ValueError: where it does.
    """
    path = folder / CONFIG
    if not path.exists():
        return
    try:
        found = json.loads(path.read_bytes())["study"]
    except (ValueError, KeyError, TypeError, RecursionError):
        if (folder / MANIFEST).exists():  # a run's, and damaged: the new one replaces it
            return
        raise ValueError(
            f"{folder} should be empty, or hold a run; its {CONFIG} is of no study: give another "
            "folder"
        ) from None
    if found != study:
        raise ValueError(
            f"{folder} should be empty, or hold a run of {study}; it holds one of {found}: give "
            "another folder, or remove this one"
        )


@contextlib.contextmanager
def replacing_run(folder: Path, run: str) -> Iterator[RunFolder]:
    """Give a new folder to write a run to, and put it in the place of the old one when it is whole.

    Finished units and checkpoints stay, and so do files that the old run did not write.

    Args:
        folder: of the run.
        run: the name of the run.

    Raises:
        OSError: where something cannot be written; the old run is then there as it was.
    """
    new = partial_path(folder / "run")
    try:
        yield RunFolder(new, run)
        put_in_place(new, folder, also=_of_an_earlier_version(folder))
    finally:
        remove_partials(folder, of_living=True)


def _of_an_earlier_version(folder: Path) -> list[str]:
    """Return the files of a run that was written without a manifest, or whose manifest is lost."""
    if not (folder / CONFIG).exists():
        return []
    names = [CONFIG, METRICS, TABLE, POSTERIOR, "weights.json", "weights.safetensors"]
    drawn = [p for kind in ("png", "pdf") for p in (folder / "figures").glob(f"*.{kind}")]
    return [*names, *(p.relative_to(folder).as_posix() for p in drawn)]
