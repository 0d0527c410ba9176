"""Rerun the short studies with few seeds and compare each seed's values with ``results/``.

``python -m studies.core.check_results``, or ``make results-check``. Values agree when they differ
by at most 0.1 per cent, or by rounding errors. Times are not compared. Trainings amplify rounding,
so on another processor than that of the results they may differ by more.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from gbi_pyro.cli import report_errors
from gbi_pyro.files import Manifest
from studies.core.cache import read_config
from studies.core.commands import load_study
from studies.core.protocol import Study
from studies.core.runner import run
from studies.core.table import unique_names

CHECKED = {"toy": 2, "told_or_not": 2, "language_bigrams": 1}
"""Seeds that are measured again, by the folder of results."""
RELATIVE = 1e-3
ABSOLUTE = 1e-9  # rounding errors, as of quantities that are zero in exact arithmetic
TIME = re.compile(r"\b(milli)?seconds?\b")


@dataclass(frozen=True)
class Comparison:
    """What became of the rows of a table that was measured again.

    Attributes:
        compared: how many rows were compared.
        differences: what differs, in words.
    """

    compared: int
    differences: tuple[str, ...]


def compare(
    stored: Sequence[Mapping[str, Any]],
    found: Sequence[Mapping[str, Any]],
    seeds: Sequence[int],
    num_stored: int,
) -> Comparison:
    """Compare the first seeds of a table with the same seeds measured again.

    Rows that hold times, or something else than one value a seed, are left out.

    Args:
        stored: the rows of the committed ``metrics.json``.
        found: the rows of the new one.
        seeds: those of the new table.
        num_stored: how many the stored table has.

    >>> stored = [{"claim": "T9", "what": "error", "values": [0.01, 0.02, 0.03]}]
    >>> found = [{"claim": "T9", "what": "error", "values": [0.01, 0.021]}]
    >>> compare(stored, found, seeds=(0, 1), num_stored=3)
    Comparison(compared=1, differences=('error (T9), seed 1: 0.02 stored, 0.021 now',))
    """
    before, after = _by_name(stored), _by_name(found)
    differences = [f"{name}: not in the new table" for name in before if name not in after]
    differences += [f"{name}: not in the stored table" for name in after if name not in before]
    compared = 0
    for name, old in before.items():
        new = after.get(name, [])
        if TIME.search(name) or (len(old), len(new)) != (num_stored, len(seeds)):
            continue
        compared += 1
        differences += [
            f"{name}, seed {seed}: {a:g} stored, {b:g} now"
            for seed, a, b in zip(seeds, old, new, strict=False)
            if not _agree(a, b)
        ]
    return Comparison(compared, tuple(differences))


def _by_name(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return the values of each row; rows of one name are numbered."""
    names = unique_names((row["claim"], row["what"]) for row in rows)
    values = ([math.nan if v is None else v for v in row["values"]] for row in rows)
    return dict(zip(names, values, strict=True))


def _agree(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=RELATIVE, abs_tol=ABSOLUTE) or (a != a and b != b)


def measure_again(study: type[Study[Any]], stored: Path, seeds: int, out: Path) -> Comparison:
    """Run a study with the configuration of stored results, but fewer seeds, and compare.

    Args:
        study: the study that wrote the results.
        stored: their folder, with ``config.json`` and ``metrics.json``.
        seeds: how many to measure, at most those that are stored.
        out: the folder for the new run.

    Raises:
        ValueError: for results whose configuration is not the study's, or that were altered.
    """
    config = read_config(Manifest.read(stored).read_json("config.json"), study.config_type)
    fewer = replace(config, seeds=min(seeds, config.seeds))
    run(study(fewer), out)
    before, after = (Manifest.read(f).read_json("metrics.json")["rows"] for f in (stored, out))
    return compare(before, after, fewer.all_seeds, config.seeds)


@click.command(help="Rerun short studies with few seeds and compare with their results.")
@click.argument("names", nargs=-1, type=click.Choice(sorted(CHECKED)))
@click.option("--results", type=click.Path(path_type=Path), default=Path("results"))
def main(names: tuple[str, ...], results: Path) -> None:
    """Check the results of the named folders, all short ones by default."""
    from studies.__main__ import STUDIES

    differs = False
    for name in names or CHECKED:
        stored = results / name
        if not (stored / "metrics.json").exists():
            click.echo(f"{name}: no run in {stored}, not checked")
            continue
        with report_errors(), tempfile.TemporaryDirectory() as out:
            about = Manifest.read(stored).read_json("config.json")
            study = load_study(STUDIES[about["study"]])
            comparison = measure_again(study, stored, CHECKED[name], Path(out))
        differs = differs or bool(comparison.differences)
        count = len(comparison.differences)
        click.echo(f"{name}: {comparison.compared} rows compared, {count} differences")
        for difference in comparison.differences:
            click.echo(f"  {difference}")
    raise SystemExit(int(differs))


if __name__ == "__main__":
    main()
