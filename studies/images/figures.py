"""The figures of the image study: what is confused, what a task looks like, where answers lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from gbi_pyro import plots
from gbi_pyro.data.images import ImageSets
from studies.images.measure import Measured, confusion
from studies.images.methods import ONE_STEP
from studies.images.training import ImageNetworks

MIXTURES = 5  # from one task to the next, ends included
SHOWN = 2000  # points of the view of Z


def figure_answers(folder: Path, sets: ImageSets, measured: Sequence[Measured]) -> Path:
    """Draw the confusion matrix of one step, and its answers in two dimensions."""
    (one_step,) = [m for m in measured if m.method.name == ONE_STEP]
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    counts = confusion(one_step.log_probs, sets.test.y, sets.num_classes)
    plots.confusion(counts.numpy(), left, names=sets.class_names)
    evidence = one_step.log_probs - one_step.log_probs.mean(-1, keepdim=True)
    plane = _principal_plane(evidence)[:SHOWN]
    plots.plane(plane.numpy(), sets.test.y[:SHOWN].numpy(), right, names=sets.class_names)
    return plots.save_figure(figure, folder, "answers")


def figure_generation(folder: Path, sets: ImageSets, networks: ImageNetworks) -> Path:
    """Draw one image under every task, and mixtures of two neighbouring tasks (I6, M12).

    The latent is that of test images, one a row; columns are tasks, then mixtures of the first two.
    """
    num_tasks = sets.num_classes
    like = torch.stack([sets.test.x[sets.test.y == k][0] for k in range(min(num_tasks, 5))])
    tasks = torch.eye(num_tasks)
    weights = torch.linspace(0, 1, MIXTURES).unsqueeze(-1)
    between = (1 - weights) * tasks[0] + weights * tasks[1]
    points = torch.cat([tasks, between]).unsqueeze(1).expand(-1, len(like), -1)
    images = networks.affine.generate(points, like)
    names = [*sets.class_names, *(f"{w:.2g}" for w in weights.flatten().tolist())]
    figure = plots.image_grid(
        torch.cat([like.unsqueeze(0), images]).movedim(0, 1).numpy(), ["seen", *names]
    )
    return plots.save_figure(figure, folder, "generation")


def _principal_plane(points: Tensor) -> Tensor:
    centred = points - points.mean(0)
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[:2].mT
    signs = directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    return centred @ (directions * signs)
