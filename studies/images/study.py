"""The image study from one call: train, name the class in every way, write everything down."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from gbi_pyro.data.images import ImageSets
from gbi_pyro.export.inference_data import to_inference_data
from gbi_pyro.metrics.task_use import TaskUse
from studies.images import figures, rows
from studies.images.bottleneck import WIDTHS, measure_use, sweep, use_rows
from studies.images.config import ImagesConfig
from studies.images.measure import Measured, measure
from studies.images.training import (
    AFFINE,
    KINDS,
    PAPER,
    ImageNetworks,
    train_networks,
)
from studies.core.table import Row
from studies.core.run_folder import RunFolder
from studies.core.protocol import Progress
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.gradient import OneStepGradient


def num_stages(config: ImagesConfig) -> int:
    """Return how many stages ``run`` reports, if no training is taken up."""
    networks = config.seeds * len(KINDS) + (len(WIDTHS) if config.sweep else 0)
    return networks * (config.epochs + 1) + config.seeds + 1


@dataclass(frozen=True)
class ImagesResults:
    """Everything the study found.

    Attributes:
        by_seed: every method of every seed.
        bars: what it has to show.
        folder: where it lies on disk.
        figures: the figures' files.
    """

    by_seed: list[list[Measured]]
    bars: list[Row]
    folder: Path
    figures: list[Path]


def run(
    config: ImagesConfig,
    sets: ImageSets,
    folder: Path,
    progress: Progress = lambda _what: None,
) -> ImagesResults:
    """Run the image study and write it to a folder.

    Training goes on after the last epoch that an earlier, interrupted run of the same
    configuration finished in that folder.

    Args:
        config: what to do.
        sets: the images, as ``load_images`` gives them.
        folder: where the results go; checkpoints in ``checkpoints/``.
        progress: called with what is being done.

    Returns:
        What was measured and where the files lie.
    """
    start = time.perf_counter()
    store = RunFolder(folder)
    store.write_config("images", config)
    by_seed: list[list[Measured]] = []
    use: dict[str, list[TaskUse]] = {PAPER: [], AFFINE: []}
    for seed in config.all_seeds:
        networks = train_networks(config, sets, seed, folder / "checkpoints", progress)
        progress(f"seed {seed}: naming the class in every way")
        by_seed.append(measure(config, sets, networks))
        use[PAPER].append(measure_use(networks.paper, sets))
        use[AFFINE].append(measure_use(networks.affine, sets))
        if seed == config.first_seed:
            first = networks
    uses = [row for kind, found in use.items() for row in use_rows(kind, found)]
    if config.sweep:
        uses += sweep(config, sets, folder / "checkpoints", progress)
    progress("figures and files")
    drawn = [
        figures.figure_answers(store.figures, sets, by_seed[0]),
        figures.figure_generation(store.figures, sets, first),
    ]
    bars = rows.bar_rows(by_seed)
    _write_posterior(store, config, sets, first)
    store.write_weights({k.replace(" ", "_"): n for k, n in first.by_kind().items()})
    table = [*bars, *uses, *rows.method_rows(by_seed)]
    store.write_metrics(table, time.perf_counter() - start)
    return ImagesResults(by_seed, [*bars, *uses], folder, drawn)


def _write_posterior(
    store: RunFolder, config: ImagesConfig, sets: ImageSets, networks: ImageNetworks
) -> None:
    images = sets.test.x[: config.chunk]
    one_step = OneStepGradient()(networks.affine, images)
    store.write_posterior(
        to_inference_data(
            one_step,
            labels={"z": sets.test.y[: config.chunk]},
            exact=Enumeration(check=False)(networks.affine, images),
            task_names={"z": sets.class_names},
            attributes={"study": "images", "dataset": sets.name, "seed": config.first_seed},
        )
    )
