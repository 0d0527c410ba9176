"""Nearest centroid in a feature space: the task whose mean lies closest to the features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gbi_pyro._arrays import UNKNOWN, as_tensor, check_labels
from gbi_pyro.inference._amortised import Network, check_output, only_site, read
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.relax import Model


@dataclass(frozen=True, eq=False)
class NearestCentroid:
    r"""Infer the task from the distance of its features to each task's centroid.

        log q(k) = log pi_k - |h(x) - c_k|^2 / 2 v, normalised,

    the posterior of p(h | k) = Normal(c_k, v I), that is linear discriminant analysis with one
    spherical covariance (Hastie, Tibshirani and Friedman 2009, The elements of statistical
    learning, sec. 4.3). The prior pi is the model's; its likelihood is not used. It is a
    baseline for one gradient step: the hidden states of a frozen network classify at the cost of
    one pass. ``fit_centroids`` fits it.

    Args:
        features: h, called with what the model is called with; returns ``batch_shape + (D,)``. In
            eval mode, if it has one.
        centroids: c, ``(K, D)``.
        variance: v > 0, of one coordinate around its centroid.

    Calling it as ``centroids(model, *args)`` returns a ``TaskPosterior``: one forward pass of the
    features, and one run of the model that reads its prior and counts as a check.

    Raises:
        TaskSiteError: for a model without a task site, or with several.
        ValueError: for centroids, features or a variance that do not fit.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("sequence", len(x)):
    ...         prior = dist.OneHotCategorical(torch.tensor([0.5, 0.5]))
    ...         z = pyro.sample("z", prior, infer={"task": True})
    ...         pyro.sample("x", dist.Normal(z @ torch.tensor([0.2, 0.8]), 0.1), obs=x)
    >>> nearest = NearestCentroid(lambda x: x[:, None], torch.tensor([[0.2], [0.8]]), 0.1**2)
    >>> nearest(model, torch.tensor([0.2, 0.5, 0.52])).probs().round(decimals=2)
    tensor([[1.0000, 0.0000],
            [0.5000, 0.5000],
            [0.2300, 0.7700]])
    """

    features: Network
    centroids: Tensor
    variance: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "centroids", as_tensor(self.centroids, "centroids"))
        shape = tuple(self.centroids.shape)
        if len(shape) != 2 or shape[0] < 2 or not shape[1]:
            raise ValueError(
                f"centroids should be (K, D), a row for each of two tasks or more; got {shape}"
            )
        if not bool(self.centroids.isfinite().all()):
            raise ValueError("centroids have NaN or infinite elements; expected finite numbers")
        if not 0 < self.variance < math.inf:
            raise ValueError(f"variance should be positive and finite, got {self.variance}")

    def __call__(self, model: Model, *args: Any, **kwargs: Any) -> TaskPosterior:
        """Infer the task site of ``model`` called with ``args`` and ``kwargs``."""
        site, counts, passes = only_site(model, args, kwargs)
        num_tasks, size = self.centroids.shape
        if num_tasks != site.num_tasks:
            raise ValueError(
                f"centroids are those of {num_tasks} tasks, but task site {site.name!r} has "
                f"{site.num_tasks}: fit them with num_tasks={site.num_tasks}"
            )
        h = check_output("features", read(self.features, args, kwargs), site.batch_shape, size)
        # |h|^2 is the same for every task, and left out cancels nothing of what tells them apart.
        c = self.centroids.to(h)
        closeness = (h @ c.mT - 0.5 * c.square().sum(-1)) / self.variance
        log_probs = (closeness + site.log_prior).log_softmax(-1)
        return TaskPosterior(
            {site.name: log_probs},
            {site.name: site},
            method="nearest centroid",
            settings={"variance": self.variance, "features": size},
            passes=passes._replace(forward=passes.forward + 1),
            num_observations={site.name: counts},
        )


def fit_centroids(
    features: Network, labels: Tensor, num_tasks: int, *args: Any, **kwargs: Any
) -> NearestCentroid:
    """Find each task's centroid, and the variance around them, from labelled data.

    c_k is the mean of h over the elements of task k, and the pooled variance of one coordinate is

        v = sum_i |h_i - c_{z_i}|^2 / D (N - K).

    Args:
        features: h, called with ``args`` and ``kwargs``; returns ``(..., D)``.
        labels: task ids, -1 where unknown, broadcast to ``(...)``.
        num_tasks: K.
        args, kwargs: the data, as the model takes them.

    Raises:
        ValueError: for labels that do not fit, a task without one, or no variance around the
            centroids.

    >>> x = torch.tensor([0.0, 2.0, 5.0, 7.0, 3.0])
    >>> nearest = fit_centroids(lambda x: x[:, None], torch.tensor([0, 0, 1, 1, -1]), 2, x)
    >>> nearest.centroids.flatten(), nearest.variance
    (tensor([1., 6.]), 2.0)
    """
    h = as_tensor(read(features, args, kwargs), "features")
    if h.ndim < 2:
        raise ValueError(
            f"features have shape {tuple(h.shape)}, expected (..., D): a vector for each element"
        )
    h = check_output("features", h, h.shape[:-1], h.shape[-1])
    labels = check_labels(labels, h.shape[:-1], num_tasks).to(h.device)
    known = labels != UNKNOWN
    dtype, h, z = h.dtype, h[known].double(), labels[known]
    counts = torch.bincount(z, minlength=num_tasks)
    if bool((counts == 0).any()) or len(z) <= num_tasks:
        raise ValueError(
            f"labels should name every one of {num_tasks} tasks, and one of them twice; got "
            f"{counts.tolist()} elements of each: give more data, or fewer tasks"
        )
    sums = h.new_zeros(num_tasks, h.shape[-1]).index_add_(0, z, h)
    centroids = sums / counts.unsqueeze(-1)
    squares = (h - centroids[z]).square().sum().item()
    variance = squares / (h.shape[-1] * (len(z) - num_tasks))
    if not variance > 0:
        raise ValueError(
            "features do not vary around their centroids (variance 0), which makes every distance "
            "infinite: take features that see the data, and not the task"
        )
    return NearestCentroid(features, centroids.to(dtype), variance)
