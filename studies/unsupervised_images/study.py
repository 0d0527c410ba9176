"""The image part of the study from one call: everything measured and written down."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gbi_pyro.data.images import ImageSets
from gbi_pyro.export.inference_data import to_inference_data
from studies.unsupervised import image_figures, image_rows, images
from studies.unsupervised_images.config import IMAGE_FRACTIONS, DiscoverImagesConfig
from studies.unsupervised_images.tasks import Tasks
from studies.unsupervised_images.measure import Coded
from studies.core.cache import Pieces
from studies.core.run_folder import RunFolder
from studies.core.protocol import Progress, StudyResults, bars_first
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.learning.labels import match_labels

SHOWN = 1000  # images whose posterior is written


def num_stages(config: DiscoverImagesConfig) -> int:
    """Return how many stages ``run_images`` reports."""
    return config.seeds * (1 + len(IMAGE_FRACTIONS)) + 1


def run_images(
    config: DiscoverImagesConfig,
    sets: ImageSets,
    folder: Path,
    progress: Progress = lambda _what: None,
) -> StudyResults:
    """Learn images without class labels and with few, and write everything to a folder.

    Pieces finished by an earlier run are taken up, an autoencoder after its last whole epoch.

    Args:
        config: what to do.
        sets: the images, as ``load_images`` gives them; test images are scored, and serve nothing
            else.
        folder: where the results go; finished pieces in ``pieces/``.
        progress: called with what is being done, ``num_stages`` times.

    Returns:
        What was measured and where the files lie.
    """
    start = time.perf_counter()
    store = RunFolder(folder)
    store.write_config("discover images", config)
    pieces = Pieces(folder / "pieces")
    basis = images.basis_of(config, sets)
    some = [fraction for fraction in IMAGE_FRACTIONS if fraction > 0]
    unlabelled: list[dict[str, Any]] = []
    labelled: dict[float, list[dict[str, Any]]] = {fraction: [] for fraction in some}
    first: Coded | None = None

    def piece(name: str, function: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
        progress(name)
        return pieces.get(name, config, lambda: function(config, sets, basis, *args))

    for seed in config.all_seeds:
        progress(f"seed {seed}: codes of {len(sets.train.x)} images")
        coded = images.code_images(config, sets, basis, seed, folder / "checkpoints")
        first = first or coded
        found = piece(f"seed {seed}: no labels", images.measure_unlabelled, coded, seed)
        unlabelled.append(found)
        for fraction in some:
            name = f"seed {seed}: {fraction:g} of the labels"
            labelled[fraction].append(
                piece(name, images.measure_labelled, coded, seed, fraction, found)
            )
    progress("figures and files")
    assert first is not None  # config has a seed
    tasks = Tasks.from_lists(unlabelled[0]["tasks"])
    drawn = [
        image_figures.figure_accuracy(store.figures, sets, first, tasks, unlabelled, labelled),
        image_figures.figure_tasks(store.figures, sets, first, tasks),
    ]
    _write_posterior(store, config, sets, first, tasks)
    few = Tasks.from_lists(labelled[some[0]][0]["several"])
    store.write_weights(
        {"autoencoder": first.network, "no_labels": tasks.mixture, "few_labels": few.mixture}
    )
    table = [
        *image_rows.unlabelled_rows(unlabelled, sets.name),
        *image_rows.labelled_rows(labelled, sets.name),
    ]
    seconds = time.perf_counter() - start + pieces.earlier
    store.write_metrics(bars_first(table), seconds)
    return StudyResults(table, folder, drawn)


def _write_posterior(
    store: RunFolder, config: DiscoverImagesConfig, sets: ImageSets, coded: Coded, tasks: Tasks
) -> None:
    """Write the posterior without labels of some test images, the exact one beside."""
    codes, y = coded.test[:SHOWN], sets.test.y[:SHOWN]
    one_step = tasks.trainer(config, OneStepGradient()).infer(codes)
    names = match_labels(one_step.probs(), y)
    store.write_posterior(
        to_inference_data(
            one_step,
            observed={"c": codes},
            dims={"c": ["image", "code"]},
            labels={"z": names[y]},
            exact=tasks.trainer(config, Enumeration(check=False)).infer(codes),
            task_names={"z": [sets.class_names[int(k)] for k in names[:-1].argsort()]},
            attributes={"study": "discover", "dataset": sets.name, "seed": config.first_seed},
        )
    )
