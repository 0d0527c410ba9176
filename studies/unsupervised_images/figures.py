"""Figures of the image part, from its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from gbi_pyro import plots
from gbi_pyro.data.images import ImageSets
from studies.unsupervised_images.rows import accuracies
from studies.unsupervised_images.tasks import Tasks
from studies.unsupervised_images.measure import CLASSIFIER, ONE, PRETRAINED, SEVERAL, Coded
from gbi_pyro.learning.labels import match_labels

EXAMPLES = 5  # images shown under each task


def figure_tasks(folder: Path, sets: ImageSets, coded: Coded, tasks: Tasks) -> Path:
    """Draw what each task found without labels looks like: its mean, decoded, and test images.

    Titles are the classes that the tasks are matched with, afterwards; images are drawn in the
    order of the test set among those whose most probable task it is.
    """
    q = tasks.probs(coded.test)
    named = nn.functional.one_hot(q.argmax(-1), q.shape[-1]).to(q.dtype)
    order = match_labels(named, sets.test.y)[:-1]
    with torch.no_grad():
        means = coded.network.image(coded.white.inverse(tasks.mixture.means))
    rows = [means[order]]
    members = [(q.argmax(-1) == k).nonzero().flatten() for k in order]
    for i in range(EXAMPLES):
        blank = torch.zeros_like(means[0])
        shown = [sets.test.x[m[i]] if i < len(m) else blank for m in members]
        rows.append(torch.stack(shown))
    figure = plots.image_grid(torch.stack(rows).numpy(), sets.class_names)
    return plots.save_figure(figure, folder, "tasks")


def figure_accuracy(
    folder: Path,
    sets: ImageSets,
    coded: Coded,
    tasks: Tasks,
    unlabelled: Sequence[Mapping[str, Any]],
    labelled: Mapping[float, Sequence[Mapping[str, Any]]],
) -> Path:
    """Draw accuracy by fraction of the labels, and what is confused without any."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    fractions = [0.0, *labelled]
    curves: dict[str, np.ndarray] = {}
    for way in (SEVERAL, ONE, CLASSIFIER, PRETRAINED):
        none = np.array([100 * f["scores"].get(way, np.nan) for f in unlabelled])
        columns = [none, *(accuracies(found, way) for found in labelled.values())]
        curves[way] = np.stack(columns, -1)
    at = np.arange(len(fractions), dtype=float)
    plots.by_mean(at, curves, ax=left, ylabel="accuracy on test images (%)")
    left.set_xticks(at, ["none\n(matched afterwards)", *(f"{f:.0%}" for f in labelled)])
    left.set_xlabel("labels known")
    q = tasks.probs(coded.test)
    K = sets.num_classes
    named = nn.functional.one_hot(q.argmax(-1), K).to(q.dtype)
    names = match_labels(named, sets.test.y)[:-1]
    found = names.argsort()[q.argmax(-1)]
    counts = torch.bincount(sets.test.y * K + found, minlength=K * K).reshape(K, K)
    plots.confusion(counts.numpy(), right, names=sets.class_names)
    right.set(xlabel="task found without labels, matched afterwards", ylabel="true class")
    return plots.save_figure(figure, folder, "images-by-labels")
