"""Settings of the image part compared on validation images; test images take no part.

``python -m studies.unsupervised_images.validation --data FOLDER`` holds the defaults of
``DiscoverImagesConfig`` against neighbours, one at a time, on MNIST: cluster accuracy without
labels, and with 1 % and 10 % of them the accuracy of EM and of the two classifiers.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from gbi_pyro.data.images import ImageSets, load_images
from studies.unsupervised import images
from studies.unsupervised_images.config import IMAGE_FRACTIONS, DiscoverImagesConfig

SEED = 1000  # far from the seeds of any study
NEIGHBOURS: tuple[dict[str, Any], ...] = (
    {},
    {"code": 16},
    {"epochs": 6},
    {"tasks_per_class": 3},
    {"classifier_noise": 0.0},
    {"classifier_noise": 1.0},
    {"classifier_steps": 1500},
)
SHOWN = (images.ONE, images.SEVERAL, images.CLASSIFIER, images.PRETRAINED)


def without_test(sets: ImageSets) -> ImageSets:
    """Return the sets with validation images in place of the test images."""
    return sets._replace(test=sets.validation)


def compare(
    config: DiscoverImagesConfig, sets: ImageSets, folder: Path
) -> list[tuple[float, dict[str, float]]]:
    """Return accuracies on validation by fraction of the labels, from none to most."""
    basis = images.basis_of(config, sets)
    coded = images.code_images(config, sets, basis, SEED, folder)
    found = images.measure_unlabelled(config, sets, basis, coded, SEED)
    scores = [(0.0, {images.ONE: found["validation"]})]
    for fraction in IMAGE_FRACTIONS[1:]:
        known = images.measure_labelled(config, sets, basis, coded, SEED, fraction, found)
        scores.append((fraction, known["validation"]))
    return scores


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder with the image files")
    parser.add_argument("--dataset", default="mnist")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sets = without_test(load_images(options.dataset, options.data))
    console = Console()
    for change in NEIGHBOURS:  # a table each, since each takes minutes
        config = replace(DiscoverImagesConfig(options.dataset), **change)
        name = ", ".join(f"{k} {v:g}" for k, v in change.items()) or "defaults"
        table = Table("labels", *SHOWN, title=name)
        with tempfile.TemporaryDirectory() as folder:
            for fraction, scores in compare(config, sets, Path(folder)):
                cells = [f"{100 * scores[way]:.2f}" if way in scores else "" for way in SHOWN]
                table.add_row(f"{fraction:.0%}", *cells)
        console.print(table)


if __name__ == "__main__":
    main()
