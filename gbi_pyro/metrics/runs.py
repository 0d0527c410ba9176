"""Comparison of runs on disk: every quantity that they share, paired by seed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich.table
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.markup import escape

from gbi_pyro.files import Manifest, remove_partials
from gbi_pyro.metrics.intervals import paired_bootstrap
from gbi_pyro.metrics.log_likelihood import Pointwise
from gbi_pyro.metrics.table import Cell, Table, format_number

POSTERIOR = "posterior.nc"
SEED_FIELDS = frozenset({"seeds", "first_seed"})
WIDTH_OF_COLUMNS = 100  # characters, below which the columns would be too narrow for the names
LARGEST_K_HAT = 0.7  # above it, leave-one-out is unreliable
COLUMNS = ("quantity", "run", "mean", "reference", "difference", "low", "high", "pairs", "better")
Quantity = tuple[str, str]


@dataclass(frozen=True)
class Run:
    """A finished run, as its folder describes it.

    Attributes:
        name: the folder's.
        study: what was run.
        config: fields by dotted name.
        method_fields: names of fields that say how data are learned; all others say which data
            there are.
        quantities: of each claim and quantity its values by seed; by seeds and position where
            there is more than one for each. None where the number was not finite.
        better: of each quantity, which direction is better, ``"higher"`` or ``"lower"``; None where
            the run does not say.
        pointwise: the log likelihood of each element of its ``posterior.nc``, if it has one.
    """

    name: str
    study: str
    config: Mapping[str, Any]
    method_fields: frozenset[str]
    quantities: Mapping[Quantity, Mapping[Any, float | None]]
    better: Mapping[Quantity, Cell]
    pointwise: Pointwise | None = None

    @property
    def seeds(self) -> range:
        """The seeds of the run."""
        return _seeds(self.config)

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read ``config.json``, ``metrics.json`` and, if there is one, ``posterior.nc``.

        Raises:
            ValueError: if it is not the folder of a finished run, or a file in it is not the one
                that the run wrote.
        """
        manifest = Manifest.read(folder)
        about, metrics = manifest.read_json("config.json"), manifest.read_json("metrics.json")
        pointwise = None
        if POSTERIOR in manifest.files:
            manifest.read_bytes(POSTERIOR)
            pointwise = Pointwise.read(folder / POSTERIOR)
        try:
            return cls._of(str(folder), about, metrics["rows"], pointwise)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(
                f"{folder} should be the folder of a run of a study; its config.json and "
                f"metrics.json hold none ({error!r}): run the study again"
            ) from None

    @classmethod
    def _of(cls, name: str, about: Any, rows: Any, pointwise: Pointwise | None) -> Run:
        config = dict(_flat(about["config"]))
        seeds = _seeds(config)
        return cls(
            name=name,
            study=about["study"],
            config=config,
            method_fields=frozenset(about.get("method_fields", ())),
            quantities={(r["claim"], r["what"]): dict(_by_seed(seeds, r["values"])) for r in rows},
            better={(r["claim"], r["what"]): r.get("better") for r in rows},
            pointwise=pointwise,
        )

    def data(self, may_differ: Collection[str]) -> dict[str, Any]:
        """Return the study and the fields that say which data the run is about."""
        skip = self.method_fields | SEED_FIELDS | frozenset(may_differ)
        fields = {n: v for n, v in self.config.items() if n.rsplit(".", 1)[-1] not in skip}
        return {"study": self.study, **fields}


def compare_runs(
    folders: Sequence[Path],
    *,
    may_differ: Collection[str] = (),
    level: float = 0.95,
    only: Collection[str] = (),
) -> Table:
    """Compare runs with the first one of them, by paired differences of everything they share.

    A quantity with one number for each seed is paired over the seeds that both runs have. One with
    more (a seed on several corpora) is paired number by number if both have the same seeds; its
    pairs are then not independent, and the interval is too narrow. The same holds for the elements
    of ``posterior.nc``, which are paired one by one as if they were independent: by leave-one-out,
    where their likelihood depends on draws of the weights, else by the plain log score (see
    ``Pointwise``). A difference of log evidences is a log Bayes factor; one of prequential code
    lengths is minus a log Bayes factor if the learners are exact. See ``paired_bootstrap`` for the
    intervals.

    Args:
        folders: of finished runs, the reference first.
        may_differ: fields of the configuration that may differ though the runs do not name them as
            fields of the method.
        level: coverage of the intervals.
        only: compare only quantities whose name contains one of these; all without.

    Returns:
        A row for each quantity and each run but the first: the run's mean and the reference's over
        what is common, their difference with its interval, the number of pairs, and which direction
        of the quantity is better.

    Raises:
        ValueError: for fewer than two runs, or the same one twice, runs that are not finished, runs
            on different data, fields that no run has, or runs that share no seed or no quantity.
    """
    if len(folders) < 2:
        raise ValueError(f"at least two runs should be given, to compare; got {len(folders)}")
    if len({folder.resolve() for folder in folders}) < len(folders):
        names = ", ".join(map(str, folders))
        raise ValueError(f"runs should be different folders; got {names}: give each of them once")
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
    rows += tuple(row for run in others for row in _paired_elements(reference, run, level))
    if not rows:
        raise ValueError(
            f"runs should share a seed and a quantity; {[r.name for r in (reference, *others)]} "
            "share none: look at --first-seed, and whether the studies are the same"
        )
    asked = tuple(row for row in rows if any(part in str(row[0]) for part in only or ("",)))
    if not asked:
        raise ValueError(
            f"only should be part of the name of a quantity that runs share; got {[*only]}, and "
            f"they share {sorted({str(row[0]) for row in rows})}"
        )
    caption = (
        f"difference from {reference.name}, with {level:.0%} paired bootstrap intervals; of log "
        "evidence it is the log Bayes factor"
    )
    return Table(caption, COLUMNS, asked)


def write_comparison(table: Table, reference: str, folder: Path) -> list[Path]:
    """Write a comparison as ``comparison.csv``, ``.json``, ``.md`` and ``figures/comparison.png``.

    The figure has the names of the folders alone, where these are all different.

    Args:
        table: what ``compare_runs`` returned.
        reference: the folder that runs were compared with.
        folder: where the files go.

    Returns:
        The files.
    """
    from gbi_pyro import plots

    for used in (folder, folder / "figures"):
        remove_partials(used)
    files = [folder / f"comparison.{kind}" for kind in ("csv", "json", "md")]
    table.to_csv(files[0])
    table.to_json(files[1])
    table.to_markdown(files[2])
    paths = {reference, *(str(row["run"]) for row in table.records())}
    short = {path: Path(path).name for path in paths}
    short = short if len(set(short.values())) == len(paths) else {path: path for path in paths}
    rows = [{**row, "run": short[str(row["run"])]} for row in table.records()]
    better: dict[str, Any] = {str(row["quantity"]): row["better"] for row in rows}
    figure = plots.comparisons(rows, reference=short[reference], better=better)[0].figure
    assert isinstance(figure, Figure)
    return [*files, plots.save_figure(figure, folder / "figures", "comparison")]


def print_comparison(table: Table, reference: str, level: float, console: Console) -> None:
    """Print a comparison; a star marks what differs from the reference beyond its interval.

    Where the columns do not fit, each row is printed as lines of its own.
    """
    print_rows = _print_columns if console.width >= WIDTH_OF_COLUMNS else _print_lines
    print_rows(table, level, console)
    console.print(f"Reference: {escape(reference)}. * the interval excludes zero.")


def _print_lines(table: Table, level: float, console: Console) -> None:
    console.print(escape(table.caption))
    for quantity, rows in itertools.groupby(table.records(), lambda row: row["quantity"]):
        console.print(escape(f"\n{quantity}"))
        for row in rows:
            mean, ours, difference, low, high, far = _formatted(row)
            interval = f"{level:.0%} interval {low} to {high}{far}, {row['pairs']} pairs"
            console.print(escape(f"  {row['run']}"))
            console.print(escape(f"    mean {mean}, reference {ours}"))
            console.print(escape(f"    difference {difference}, {interval}"))
    console.print()


def _formatted(row: Mapping[str, Cell]) -> list[str]:
    """Return mean, reference, difference and both ends in words, and a star or nothing."""
    numbers = [math.nan if row[n] is None else float(row[n] or 0) for n in COLUMNS[2:7]]
    far = " *" if numbers[3] > 0 or numbers[4] < 0 else ""
    return [*map(format_number, numbers), far]


def _print_columns(table: Table, level: float, console: Console) -> None:
    shown = rich.table.Table(
        title=escape(table.caption), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1)
    )
    shown.add_column("quantity, and run", ratio=1)
    for name in ("mean", "reference", "difference"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column(f"{level:.0%} interval", no_wrap=True)
    shown.add_column("pairs", justify="right")
    for quantity, rows in itertools.groupby(table.records(), lambda row: row["quantity"]):
        shown.add_row(escape(str(quantity)))
        for row in rows:
            mean, ours, difference, low, high, far = _formatted(row)
            run, pairs = f"  {escape(str(row['run']))}", str(row["pairs"])
            shown.add_row(run, mean, ours, f"{difference}{far:2}", f"{low} to {high}", pairs)
        shown.add_section()
    console.print(shown)


def _paired(
    quantity: Quantity, reference: Run, run: Run, level: float
) -> Iterator[tuple[Cell, ...]]:
    ours, theirs = reference.quantities[quantity], run.quantities[quantity]
    pairs = [(theirs[key], ours[key]) for key in ours if key in theirs]
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    if both:
        first, second = zip(*both, strict=True)
        what = " ".join(filter(None, quantity))
        yield _row(what, run.name, first, second, level, reference.better[quantity])


def _paired_elements(reference: Run, run: Run, level: float) -> Iterator[tuple[Cell, ...]]:
    """Compare the elements of ``posterior.nc``, where both have the same ones."""
    ours, theirs = reference.pointwise, run.pointwise
    if ours and theirs and ours.same_data(theirs) and ours.criterion == theirs.criterion:
        what = f"{ours.criterion}: log p of an element of posterior.nc, taken as independent, nats"
        for who in (ours, theirs):
            if who.worst_k_hat is not None and who.worst_k_hat > LARGEST_K_HAT:
                what += f" (Pareto k-hat up to {who.worst_k_hat:.2f}: unreliable)"
        yield _row(what, run.name, theirs.values.tolist(), ours.values.tolist(), level, "higher")


def _row(
    what: str, run: str, first: Sequence[float], second: Sequence[float], level: float, better: Cell
) -> tuple[Cell, ...]:
    means = (math.fsum(values) / len(first) for values in (first, second))
    return what, run, *means, *paired_bootstrap(first, second, level=level), better


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
    # What configurations cannot say: another version of a package may draw other data.
    both = reference.pointwise and run.pointwise
    if both and not may_differ and reference.seeds == run.seeds:
        assert reference.pointwise is not None
        assert run.pointwise is not None
        if not reference.pointwise.same_data(run.pointwise):
            raise ValueError(
                f"runs should be on the same data; {reference.name} and {run.name} have other "
                "observed_data in posterior.nc, though configurations and seeds agree: look at "
                "versions in config.json, and run one of them again"
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
