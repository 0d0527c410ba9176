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
    names, titles = shown.class_names, ("A   Share of each class", "B   One step of each image")
    plots.confusion(shown.confusion, left, names=names, title=titles[0])
    plots.plane(shown.plane, shown.classes, right, names=names, title=titles[1])
    return figure


def draw_generation(shown: Examples) -> Figure:
    """Draw one image under every task, and mixtures of two tasks (generation, I6; mixtures, M12).

    The latent is that of test images, one a row; columns are tasks, then mixtures of the first two.
    """
    mixtures = [f"mix {weight:.2g}" for weight in MIXTURES.tolist()]
    return plots.image_grid(shown.generated, ["seen", *shown.class_names, *mixtures])
