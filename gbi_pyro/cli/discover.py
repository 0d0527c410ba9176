"""``gbi-pyro discover``: learn without task labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gbi_pyro.cli.shared import console, summarise, watched


def discover(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/discover"),
    seeds: Annotated[
        int, typer.Option(help="Data sets of each kind; 20 is the full study.", min=1)
    ] = 5,
    first_seed: Annotated[int, typer.Option(help="The first seed.", min=0)] = 0,
    fast: Annotated[
        bool, typer.Option("--fast", help="Run through everything in seconds; shows nothing.")
    ] = False,
) -> None:
    """Learn tasks without labels, online and in batches, beside the exact filter and rivals."""
    from gbi_pyro.experiments.discover.config import DiscoverConfig
    from gbi_pyro.experiments.discover.rows import print_online
    from gbi_pyro.experiments.discover.study import num_stages, run
    from gbi_pyro.experiments.results import print_table

    config = DiscoverConfig(seeds=seeds, first_seed=first_seed)
    if fast:
        config = config.fast()
    with watched(out, num_stages(config)) as report:
        results = run(config, out, report)
    print_online("Z accuracy, median, and MSE over the exact filter's", results.online, console)
    print_table(f"Learning without labels, {config.seeds} seeds", results.bars, console)
    summarise(results.bars, out, results.figures)
