"""``gbi-pyro controls``: what the task input is worth, against any other input of its size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gbi_pyro.cli.shared import console, summarise, watched


def controls(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/controls"),
    seeds: Annotated[int, typer.Option(help="Networks of each kind.", min=1)] = 10,
    first_seed: Annotated[int, typer.Option(help="The first seed.", min=0)] = 0,
    fast: Annotated[
        bool, typer.Option("--fast", help="Run through everything in seconds; shows nothing.")
    ] = False,
) -> None:
    """Hold the task against shuffled, random and constant inputs, and rivals of equal size."""
    from gbi_pyro.experiments.controls.study import StudyConfig, num_stages, run
    from gbi_pyro.experiments.results import print_table

    config = StudyConfig.of(seeds, first_seed)
    if fast:
        config = config.fast()
    with watched(out, num_stages(config)) as report:
        results = run(config, out, report)
    print_table(f"What the task input is worth, {config.toy.seeds} seeds", results.bars, console)
    summarise(results.bars, out, results.figures)
