"""Damage files and read them: ``python -m benchmarks.mutations [--count 5000] [--seed 0]``.

Each file is one that a reader of the library or of the studies takes, changed at random: bits
flipped, cut, bytes inserted, a block of zeros, a value of its JSON changed. The reader may give
what the whole file gives, or refuse in one line of its own words, or set the file aside. Raw
errors, altered values, more than a gigabyte, and more than ten seconds are faults. Data of users,
such as texts and CIFAR's rows, carry no checksum: there an altered value is read as it stands.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import random
import resource
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from gbi_pyro import Calibration
from gbi_pyro.data.formats import IDX_FILES, PUBLISHED, CifarSet, IdxSet, read_idx
from gbi_pyro.data.text import SPLITS, read_corpora
from gbi_pyro.export.inference_data import to_inference_data
from gbi_pyro.files import Manifest
from gbi_pyro.metrics.runs import Run
from gbi_pyro.models import SequenceLSTM, load_network
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.sites import Plate, TaskSite
from studies.core.cache import Cache
from studies.core.index import publish, write_index
from studies.core.run_folder import RunFolder
from studies.core.table import Row
from studies.core.training import train_epochs
from studies.toy.config import ToyConfig

MEMORY, SECONDS = 2**30, 10
N = 6


@dataclass(frozen=True)
class Reader:
    """A reader and the files it takes.

    Attributes:
        name: of the reader.
        write: writes whole files to a folder.
        files: those that are damaged; of each call, one.
        read: reads them, and gives something to compare.
        exact: whether an altered value would be a fault.
    """

    name: str
    write: Callable[[Path], None]
    files: tuple[str, ...]
    read: Callable[[Path], Any]
    exact: bool = True


@dataclass(frozen=True)
class Piece:
    """What a study may keep."""

    number: float
    array: np.ndarray
    texts: dict[str, int]


def write_run(folder: Path) -> None:
    """Write a small run with all its files."""
    store = RunFolder(folder, "a")
    store.write_config("toy", ToyConfig(seeds=2), {"rate": 0.1})
    store.write_metrics([Row.of("T9", "error", (0.5, 0.75)), Row.of("", "seconds", (1.5, 2))], 3.0)
    store.write_weights({"net": SequenceLSTM(2, 3, generator=torch.Generator().manual_seed(0))})
    half = torch.full((N, 2), 0.5).log()
    found = TaskPosterior(
        {"z": half}, {"z": TaskSite("z", half, (Plate("trial", N, N),))}, "example"
    )
    found = dataclasses.replace(found, log_evidence=torch.linspace(-2, -1, N))
    store.write_posterior(to_inference_data(found, observed={"x": torch.arange(N)}))
    Manifest.write(folder)


def read_run(folder: Path) -> Any:
    """Read a run as ``gbi-pyro compare`` does."""
    run = Run.read(folder)
    found = None if run.pointwise is None else run.pointwise.values.tolist()
    return run.study, run.config, run.quantities, found


def read_resealed(folder: Path) -> Any:
    """Read a run whose manifest says that all is well: what is wrong was written so."""
    Manifest.write(folder)
    return read_run(folder), read_weights(folder)


def read_weights(folder: Path) -> Any:
    """Read a network."""
    return {k: v.tolist() for k, v in load_network(folder, "net").state_dict().items()}


def read_published(folder: Path) -> Any:
    """Publish a run and write the index of results."""
    results = folder.parent / "results"
    shutil.rmtree(results, ignore_errors=True)
    published = publish(folder, results)
    write_index(results)
    return [(p.name, p.read_bytes()) for p in sorted([*published.iterdir(), results / "README.md"])]


def write_index_of(folder: Path) -> None:
    """Write results with one study."""
    write_run(folder / "run")
    publish(folder / "run", folder / "results")
    shutil.rmtree(folder / "run")


def read_index(folder: Path) -> Any:
    """Write the index of results, and read it."""
    return write_index(folder / "results").read_bytes()


def write_piece(folder: Path) -> None:
    """Write a finished unit."""
    value = Piece(0.5, np.arange(5.0), {"a": 1})
    Cache(folder).write("piece", {"rate": 0.1}, Piece, value, 1.5)


def read_piece(folder: Path) -> Any:
    """Read a finished unit; one that was set aside is made anew."""
    value = Cache(folder).get(
        "piece", {"rate": 0.1}, Piece, lambda: Piece(0.5, np.arange(5.0), {"a": 1})
    )
    return value.number, value.array.tolist(), value.texts


def train(folder: Path) -> Any:
    """Train a small network for three epochs, after a checkpoint if there is one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = torch.nn.Linear(2, 1)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=9)
    measured = train_epochs(
        module,
        lambda x: module(x).square().mean(),
        lambda draw: [(torch.randn(4, 2, generator=draw),) for _ in range(3)],
        optimiser,
        schedule,
        epochs=3,
        seed=0,
        checkpoint=folder / "checkpoint.npz",
        measure=lambda _epoch, _loss: [module.weight.sum().item()],
    )
    return {k: v.tolist() for k, v in module.state_dict().items()}, measured


def idx(array: np.ndarray) -> bytes:
    """Return the bytes of an IDX file."""
    magic = 2051 if array.ndim == 3 else 2049
    return magic.to_bytes(4, "big") + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def _idx_set() -> tuple[IdxSet, dict[str, bytes]]:
    draw = np.random.default_rng(0)
    labels = np.arange(20, dtype=np.uint8) % 10
    images = draw.integers(0, 256, (20, 3, 3), dtype=np.uint8)
    raw = [idx(images), idx(labels), idx(images[:10]), idx(labels[:10])]
    content = tuple(hashlib.sha256(r).hexdigest() for r in raw)
    published = IdxSet("set", "", tuple("0123456789"), ("", "", "", ""), content)  # type: ignore[arg-type]
    packed = [gzip.compress(r, mtime=0) for r in raw]
    return published, {f"{n}.gz": p for n, p in zip(IDX_FILES, packed, strict=True)}


IDX, IDX_CONTENT = _idx_set()
CIFAR = PUBLISHED["cifar10"]
assert isinstance(CIFAR, CifarSet)


def write_idx(folder: Path) -> None:
    """Write a published set of images."""
    for name, content in IDX_CONTENT.items():
        (folder / name).write_bytes(content)


def write_cifar(folder: Path) -> None:
    """Write the files of CIFAR-10, ten images each."""
    pixels = np.random.default_rng(0).integers(0, 256, (10, 3072), dtype=np.uint8)
    rows = np.concatenate([np.arange(10, dtype=np.uint8)[:, None], pixels], 1).tobytes()
    for name in (*CIFAR.train, CIFAR.test):
        (folder / name).write_bytes(rows)


def write_texts(folder: Path) -> None:
    """Write two corpora."""
    for split in SPLITS:
        (folder / split).mkdir()
        for name in ("chat", "mail"):
            (folder / split / f"{name}.txt").write_text(f"{name} says wörds\nand more\n" * 5)


def write_calibration(folder: Path) -> None:
    """Write a calibration."""
    Calibration(1.5, torch.tensor([0.25, -0.25])).save(folder / "calibration.json")


def read_calibration(folder: Path) -> Any:
    """Read a calibration."""
    found = Calibration.load(folder / "calibration.json")
    return found.temperature, found.offsets.tolist(), found.site


def arrays(found: Any) -> Any:
    """Return what arrays hold."""
    return [(part.shape, part.tobytes()) for pair in found for part in pair]


WEIGHTS = ("weights.safetensors", "weights.json")
RUN = ("config.json", "metrics.json", "posterior.nc", "run.json")
READERS = (
    Reader("compare", write_run, RUN, read_run),
    # Not posterior.nc: HDF5 hangs on some damaged files, so none is given to it unchecked.
    Reader("written wrongly", write_run, (*RUN[:2], *WEIGHTS), read_resealed, exact=False),
    Reader("weights", write_run, (*WEIGHTS, "run.json"), read_weights),
    Reader("publish", write_run, ("table.md", "config.json", "metrics.json"), read_published),
    Reader(
        "index",
        write_index_of,
        tuple(f"results/toy/{n}" for n in ("config.json", "metrics.json", "run.json")),
        read_index,
    ),
    Reader("pieces", write_piece, ("piece.npz",), read_piece),
    Reader("checkpoints", lambda folder: train(folder) and None, ("checkpoint.npz",), train),
    Reader("calibration", write_calibration, ("calibration.json",), read_calibration),
    Reader("IDX set", write_idx, tuple(IDX_CONTENT), lambda f: arrays(IDX.read(f, "again"))),
    Reader(
        "gzip",
        write_idx,
        tuple(IDX_CONTENT)[:1],
        lambda f: read_idx(f / f"{IDX_FILES[0]}.gz").tobytes(),
    ),
    Reader(
        "CIFAR",
        write_cifar,
        (*CIFAR.train, CIFAR.test),
        lambda f: arrays(CIFAR.read(f, "again")),
        exact=False,
    ),
    Reader(
        "texts",
        write_texts,
        tuple(f"{s}/{n}.txt" for s in SPLITS for n in ("chat", "mail")),
        read_corpora,
        exact=False,
    ),
)


def mutate(raw: bytes, draw: random.Random, *, is_json: bool) -> bytes:
    """Return some bytes, changed at random."""
    kind = draw.choice(("bits", "cut", "insert", "zeros", *(("json", "json") if is_json else ())))
    at = draw.randrange(len(raw))
    if kind == "bits":
        changed = bytearray(raw)
        for _ in range(draw.choice((1, 1, 8))):
            changed[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        return bytes(changed)
    if kind == "cut":
        return raw[:at] + (raw[at + draw.randrange(1, 50) :] if draw.random() < 0.5 else b"")
    if kind == "insert":
        return raw[:at] + draw.randbytes(draw.randrange(1, 50)) + raw[at:]
    if kind == "zeros":
        size = min(draw.randrange(1, 200), len(raw) - at)
        return raw[:at] + bytes(size) + raw[at + size :]
    return json.dumps(_edited(json.loads(raw), draw), indent=2).encode()


def _edited(value: Any, draw: random.Random) -> Any:
    """Change one value somewhere in JSON."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice([*value])
        if draw.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: _edited(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.9:
        i = draw.randrange(len(value))
        return [*value[:i], _edited(value[i], draw), *value[i + 1 :]]
    if isinstance(value, (int, float)) and draw.random() < 0.5:
        return value * 2 + 1
    return draw.choice((None, -1, 1e300, 10**400, "", "../../x", [], {}, [[]], True, {"a": 1}))


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Bound memory and time."""

    def stop(*_: Any) -> None:
        raise TimeoutError("the reader takes too long")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def judge(reader: Reader, folder: Path, expected: Any) -> str:
    """Read a damaged file, and say what came of it; a fault begins with ``FAULT``."""
    errors = io.StringIO()
    try:
        with limited(), contextlib.redirect_stderr(errors):
            found = reader.read(folder)
    except (MemoryError, TimeoutError) as error:
        return f"FAULT, {type(error).__name__}"
    except (ValueError, OSError) as error:
        raw = type(error) not in (ValueError, OSError, FileNotFoundError)
        if raw or "\n" in str(error) or str(folder.parent) not in str(error):
            return f"FAULT, in other words: {error!r}"
        return "refused"
    except Exception as error:
        return f"FAULT, raw: {error!r}"
    said = errors.getvalue()
    if said and (said.count("\n") != 1 or "set aside as" not in said):
        return f"FAULT, in other words: {said}"
    if found == expected:
        return "set aside" if said else "the same"
    return "FAULT, altered" if reader.exact else "read as it stands"


def fuzz(count: int, seed: int = 0) -> Counter[tuple[str, str]]:
    """Damage files of every reader in turn; returns how often what came of it, by reader."""
    draw, found = random.Random(seed), Counter[tuple[str, str]]()
    with tempfile.TemporaryDirectory() as root:
        wholes, expected = {}, {}
        for reader in READERS:
            wholes[reader.name] = Path(root) / "whole" / reader.name.replace(" ", "-")
            wholes[reader.name].mkdir(parents=True)
            reader.write(wholes[reader.name])
            expected[reader.name] = reader.read(wholes[reader.name])
        for i in range(count):
            reader = READERS[i % len(READERS)]
            folder = Path(root) / "damaged" / "run"
            shutil.rmtree(folder.parent, ignore_errors=True)
            shutil.copytree(wholes[reader.name], folder)
            path = folder / draw.choice(reader.files)
            raw = path.read_bytes()
            changed = raw
            while changed == raw:
                changed = mutate(raw, draw, is_json=path.suffix == ".json")
            path.write_bytes(changed)
            found[reader.name, judge(reader, folder, expected[reader.name])] += 1
    return found


@click.command()
@click.option("--count", default=5000, show_default=True, help="Damaged files.")
@click.option("--seed", default=0, show_default=True)
def main(count: int, seed: int) -> None:
    """Print what came of the damaged files."""
    found = fuzz(count, seed)
    for (reader, outcome), number in sorted(found.items()):
        click.echo(f"{reader}: {number} {outcome}")
    faults = sum(number for (_, outcome), number in found.items() if outcome.startswith("FAULT"))
    click.echo(f"{sum(found.values())} damaged files, {faults} faults")
    raise SystemExit(int(faults > 0))


if __name__ == "__main__":
    main()
