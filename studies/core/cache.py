"""Finished units of a study on disk: records of numbers and arrays, one file each."""

from __future__ import annotations

import dataclasses
import json
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import cattrs
import numpy as np
import torch
from torch import Tensor

from gbi_pyro.files import replacing

Record = TypeVar("Record")
ABOUT = "about"  # the entry of a file that holds everything but the arrays, as JSON
ARRAY = "array"


class Cache:
    """Records by name and settings; a record of other settings is computed anew.

    A file is a zip archive of arrays (``.npz``), whose entries carry their own checksums.
    Nothing in it is executed when it is read.

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
        path = self._path(name)
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file[ABOUT]))
            if (about["name"], about["settings"]) != (name, as_json(settings)):
                return None
            arrays = {key: file[key] for key in file.files if key != ABOUT}
        self.seconds += about["seconds"]
        return _CONVERTER.structure(_with_arrays(about["record"], arrays), record)

    def write(
        self,
        name: str,
        settings: Mapping[str, Any],
        record: type[Record],
        value: Record,
        seconds: float,
    ) -> Record:
        """Write a record, whole or not at all, and return it as it will be read."""
        arrays: dict[str, np.ndarray] = {}
        about = {
            "name": name,
            "settings": as_json(settings),
            "seconds": round(seconds, 3),
            "record": _without_arrays(_CONVERTER.unstructure(value), arrays),
        }
        with replacing(self._path(name)) as temporary:
            entries: dict[str, Any] = {ABOUT: np.array(json.dumps(about)), **arrays}
            np.savez(temporary, **entries)
        content = json.loads(json.dumps(about["record"]))
        return _CONVERTER.structure(_with_arrays(content, arrays), record)

    def _path(self, name: str) -> Path:
        return self.folder / f"{_as_file_name(name)}.npz"


def as_json(settings: Any) -> Any:
    """Return settings as JSON gives them back: lists for tuples, dictionaries for dataclasses."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        settings = dataclasses.asdict(settings)
    return json.loads(json.dumps(settings, default=_CONVERTER.unstructure))


def _without_arrays(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Replace arrays by their keys, and dictionaries by lists of pairs: keys need not be texts."""
    if isinstance(value, np.ndarray):
        key = f"{len(arrays)}"
        arrays[key] = value
        return {ARRAY: key}
    if isinstance(value, Mapping):
        pairs = value.items()
        return {
            "pairs": [[_without_arrays(k, arrays), _without_arrays(v, arrays)] for k, v in pairs]
        }
    if isinstance(value, (list, tuple)):
        return [_without_arrays(v, arrays) for v in value]
    return value


def _with_arrays(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if ARRAY in value:
            return arrays[value[ARRAY]]
        pairs = ((_with_arrays(k, arrays), _with_arrays(v, arrays)) for k, v in value["pairs"])
        return {tuple(k) if isinstance(k, list) else k: v for k, v in pairs}
    if isinstance(value, list):
        return [_with_arrays(v, arrays) for v in value]
    return value


def _as_file_name(name: str) -> str:
    """Return a name of letters, digits, points and hyphens.

    >>> _as_file_name("K = 2, sigma 0.1")
    'K-2-sigma-0.1'
    """
    kept = "".join(c if c.isalnum() or c == "." else " " for c in name)
    return "-".join(kept.split())


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter()
    converter.register_unstructure_hook(Tensor, lambda t: t.detach().cpu().numpy())
    converter.register_structure_hook(Tensor, lambda a, _: torch.from_numpy(np.array(a)))
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
