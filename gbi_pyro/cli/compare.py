"""``gbi-pyro compare``: runs on the same data beside one another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gbi_pyro.cli.shared import check_folder, console, said_in_words


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, the reference first.")],
    out: Annotated[Path, typer.Option(help="Folder for table and figure.")] = Path("runs/compare"),
    may_differ: Annotated[
        list[str] | None,
        typer.Option(help="A field of the configuration that may differ; say it once for each."),
    ] = None,
    level: Annotated[float, typer.Option(help="Coverage of the intervals.")] = 0.95,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only quantities whose name contains this; say it once for each."),
    ] = None,
) -> None:
    """Compare runs by every quantity they share, seed by seed, with paired intervals."""
    from gbi_pyro.experiments.comparison import compare_runs, print_comparison, write_comparison

    check_folder(out)
    with said_in_words():
        table = compare_runs(runs, may_differ=may_differ or (), level=level, only=only or ())
        files = write_comparison(table, str(runs[0]), out)
    print_comparison(table, str(runs[0]), level, console)
    console.print("Written: " + ", ".join(map(str, files)))
