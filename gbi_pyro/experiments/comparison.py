"""Runs on disk beside one another: every quantity that they share, paired by seed."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gbi_pyro.diagnostics.paired import paired_bootstrap
from gbi_pyro.diagnostics.table import Cell, Table

METHOD_FIELDS = frozenset(
    {
        # training
        *("updates", "updates_all", "updates_without_one", "epochs", "batch", "rate", "decay"),
        *("weight_decay", "every", "jobs", "chunk", "sweep", "ensemble", "leave_one_out"),
        *("all_at_once",),
        # networks
        *("hidden", "hidden_size", "embedding_size", "bottleneck", "bottleneck_latent", "latent"),
        *("affine_hidden", "codes"),
        # inference
        *("iterative_steps", "iterative_rate", "noise_rate", "spread", "restarts", "start_steps"),
        *("em_steps", "window", "batch_rate", "batch_noise_rate", "hazard_guess"),
        *("recurrent_rate", "recurrent_start", "recurrent_steps", "rival_steps", "label_steps"),
    }
)
"""Fields of configurations that say how data are learned; all others say which data there are."""
SEED_FIELDS = frozenset({"seeds", "first_seed"})
COLUMNS = ("quantity", "run", "mean", "reference", "difference", "low", "high", "pairs")
Quantity = tuple[str, str]


@dataclass(frozen=True)
class Run:
    """What a run folder says.

    Attributes:
        name: the folder's.
        study: what was run.
        config: fields by dotted name.
        quantities: of each statement and quantity its values by seed; by seeds and position where
            there is more than one for each. None where the number was not finite.
    """

    name: str
    study: str
    config: Mapping[str, Any]
    quantities: Mapping[Quantity, Mapping[Any, float | None]]

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read ``config.json`` and ``metrics.json`` of a folder.

        Raises:
            ValueError: if it is not the folder of a finished run.
        """
        files = {}
        for name in ("config.json", "metrics.json"):
            try:
                files[name] = json.loads((folder / name).read_text())
            except (OSError, json.JSONDecodeError) as error:
                raise ValueError(
                    f"{folder} should be the folder of a finished run; its {name} cannot be read "
                    f"({error}): run the study to its end, or mend the path"
                ) from None
        config = dict(_flat(files["config.json"]["config"]))
        seeds = _seeds(config)
        quantities = {
            (row["statement"], row["what"]): dict(_by_seed(seeds, row["values"]))
            for row in files["metrics.json"]["rows"]
        }
        return cls(str(folder), files["config.json"]["study"], config, quantities)

    def data(self, may_differ: Collection[str]) -> dict[str, Any]:
        """Return what says which data the run is about."""
        skip = METHOD_FIELDS | SEED_FIELDS | frozenset(may_differ)
        fields = {n: v for n, v in self.config.items() if n.rsplit(".", 1)[-1] not in skip}
        return {"study": self.study, **fields}


def compare_runs(
    folders: Sequence[Path], *, may_differ: Collection[str] = (), level: float = 0.95
) -> Table:
    """Compare runs with the first one of them, by paired differences of everything they share.

    A quantity with one number for each seed is paired over the seeds that both runs have. One with
    more (a seed on several corpora) is paired number by number if both have the same seeds; its
    pairs are then not independent, and the interval is too narrow by what they share. See
    ``paired_bootstrap`` for the intervals.

    Args:
        folders: of finished runs, the reference first.
        may_differ: fields of the configuration that may differ though they are not known to be
            of the method.
        level: coverage of the intervals.

    Returns:
        A row for each quantity and each run but the first: the run's mean and the reference's over
        what is common, their difference with its interval, and the number of pairs.

    Raises:
        ValueError: for fewer than two runs, runs that are not finished, runs on different data,
            fields that no run has, or runs that share no seed or no quantity.
    """
    if len(folders) < 2:
        raise ValueError(f"at least two runs should be given, to compare; got {len(folders)}")
    reference, *others = (Run.read(folder) for folder in folders)
    known = {n.rsplit(".", 1)[-1] for run in (reference, *others) for n in run.config}
    if unknown := set(may_differ) - known:
        raise ValueError(
            f"may_differ should name fields of the runs' configurations; got {sorted(unknown)}, "
            f"which none has: they have {sorted(known)}"
        )
    for run in others:
        _check_same_data(reference, run, may_differ)
    rows = tuple(
        row
        for quantity in reference.quantities
        for run in others
        if quantity in run.quantities
        for row in _paired(quantity, reference, run, level)
    )
    if not rows:
        raise ValueError(
            f"runs should share a seed and a quantity; {[r.name for r in (reference, *others)]} "
            "share none: look at --first-seed, and whether the studies are the same"
        )
    caption = f"difference from {reference.name}, with {level:.0%} paired bootstrap intervals"
    return Table(caption, COLUMNS, rows)


def _paired(
    quantity: Quantity, reference: Run, run: Run, level: float
) -> Iterator[tuple[Cell, ...]]:
    ours, theirs = reference.quantities[quantity], run.quantities[quantity]
    pairs = [(theirs[key], ours[key]) for key in ours if key in theirs]
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not both:
        return
    first, second = zip(*both, strict=True)
    found = paired_bootstrap(first, second, level=level)
    means = (math.fsum(values) / len(both) for values in (first, second))
    yield " ".join(filter(None, quantity)), run.name, *means, *found


def _check_same_data(reference: Run, run: Run, may_differ: Collection[str]) -> None:
    ours, theirs = reference.data(may_differ), run.data(may_differ)
    absent = "absent"
    different = [
        f"{name} ({ours.get(name, absent)} and {theirs.get(name, absent)})"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name, absent) != theirs.get(name, absent)
    ]
    if different:
        raise ValueError(
            f"runs should be on the same data; {reference.name} and {run.name} differ in "
            + ", ".join(different)
            + ". Run one of them again, or say that a field is not of the data: may_differ"
        )


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give the fields of nested configurations dotted names."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _seeds(config: Mapping[str, Any]) -> range:
    """Return the seeds of a run, wherever its configuration keeps them."""
    found = {
        n.rsplit(".", 1)[-1]: v for n, v in config.items() if n.rsplit(".", 1)[-1] in SEED_FIELDS
    }
    first = int(found.get("first_seed", 0))
    return range(first, first + int(found.get("seeds", 1)))


def _by_seed(seeds: range, values: Sequence[float | None]) -> Iterator[tuple[Any, float | None]]:
    """Give each value of a quantity the name by which it is paired."""
    keys = seeds if len(values) == len(seeds) else [(seeds, i) for i in range(len(values))]
    return zip(keys, values, strict=True)
