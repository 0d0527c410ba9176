"""Expectation maximisation for Gaussians of features, with all labels, some or none."""

from __future__ import annotations

import torch
from torch import Tensor

from gbi_pyro.models.feature_gaussian import FeatureGaussian
from gbi_pyro.models.feature_moments import FeatureMoments

UNKNOWN = -1


@torch.no_grad()
def responsibilities(
    model: FeatureGaussian, features: Tensor, labels: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return p(z = k, prototype j | phi), given the tasks that are known, and the log evidence.

    Args:
        model: the Gaussians.
        features: ``(N, D)``.
        labels: tasks, -1 where unknown, ``(N,)``; all unknown without.

    Returns:
        ``(N, K, J)``, and log p(phi) or log p(phi, task), ``(N,)``.

    Raises:
        ValueError: for labels that are no tasks.
    """
    log_prior = model.log_prior.log_softmax(-1).unsqueeze(-1)
    joint = model.component_table(features) + log_prior
    if labels is not None:
        K = model.num_tasks
        integer = not labels.is_floating_point() and labels.shape == features.shape[:1]
        if not integer or not bool(((labels >= -1) & (labels < K)).all()):
            raise ValueError(
                f"labels should be {len(features)} integers from -1 (unknown) to {K - 1}, got "
                f"shape {tuple(labels.shape)} of {labels.dtype} from {labels.min()} to "
                f"{labels.max()}"
            )
        other = (labels != UNKNOWN)[:, None] & (labels[:, None] != torch.arange(K))
        joint = joint.masked_fill(other.unsqueeze(-1), -torch.inf)
    flat = joint.flatten(1)
    evidence = flat.logsumexp(-1)
    return (flat - evidence.unsqueeze(-1)).exp().reshape(joint.shape), evidence


@torch.no_grad()
def feature_em(
    model: FeatureGaussian,
    features: Tensor,
    labels: Tensor | None = None,
    *,
    steps: int = 50,
    shrinkage: float = 0.0,
) -> tuple[FeatureGaussian, list[float]]:
    """Run EM in closed form: means, the one covariance, prior and weights of the prototypes.

    With ``shrinkage`` 0 no step lowers the evidence (Dempster, Laird and Rubin 1977).

    Args:
        model: where to begin.
        features: of the training images, ``(N, D)``.
        labels: tasks, -1 where unknown, ``(N,)``; all unknown without.
        steps: how many.
        shrinkage: of the covariance towards its diagonal, see ``FeatureMoments.gaussian``.

    Returns:
        The model after the last step, and the mean log evidence before each, in nats.

    >>> x = torch.tensor([[-0.1], [0.1], [5.9], [6.1]])
    >>> start = FeatureGaussian(torch.nn.Identity(), torch.tensor([[1.0], [2.0]]), torch.eye(1))
    >>> model, evidence = feature_em(start, x, steps=20)
    >>> model.means.flatten().round(decimals=3).abs().tolist(), evidence[0] < evidence[-1]
    ([0.0, 6.0], True)
    """
    history = []
    for _ in range(steps):
        q, evidence = responsibilities(model, features, labels)
        history.append(evidence.mean().item())
        moments = FeatureMoments.of(features, q)
        model = moments.gaussian(model.phi, shrinkage, model.image_shape)
    return model, history


@torch.no_grad()
def split_prototypes(
    features: Tensor, y: Tensor, num_tasks: int, prototypes: int, generator: torch.Generator
) -> Tensor:
    """Return first responsibilities ``(N, K, J)``: features of each task in J clusters (k-means).

    Args:
        features: ``(N, D)``.
        y: tasks, ``(N,)``.
        num_tasks: K.
        prototypes: J.
        generator: draws the first centres among the features of each task.

    Raises:
        ValueError: for a task with fewer than J features.
    """
    q = features.new_zeros(len(features), num_tasks, prototypes)
    for k in range(num_tasks):
        index = (y == k).nonzero().flatten()
        if len(index) < prototypes:
            raise ValueError(
                f"task {k} has {len(index)} features, expected {prototypes} or more, one a "
                "prototype"
            )
        own = features[index]
        centres = own[torch.randperm(len(own), generator=generator)[:prototypes]]
        for _ in range(20):
            nearest = torch.cdist(own, centres).argmin(-1)
            for j in nearest.unique().tolist():
                centres[j] = own[nearest == j].mean(0)
        q[index, k, nearest] = 1.0
    return q
