"""Settings of the study compared on validation images; test images take no part.

``python -m studies.unsupervised_images.validation --data FOLDER`` compares the defaults of
``UnsupervisedImagesConfig`` with neighbours, one at a time, on MNIST: cluster accuracy without
labels, and with 1 % and 10 % of them the accuracy of EM and of the two classifiers.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from gbi_pyro.data.images import ImageSets, load_images
from studies.unsupervised_images.codes import code_images
from studies.unsupervised_images.config import FRACTIONS, UnsupervisedImagesConfig
from studies.unsupervised_images.measure import measure_labelled, measure_unlabelled
from studies.unsupervised_images.record import CLASSIFIER, ONE, PRETRAINED, SEVERAL

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
SHOWN = (ONE, SEVERAL, CLASSIFIER, PRETRAINED)


def without_test(sets: ImageSets) -> ImageSets:
    """Return the sets with validation images in place of the test images."""
    return sets._replace(test=sets.validation)


def compare(config: UnsupervisedImagesConfig, sets: ImageSets) -> dict[float, dict[str, float]]:
    """Return accuracies on validation by fraction of the labels, from none to most."""
    coded = code_images(config, sets, SEED, None)
    found = measure_unlabelled(config, sets, coded, SEED)
    labelled = {f: measure_labelled(config, sets, coded, SEED, f, found) for f in FRACTIONS}
    return {0.0: {ONE: found.validation}, **{f: r.validation for f, r in labelled.items()}}


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
        config = replace(UnsupervisedImagesConfig(dataset=options.dataset), **change)
        name = ", ".join(f"{k} {v:g}" for k, v in change.items()) or "defaults"
        table = Table("labels", *SHOWN, title=name)
        for fraction, scores in compare(config, sets).items():
            cells = [f"{100 * scores[m]:.2f}" if m in scores else "" for m in SHOWN]
            table.add_row(f"{fraction:.0%}", *cells)
        console.print(table)


if __name__ == "__main__":
    main()
