"""The gradient of the log joint at points of the simplex that are given by their logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from gbi_pyro.logjoint import LogJoint, RelaxedModel
from gbi_pyro.sites import TaskSite, missing_point


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


def slopes(run: RelaxedModel, logits: Mapping[str, Tensor] | None = None) -> Slopes:
    """Run a model at softmax(logits) and take the gradient: one forward and one backward pass.

    Args:
        run: the model with its data.
        logits: by site; None for the maximum-entropy point.
    """
    at: dict[str, Tensor] = {}

    def point(site: TaskSite) -> Tensor:
        if logits is not None and site.name not in logits:
            raise missing_point(site.name, list(logits))
        at[site.name] = start(site) if logits is None else logits[site.name].detach()
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
