"""What the figures show: confused classes, answers in a plane, images of each task."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gbi_pyro.data.images import ImageSets
from gbi_pyro.models.affine_head import AffineHeadAutoencoder
from studies.images.record import Examples

MIXTURES = torch.linspace(0, 1, 5)  # weights of the second of two tasks
ROWS = 5  # images whose latent is shown
SHOWN = 2000  # points of the plane


def make_examples(sets: ImageSets, affine: AffineHeadAutoencoder, log_probs: Tensor) -> Examples:
    """Return what the figures show.

    Args:
        sets: the images.
        affine: the network that generates (generation, I6; mixtures, M12).
        log_probs: what one step infers of its test images, ``(N, K)``.
    """
    evidence = log_probs - log_probs.mean(-1, keepdim=True)
    return Examples(
        class_names=sets.class_names,
        confusion=confusion(log_probs, sets.test.y, sets.num_classes).numpy(),
        plane=_principal_plane(evidence)[:SHOWN].numpy(),
        classes=sets.test.y[:SHOWN].numpy(),
        generated=_generate(sets, affine).numpy(),
    )


def confusion(log_probs: Tensor, labels: Tensor, num_tasks: int) -> Tensor:
    """Return counts, true class by row and inferred class by column, ``(K, K)``."""
    pairs = labels * num_tasks + log_probs.argmax(-1)
    return torch.bincount(pairs, minlength=num_tasks**2).reshape(num_tasks, num_tasks)


def most_named(log_probs: Tensor) -> float:
    """Return the share of images in the tenth of the classes that is named most often.

    >>> most_named(torch.eye(10)), most_named(torch.eye(10)[:2].repeat(5, 1))
    (0.1, 0.5)
    """
    K = log_probs.shape[-1]
    counts = torch.bincount(log_probs.argmax(-1), minlength=K).double()
    return (counts.topk(math.ceil(K / 10)).values.sum() / counts.sum()).item()


def _generate(sets: ImageSets, affine: AffineHeadAutoencoder) -> Tensor:
    num_tasks = sets.num_classes
    seen = torch.stack([sets.test.x[sets.test.y == k][0] for k in range(min(num_tasks, ROWS))])
    tasks, weights = torch.eye(num_tasks), MIXTURES.unsqueeze(-1)
    points = torch.cat([tasks, (1 - weights) * tasks[0] + weights * tasks[1]])
    images = affine.generate(points.unsqueeze(1).expand(-1, len(seen), -1), seen)
    return torch.cat([seen.unsqueeze(0), images]).movedim(0, 1)


def _principal_plane(points: Tensor) -> Tensor:
    centred = points - points.mean(0)
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[:2].mT
    signs = directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    plane: Tensor = centred @ (directions * signs)
    return plane
