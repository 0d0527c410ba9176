"""Task use: how much a network gains from its task, and what its latent holds of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.logjoint import relaxed_log_joint
from gbi_pyro.relax import Model


class TaskUse(NamedTuple):
    """How much a network uses its task.

    Attributes:
        gain: log p(x | true task) - log p(x | maximum entropy), nats per element: near 0
            where the task is ignored.
        probe: accuracy of a linear probe of the task from the latent, in [0, 1]: near 1
            where the latent holds the task already.
    """

    gain: float
    probe: float


def task_gain(model: Model, values: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> float:
    """Return the mean gain in log likelihood from the true tasks over maximum entropy.

    (log p(x | Z = z) - log p(x | Z = u)) / N, over the N elements of the task sites.

    Args:
        model: a Pyro model with task sites, in eval mode.
        values: the true tasks by site, one-hot, ``batch_shape + (K,)``.
        args, kwargs: what the model takes.

    Returns:
        Nats per element.

    Raises:
        TaskSiteError: for unknown sites, or values that do not fit.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("trial", len(x)):
    ...         prior = dist.OneHotCategorical(torch.tensor([0.5, 0.5]))
    ...         z = pyro.sample("z", prior, infer={"task": True})
    ...         pyro.sample("x", dist.Normal(z @ torch.tensor([-1.0, 1.0]), 1.0), obs=x)
    >>> task_gain(model, {"z": torch.eye(2)}, torch.tensor([-1.0, 1.0]))  # 1 / 2 sigma^2
    0.5
    """
    with torch.no_grad():
        known = relaxed_log_joint(model, values, *args, **kwargs)
        middle = {name: torch.full_like(v, 1 / v.shape[-1]) for name, v in values.items()}
        unknown = relaxed_log_joint(model, middle, *args, **kwargs)
    elements = max(v.shape[:-1].numel() for v in values.values())
    return ((known.likelihood - unknown.likelihood) / elements).item()


def linear_probe(
    latent: Tensor, labels: Tensor, held_out: Tensor, held_out_labels: Tensor
) -> float:
    """Return the accuracy of a linear classifier of the task from a latent.

    Args:
        latent: to fit on, ``(N, d)``.
        labels: task ids, ``(N,)``.
        held_out: to judge on, ``(M, d)``.
        held_out_labels: ``(M,)``.

    Returns:
        Accuracy on the held-out elements.

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
