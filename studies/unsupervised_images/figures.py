"""Figures of the study, from its records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from gbi_pyro import plots
from studies.core.style import STYLES
from studies.unsupervised_images.config import FRACTIONS
from studies.unsupervised_images.record import (
    CLASSIFIER,
    ONE,
    PRETRAINED,
    SEVERAL,
    UnsupervisedImagesSeed,
)


def draw_accuracy(found: Sequence[UnsupervisedImagesSeed], class_names: Sequence[str]) -> Figure:
    """Draw accuracy by fraction of the labels, and what is confused without any."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)

    def accuracies(record: UnsupervisedImagesSeed, method: str) -> list[float]:
        known = [record.labelled[fraction].test[method] for fraction in FRACTIONS]
        return [record.unlabelled.accuracy.get(method, np.nan), *known]

    methods = (SEVERAL, ONE, CLASSIFIER, PRETRAINED)
    curves = {method: [accuracies(record, method) for record in found] for method in methods}
    at = np.arange(1.0 + len(FRACTIONS))
    plots.every_seed(
        *(at, curves, left),
        xlabel="labels known",
        ylabel="accuracy on test images",
        styles=STYLES,
        title="A   Every seed, and the median",
        better="higher",
    )
    left.set_xticks(at, ["none\n(matched afterwards)", *(f"{f:.0%}" for f in FRACTIONS)])
    title = "B   Without labels: share of each class"
    plots.confusion(found[0].examples.counts, right, names=class_names, title=title)
    right.set(xlabel="inferred task, matched with a class afterwards", ylabel="true class")
    return figure
