"""A linear probe: whether activity holds the task."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def linear_probe(
    latent: Tensor, labels: Tensor, held_out: Tensor, held_out_labels: Tensor
) -> float:
    """Return the accuracy of a linear classifier of the task from activity.

    High accuracy does not say that the network uses its task: an untrained network that is given
    the task holds it as well.

    Args:
        latent: to fit on, ``(N, d)``.
        labels: task ids, ``(N,)``.
        held_out: to judge on, ``(M, d)``.
        held_out_labels: ``(M,)``.

    Returns:
        Accuracy on the held-out elements.

    Raises:
        ValueError: for other numbers of rows than of labels.

    >>> import torch
    >>> latent = torch.tensor([[-1.0], [-2.0], [1.0], [2.0]])
    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> linear_probe(latent, labels, latent, labels)
    1.0
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(latent) != len(labels) or len(held_out) != len(held_out_labels):
        raise ValueError(
            f"latents and labels differ in number: {len(latent)} and {len(labels)}, "
            f"{len(held_out)} and {len(held_out_labels)}; give one label per row"
        )
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(_numpy(latent), _numpy(labels))
    return float(probe.score(_numpy(held_out), _numpy(held_out_labels)))


def _numpy(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()
