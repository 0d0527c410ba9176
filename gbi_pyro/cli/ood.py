"""``gbi-pyro ood``: tell images of an unknown kind."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gbi_pyro.cli.shared import Data, Epochs, console, load, said_in_words, say_bars, watched


def ood(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/ood"),
    dataset: Annotated[str, typer.Option(help="The known images.")] = "digits",
    other: Annotated[
        str | None, typer.Option(help="The unknown ones, and the known of the other direction.")
    ] = None,
    data: Data = None,
    seeds: Annotated[int, typer.Option(help="Networks of each kind.", min=1)] = 1,
    epochs: Epochs = 10,
    ensemble: Annotated[int, typer.Option(help="Classifiers in the ensemble.", min=1)] = 5,
) -> None:
    """Tell images of an unknown kind from those of a known one, by every score."""
    from gbi_pyro.experiments.images.config import ImagesConfig
    from gbi_pyro.experiments.images.outlier_study import (
        OutlierConfig,
        check_sets,
        num_stages,
        print_cases,
        run,
    )

    images = ImagesConfig(dataset=dataset, seeds=seeds, epochs=epochs)
    config = OutlierConfig(images, other, ensemble)
    sets = [load(name, data) for name in (dataset, other) if name]
    with said_in_words():
        check_sets(sets)
    with watched(out, num_stages(config)) as report:
        results = run(config, sets, out, report)
    print_cases(results.cases, results.default, console)
    say_bars(results.rows)
    console.print(
        f"Results, with intervals and false positive rates: {out}/metrics.json, table.md\n"
        f"Figures, one for each case: {out}/figures"
    )
