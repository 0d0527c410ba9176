"""Finished units of a study on disk: records of numbers and arrays, one file each."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import cattrs
import click
import numpy as np
import torch
from torch import Tensor

from gbi_pyro.files import replacing
from studies.core.device import run_key
from studies.core.processes import is_main

Record = TypeVar("Record")
TOGETHER = "written together.npz"  # not the name of a record: those have no spaces
ABOUT = "about"  # the entry of a file that holds everything but the arrays, as JSON
ARRAY, FLOAT, PAIRS = "array", "float", "pairs"
DIGEST = 32  # bytes of the SHA-256 that ends a file
VERSIONS = {package: version(package) for package in ("gbi-pyro", "torch")}
"""Versions of what computes the numbers: every record depends on them."""


class Cache:
    """Records by name and settings; a record of other settings is computed anew.

    A damaged file is set aside as ``*.damaged``, with one line on stderr, and its record computed
    anew. Nothing in a file is executed when it is read.

    Args:
        folder: where the files lie.

    Attributes:
        seconds: what the records took that an earlier run had computed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds = 0.0

    def get(
        self,
        name: str,
        settings: Mapping[str, Any],
        record: type[Record],
        compute: Callable[[], Record],
    ) -> Record:
        """Return a record: read if it is there, else computed and written.

        Args:
            name: of the record, which becomes the file's.
            settings: everything that it depends on, as JSON can hold it.
            record: its type, a dataclass of numbers, texts, arrays and containers of them.
            compute: gives it.
        """
        if (found := self.read(name, settings, record)) is not None:
            return found
        start = time.perf_counter()
        value = compute()
        return self.write(name, settings, record, value, time.perf_counter() - start)

    def read(self, name: str, settings: Mapping[str, Any], record: type[Record]) -> Record | None:
        """Return a record, or None where there is none of these settings."""
        found = read_record(self._path(name), {"name": name, "settings": settings}, record)
        if found is None:
            return None
        value, seconds = found
        self.seconds += seconds
        return value

    def write(
        self,
        name: str,
        settings: Mapping[str, Any],
        record: type[Record],
        value: Record,
        seconds: float,
    ) -> Record:
        """Write a record, whole or not at all, and return it as it will be read."""
        key = {"name": name, "settings": settings}
        return write_record(self._path(name), key, record, value, seconds)

    @contextlib.contextmanager
    def together(self, names: Sequence[str]) -> Iterator[None]:
        """Have the records that the body writes count once all of them are there.

        Seeds that run side by side in one tensor differ in the last digits from a seed that runs
        alone: after a kill between two of their records none is reused.

        Args:
            names: of the records.
        """
        if len(names) < 2:
            yield
            return
        path = self.folder / TOGETHER
        write_record(path, {}, _Group, _Group(list(names)))
        yield
        path.unlink()

    def remove_unfinished(self) -> None:
        """Remove records that an earlier run should have written together, and did not."""
        path = self.folder / TOGETHER
        if found := read_record(path, {}, _Group):
            for name in found[0].names:
                self._path(name).unlink(missing_ok=True)
            path.unlink()

    def _path(self, name: str) -> Path:
        return self.folder / f"{as_file_name(name)}.npz"


@dataclasses.dataclass(frozen=True)
class _Group:
    """The names of records that are written together."""

    names: list[str]


def write_record(
    path: Path, key: Mapping[str, Any], record: type[Record], value: Record, seconds: float = 0.0
) -> Record:
    """Write a record, whole or not at all, and return it as it will be read.

    The file is a zip archive of arrays (``.npz``) with the SHA-256 of all of it at its end. Of
    processes that train together the first one writes it.

    Args:
        path: of the file.
        key: everything that the record depends on, as JSON can hold it.
        record: its type.
        value: the record.
        seconds: what it took to compute.
    """
    arrays: dict[str, np.ndarray] = {}
    about = {
        "key": _whole(key),
        "seconds": round(seconds, 3),
        "record": _without_arrays(_CONVERTER.unstructure(value), arrays),
    }
    text = json.dumps(about, allow_nan=False)
    file = io.BytesIO()
    entries: dict[str, Any] = {ABOUT: np.array(text), **arrays}
    np.savez(file, **entries)
    content = file.getvalue()
    if is_main():
        with replacing(path) as temporary:
            temporary.write_bytes(content + hashlib.sha256(content).digest())
    return _CONVERTER.structure(_with_arrays(json.loads(text)["record"], arrays), record)


def read_record(
    path: Path, key: Mapping[str, Any], record: type[Record]
) -> tuple[Record, float] | None:
    """Return a record with the seconds it took, or None where there is none of this key.

    A file that is not as it was written is set aside as ``*.damaged``, with one line on stderr.
    """
    if not path.exists():
        return None
    raw = path.read_bytes()
    content = raw[:-DIGEST]
    if hashlib.sha256(content).digest() != raw[-DIGEST:]:
        _set_aside(path, "is damaged, or of an earlier version")
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        about = json.loads(str(file[ABOUT]))
        if about["key"] != _whole(key):
            return None
        arrays = {name: file[name] for name in file.files if name != ABOUT}
    try:
        value = _CONVERTER.structure(_with_arrays(about["record"], arrays), record)
    except (cattrs.BaseValidationError, KeyError, TypeError, ValueError):
        _set_aside(path, f"holds no {record.__name__}, as another version of the study")
        return None
    return value, about["seconds"]


def _whole(key: Mapping[str, Any]) -> Any:
    """Return a key with what every record depends on: versions, and where it was computed."""
    return as_json({**key, **run_key(), "versions": VERSIONS})


def _set_aside(path: Path, why: str) -> None:
    if not is_main():
        return
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    click.echo(f"{path} {why}: set aside as {aside.name}, and made anew", err=True)


def read_config(about: Mapping[str, Any], config_type: type[Record]) -> Record:
    """Return the configuration of a run from what its ``config.json`` holds.

    JSON has no tuples: they are made again from the types of the fields.

    Args:
        about: the content of ``config.json``.
        config_type: the dataclass of the study's settings.

    Raises:
        ValueError: if it has other fields, or values that do not fit.
    """
    settings, name = about["config"], config_type.__name__
    expected = {field.name for field in dataclasses.fields(config_type)}  # type: ignore[arg-type]
    if set(settings) != expected:
        raise ValueError(
            f"config.json should have the fields of {name}; it differs in "
            f"{sorted(expected ^ set(settings))}"
        )
    try:
        return structure(settings, config_type)
    except ValueError as error:
        raise ValueError(f"config.json should hold a {name}; got {error}") from None


def structure(value: Any, kind: type[Record]) -> Record:
    """Return a value of a type from what JSON holds of it.

    Raises:
        ValueError: with the reasons, where it does not fit.
    """
    try:
        return _CONVERTER.structure(value, kind)
    except cattrs.BaseValidationError as error:
        raise ValueError("; ".join(cattrs.transform_error(error))) from None


def as_json(settings: Any) -> Any:
    """Return settings as JSON gives them back: lists for tuples, dictionaries for dataclasses.

    A number that is not finite becomes None: JSON has none.
    """
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        settings = dataclasses.asdict(settings)
    return _finite(json.loads(json.dumps(settings, default=_CONVERTER.unstructure)))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _without_arrays(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Replace what JSON lacks: arrays, dictionaries whose keys are no texts, and NaN."""
    if isinstance(value, np.ndarray):
        key = f"{len(arrays)}"
        arrays[key] = value
        return {ARRAY: key}
    if isinstance(value, float) and not math.isfinite(value):
        return {FLOAT: repr(value)}
    if isinstance(value, Mapping):
        pairs = value.items()
        return {PAIRS: [[_without_arrays(k, arrays), _without_arrays(v, arrays)] for k, v in pairs]}
    if isinstance(value, (list, tuple)):
        return [_without_arrays(v, arrays) for v in value]
    return value


def _with_arrays(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if ARRAY in value:
            return arrays[value[ARRAY]]
        if FLOAT in value:
            return float(value[FLOAT])
        pairs = ((_with_arrays(k, arrays), _with_arrays(v, arrays)) for k, v in value[PAIRS])
        return {tuple(k) if isinstance(k, list) else k: v for k, v in pairs}
    if isinstance(value, list):
        return [_with_arrays(v, arrays) for v in value]
    return value


def as_file_name(name: str) -> str:
    """Return a name of letters, digits, points and hyphens.

    >>> as_file_name("K = 2, sigma 0.1")
    'K-2-sigma-0.1'
    """
    kept = "".join(c if c.isalnum() or c == "." else " " for c in name)
    return "-".join(kept.split())


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter()
    converter.register_unstructure_hook(Tensor, lambda t: t.detach().cpu().numpy())
    converter.register_structure_hook(Tensor, lambda a, _: torch.from_numpy(np.array(a)))
    converter.register_structure_hook_func(
        _is_tensor_or_other,
        lambda a, _: torch.from_numpy(np.array(a)) if isinstance(a, np.ndarray) else a,
    )
    converter.register_unstructure_hook_func(_is_array, lambda a: a)
    converter.register_structure_hook_func(_is_array, lambda a, _: np.asarray(a))
    scalars = (np.floating, np.integer, np.bool_)
    converter.register_unstructure_hook_func(
        lambda kind: isinstance(kind, type) and issubclass(kind, scalars),
        lambda value: value.item(),
    )
    # cattrs does not resolve a named tuple's annotations, which are texts.
    converter.register_unstructure_hook_func(
        _is_named_tuple, lambda value: [converter.unstructure(v) for v in value]
    )
    converter.register_structure_hook_func(
        _is_named_tuple,
        lambda values, kind: kind(*map(converter.structure, values, get_type_hints(kind).values())),
    )
    return converter


def _is_tensor_or_other(kind: Any) -> bool:
    """Whether a type is a union of a tensor with what JSON holds, a text for instance."""
    return get_origin(kind) in (Union, types.UnionType) and Tensor in get_args(kind)


def _is_named_tuple(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


def _is_array(kind: Any) -> bool:
    origin = getattr(kind, "__origin__", kind)
    return (
        isinstance(origin, type)
        and not isinstance(origin, types.GenericAlias)
        and issubclass(origin, np.ndarray)
    )


_CONVERTER = _make_converter()
