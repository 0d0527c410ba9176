"""``gbi-pyro discover``: learn without task labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gbi_pyro.cli.shared import (
    Data,
    Fast,
    FirstSeed,
    console,
    load,
    said_in_words,
    summarise,
    watched,
)

STREAMS, IMAGES = 5, 3  # seeds, if none are asked for


def discover(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/discover"),
    seeds: Annotated[
        int | None,
        typer.Option(help="Data sets of each kind, 5; 20 is the full study. Of images 3.", min=1),
    ] = None,
    first_seed: FirstSeed = 0,
    dataset: Annotated[
        str | None,
        typer.Option(help="Learn images instead of streams: digits, mnist, fashion, cifar10, ..."),
    ] = None,
    data: Data = None,
    fast: Fast = False,
) -> None:
    """Learn tasks without labels, online and in batches, beside the exact filter and rivals."""
    if dataset is None:
        with said_in_words():
            if data is not None:
                raise ValueError("--data belongs to --dataset, which was not given: name the set")
        _streams(out, seeds or STREAMS, first_seed, fast)
    else:
        _images(out, seeds or IMAGES, first_seed, fast, dataset, data)


def _streams(out: Path, seeds: int, first_seed: int, fast: bool) -> None:
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


def _images(
    out: Path, seeds: int, first_seed: int, fast: bool, dataset: str, data: Path | None
) -> None:
    from gbi_pyro.experiments.discover.image_config import DiscoverImagesConfig
    from gbi_pyro.experiments.discover.image_study import num_stages, run_images
    from gbi_pyro.experiments.results import print_table

    sets = load(dataset, data)
    config = DiscoverImagesConfig(dataset, seeds, first_seed)
    if dataset == "digits":
        config = config.small()
    if fast:
        config = config.fast()
    with watched(out, num_stages(config)) as report:
        results = run_images(config, sets, out, report)
    title = f"{dataset}, {config.seeds} seeds, {len(sets.test.x)} test images. Bars are for MNIST"
    print_table(title, results.rows, console)
    summarise(results.rows, out, results.figures)
