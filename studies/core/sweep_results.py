"""The results of a sweep: a data set with a dimension for each setting and for the seeds."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.core.run_folder import CONFIG, describe, locked, replacing_run
from studies.core.sweep import Measured, sweep_name
from studies.core.sweep_units import shown
from studies.core.table import Row, unique_names

if TYPE_CHECKING:
    import xarray as xr

DATASET, VALUES = "sweep.nc", "sweep.csv"


@dataclass(frozen=True)
class Value:
    """One quantity under one combination of settings, of one seed.

    Attributes:
        quantity: in words, with its claim; without the settings that are compared.
        settings: those that are compared, by name.
        seed: of the value.
        value: the mean, where a seed has several.
        row: of the study's table.
    """

    quantity: str
    settings: tuple[tuple[str, Any], ...]
    seed: int
    value: float
    row: Row


def values_of(everything: Sequence[Measured], seeds: Sequence[int]) -> list[Value]:
    """Return the rows of the study's table, made for every seed of its own.

    So it is known which seed a value belongs to, also where a row holds several of a seed.
    Seeds that are not finished are left out.

    Args:
        everything: what was measured.
        seeds: those that were asked for.
    """
    tables: dict[tuple[tuple[tuple[str, Any], ...], int], dict[str, Row]] = {}
    for measured in everything:
        for seed in seeds:
            if (records := measured.found(seed)) is not None:
                rows = measured.study_of(seed).table(records)
                names = unique_names((row.claim, row.what) for row in rows)
                tables[measured.combination.settings, seed] = dict(zip(names, rows, strict=True))
    of_settings: dict[Any, set[str]] = {}
    for (settings, _), table in tables.items():
        of_settings.setdefault(settings, set()).update(table)
    everywhere = set.intersection(*of_settings.values()) if of_settings else set()
    found = []
    for (settings, seed), table in tables.items():
        short = [n if n in everywhere else without_settings(n, settings) for n in table]
        for shorter, (name, row) in zip(short, table.items(), strict=True):
            quantity = shorter if short.count(shorter) == 1 else name
            found.append(Value(quantity, settings, seed, row.mean, row))
    return found


def without_settings(name: str, settings: Sequence[tuple[str, Any]]) -> str:
    """Return the name of a quantity without the values of settings.

    A name such as "sigma 0.1: error" says the setting, and would be another quantity for each.

    >>> without_settings("K = 2, sigma 0.1: error", [("sigma", 0.1)])
    'K = 2, sigma: error'
    """
    for key, value in settings:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        text = re.escape(f"{value:g}" if number else shown(value))
        words = re.escape(key.replace("_", " ")).replace(r"\ ", "[ _]")
        name = re.sub(rf"\b({words})(?: ?= ?| ){text}(?![\w.]*\w)", r"\1", name)
    return name


def as_dataset(everything: Sequence[Measured], values: Sequence[Value]) -> xr.Dataset:
    """Return ``value[quantity, *settings, seed]`` and ``seconds[part, *settings, seed]``.

    What is not finished, or no quantity of a combination, is NaN.

    Args:
        everything: what was measured.
        values: of the quantities.
    """
    import xarray as xr

    grid = _grid(everything)
    seeds = sorted({v.seed for v in values})
    quantities = [*dict.fromkeys(v.quantity for v in values)]
    parts = [*dict.fromkeys(part for m in everything for part in m.seconds)]
    at = {
        settings: tuple(grid[key].index(value) for key, value in settings)
        for settings in (m.combination.settings for m in everything)
    }
    shape = tuple(len(levels) for levels in grid.values())
    value = np.full((len(quantities), *shape, len(seeds)), np.nan)
    number = {quantity: i for i, quantity in enumerate(quantities)}
    of_seed = {seed: i for i, seed in enumerate(seeds)}
    for v in values:
        value[(number[v.quantity], *at[v.settings], of_seed[v.seed])] = v.value
    seconds = np.full((len(parts), *shape, len(seeds)), np.nan)
    for m in everything:
        for part, taken in m.seconds.items():
            for seed in taken.keys() & of_seed.keys():
                seconds[(parts.index(part), *at[m.combination.settings], of_seed[seed])] = taken[
                    seed
                ]
    claims = {v.quantity: v.row.claim for v in values}
    return xr.Dataset(
        {
            "value": (("quantity", *grid, "seed"), value),
            "seconds": (("part", *grid, "seed"), seconds, {"units": "s"}),
        },
        coords={
            "quantity": quantities,
            "claim": ("quantity", [claims[q] for q in quantities]),
            "part": parts,
            "seed": seeds,
            **{key: [_coordinate(level) for level in levels] for key, levels in grid.items()},
        },
    )


def _grid(everything: Sequence[Measured]) -> dict[str, list[Any]]:
    """Return the values of each setting, in the order that they were given."""
    names = [key for key, _ in everything[0].combination.settings]
    each = [dict(m.combination.settings) for m in everything]
    return {name: [*dict.fromkeys(settings[name] for settings in each)] for name in names}


def _coordinate(level: Any) -> Any:
    number = isinstance(level, (int, float)) and not isinstance(level, bool)
    return level if number else shown(level)


def as_csv(values: Sequence[Value]) -> str:
    """Return one line for each value: quantity, claim, settings, seed, value."""
    names = [key for key, _ in values[0].settings] if values else []
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["quantity", "claim", *names, "seed", "value"])
    for v in values:
        levels = (shown(level) for _, level in v.settings)
        writer.writerow([v.quantity, v.row.claim, *levels, v.seed, repr(v.value)])
    return file.getvalue()


def write_results(
    folder: Path, everything: Sequence[Measured], seeds: Sequence[int], values: Sequence[Value]
) -> None:
    """Write ``config.json``, ``sweep.nc`` and ``sweep.csv``, all at once, with their manifest.

    Another process that writes results to the folder is waited for.

    Args:
        folder: of the sweep.
        everything: what was measured.
        seeds: those that were asked for.
        values: of the quantities.
    """
    first = everything[0].combination
    inputs: Mapping[str, Any] = {
        "grid": {k: [shown(v) for v in levels] for k, levels in _grid(everything).items()},
        "seeds": list(seeds),
        "finished": sum(m.found(seed) is not None for m in everything for seed in seeds),
        "inputs": {
            m.combination.name or first.study.name: {**m.study.inputs(), **m.study.choices()}
            for m in everything
            if m.study
        },
    }
    about = describe(sweep_name(first.study), first.config, inputs)
    with locked(folder, wait=True), replacing_run(folder, about["run"]) as store:
        store.write_json(CONFIG, about)
        store.write_file(DATASET, as_dataset(everything, values))
        store.write_file(VALUES, as_csv(values))
