"""``gbi-pyro fit``: train one kind of network, to compare it with others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gbi_pyro.cli.shared import Fast, FirstSeed, console, said_in_words, summarise, watched


def fit(
    task: Annotated[
        str, typer.Option(help="What the network is told: labels, none, shuffled or unlabelled.")
    ] = "labels",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; runs/fit-TASK without.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="How many networks.", min=1)] = 10,
    first_seed: FirstSeed = 0,
    fast: Fast = False,
) -> None:
    """Train one kind of network on switching streams; see ``compare``."""
    from gbi_pyro.experiments.fit.config import KINDS, FitConfig
    from gbi_pyro.experiments.fit.study import num_stages, run
    from gbi_pyro.experiments.results import print_table

    with said_in_words():
        config = FitConfig(task, seeds, first_seed)  # type: ignore[arg-type]
    config = config.fast() if fast else config
    folder = out or Path(f"runs/fit-{task}")
    with watched(folder, num_stages(config)) as report:
        results = run(config, folder, report)
    print_table(f"{KINDS[config.task]}, {config.seeds} seeds", results.rows, console)
    summarise(results.rows, folder, results.figures)
