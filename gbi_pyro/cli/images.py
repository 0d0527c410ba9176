"""``gbi-pyro images``: name the class of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gbi_pyro.cli.shared import Data, Epochs, FirstSeed, console, load, summarise, watched


def images(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/images"),
    dataset: Annotated[
        str, typer.Option(help="digits, mnist, fashion, cifar10 or cifar100.")
    ] = "digits",
    data: Data = None,
    seeds: Annotated[int, typer.Option(help="Networks of each kind.", min=1)] = 3,
    first_seed: FirstSeed = 0,
    epochs: Epochs = 10,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Also train at several widths of the bottleneck.")
    ] = False,
) -> None:
    """Name the class of images in one pass and in every other way, beside the exact posterior."""
    from gbi_pyro.experiments.images.config import ImagesConfig
    from gbi_pyro.experiments.images.rows import print_methods
    from gbi_pyro.experiments.images.study import num_stages, run
    from gbi_pyro.experiments.results import print_table

    config = ImagesConfig(dataset, seeds, first_seed, epochs, sweep=sweep)
    sets = load(dataset, data)
    with watched(out, num_stages(config)) as report:
        results = run(config, sets, out, report)
    title = (
        f"{dataset}, {config.seeds} seeds, {len(sets.test.x)} test images. ECE, Brier and -log p "
        "after one temperature, chosen on validation; KL(exact || it) in nats per image"
    )
    print_methods(title, results.by_seed, console)
    print_table("Bars are those for MNIST", results.bars, console)
    summarise(results.bars, out, results.figures)
