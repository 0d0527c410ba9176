"""The figures of the image study: confused classes, answers in a plane, generated images."""

from __future__ import annotations

from matplotlib.figure import Figure

from gbi_pyro import plots
from studies.images.examples import MIXTURES
from studies.images.record import Examples


def draw_answers(shown: Examples) -> Figure:
    """Draw the confusion matrix of one step, and its answers in two dimensions."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    plots.confusion(shown.confusion, left, names=shown.class_names)
    plots.plane(shown.plane, shown.classes, right, names=shown.class_names)
    return figure


def draw_generation(shown: Examples) -> Figure:
    """Draw one image under every task, and mixtures of two tasks (generation, I6; mixtures, M12).

    The latent is that of test images, one a row; columns are tasks, then mixtures of the first two.
    """
    mixtures = [f"{weight:.2g}" for weight in MIXTURES.tolist()]
    return plots.image_grid(shown.generated, ["seen", *shown.class_names, *mixtures])
