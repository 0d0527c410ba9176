"""The gradient of the log joint at points of the simplex that are given by their logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from gbi_pyro.logjoint import LogJoint, RelaxedModel
from gbi_pyro.sites import TaskSite, TaskSiteError, missing_point


class Slopes(NamedTuple):
    """A run of a model with its tasks at given points, and the gradient there.

    Attributes:
        joint: the run.
        logits: of the points, by site, ``batch_shape + (K,)``; -inf for forbidden tasks.
        likelihood: g, the gradient of all but the site's own prior, likewise; 0 for forbidden ones.
        log_prior: log pi, likewise; -inf for forbidden tasks.
    """

    joint: LogJoint
    logits: dict[str, Tensor]
    likelihood: dict[str, Tensor]
    log_prior: dict[str, Tensor]


def start(site: TaskSite) -> Tensor:
    """Return the logits of the maximum-entropy point of the tasks that the prior allows."""
    return torch.zeros_like(site.log_prior.detach()).masked_fill(
        site.log_prior.isneginf(), -torch.inf
    )


def logits_of(site: TaskSite, logits: Mapping[str, Tensor]) -> Tensor:
    """Return the logits of a site.

    Raises:
        TaskSiteError: for none of its name, or of another shape.
    """
    if site.name not in logits:
        raise missing_point(site.name, list(logits))
    if (found := logits[site.name]).shape != (expected := site.log_prior.shape):
        raise TaskSiteError(
            f"the posterior to start from should have the tasks and elements of the data, "
            f"{tuple(expected)} at task site {site.name!r}; got {tuple(found.shape)}"
        )
    return found


def slopes(run: RelaxedModel, logits: Mapping[str, Tensor] | None = None) -> Slopes:
    """Run a model at softmax(logits) and take the gradient: one forward and one backward pass.

    Args:
        run: the model with its data.
        logits: by site; None for the maximum-entropy point.
    """
    at: dict[str, Tensor] = {}

    def point(site: TaskSite) -> Tensor:
        at[site.name] = start(site) if logits is None else logits_of(site, logits).detach()
        return at[site.name].softmax(-1)

    joint = run.log_joint(point, order=1)
    run.count(forward=1)
    gradients = run.likelihood_gradient(joint)
    log_prior = {n: s.log_prior.detach() for n, s in joint.sites.items()}
    likelihood = {
        n: g.detach().masked_fill(log_prior[n].isneginf(), 0.0) for n, g in gradients.items()
    }
    return Slopes(joint, at, likelihood, log_prior)


def has_data(joint: LogJoint) -> dict[str, Tensor]:
    """Return which elements have data, not all of them masked, by site, ``batch_shape + (1,)``."""
    return {n: (joint.num_observations(s) > 0).unsqueeze(-1) for n, s in joint.sites.items()}
