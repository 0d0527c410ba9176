"""``gbi-pyro toy``: the paper's toy study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gbi_pyro.cli.shared import Fast, FirstSeed, console, summarise, watched


def toy(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/toy"),
    seeds: Annotated[
        int, typer.Option(help="Networks of each kind; 20 is the full study.", min=1)
    ] = 5,
    first_seed: FirstSeed = 0,
    fast: Fast = False,
) -> None:
    """Run the paper's toy study (Figures 1-3, Table 1) beside the exact posterior."""
    from gbi_pyro.experiments.results import print_table
    from gbi_pyro.experiments.toy.config import ToyConfig
    from gbi_pyro.experiments.toy.study import num_stages, run

    config = replace(ToyConfig(), seeds=seeds, first_seed=first_seed)
    if fast:
        config = config.fast()
    with watched(out, num_stages(config)) as report:
        results = run(config, out, report)
    title = (
        f"Toy study, {config.seeds} seeds. Errors are mean squared errors; KL is KL(exact || "
        "estimate) in nats per step."
    )
    print_table(title, results.rows, console)
    summarise(results.rows, out, results.figures)
