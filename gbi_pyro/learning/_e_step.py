"""The E-step of EM: a posterior, with labels and a prior over tasks put in."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from gbi_pyro.inference._counts import Counts
from gbi_pyro.inference.chain_posterior import along_chain
from gbi_pyro.inference.log_likelihoods import log_likelihoods
from gbi_pyro.inference.task_chain import TaskChain
from gbi_pyro.inference.task_prior import TaskPrior
from gbi_pyro.learning.labels import clamp_log_likelihoods
from gbi_pyro.learning.m_step import several_sites
from gbi_pyro.posterior import TaskPosterior, trailing
from gbi_pyro.sites import UNKNOWN, TaskSite, check_labels


class EStep(NamedTuple):
    """The posterior of an E-step, and what else the bound is made of.

    Attributes:
        posterior: over the task site; one-hot where the label is known.
        entropy: H(q) of all tasks together, a scalar.
        counts: what a prior of EM's own learns from; None without one.
        padding: which elements are no steps, ``batch_shape``.
    """

    posterior: TaskPosterior
    entropy: Tensor
    counts: Counts | None
    padding: Tensor

    @property
    def log_evidence(self) -> float | None:
        """Log p(x, labels) of everything, where the inference knows it."""
        return self.posterior.total_log_evidence


def explain(
    posterior: TaskPosterior, prior: TaskPrior | TaskChain | None, labels: Tensor | None
) -> EStep:
    """Put labels, and a prior in place of the model's own, into a posterior.

    Args:
        posterior: of any inference, over one task site.
        prior: takes the place of the model's own prior; None leaves it.
        labels: task ids, -1 where unknown, broadcast to the shape of the site; None for none.

    Raises:
        TaskSiteError: for several task sites, or a chain over a task without time.
        ValueError: for labels or a prior that do not fit.
    """
    if len(posterior.log_probs) != 1:
        raise several_sites(list(posterior.log_probs))
    (site,) = posterior.sites.values()
    if labels is not None:
        labels = check_labels(labels, site.batch_shape, site.num_tasks)
    if prior is None:
        posterior = posterior if labels is None else _with_labels(posterior, labels)
        return EStep(posterior, posterior.entropy().sum(), None, _padding(posterior, labels, None))
    _check_prior(prior, posterior, site)
    log_likelihood = log_likelihoods(posterior)
    if labels is not None:
        log_likelihood = clamp_log_likelihoods(log_likelihood, labels)
    if isinstance(prior, TaskChain):
        time = site.time_dim(prior.time)
        padding = _padding(posterior, labels, time)
        chain = along_chain(posterior, prior, log_likelihood, "smoothed")
        found = prior.explained(chain.hmm, padding.movedim(time, -1))
        return EStep(chain, found.entropy, found.counts, padding)
    padding = _padding(posterior, labels, None)
    found = prior.explain(log_likelihood, padding)
    log_evidence = None if posterior.log_evidence is None else found.log_evidence
    posterior = _replaced(posterior, found.log_probs, log_evidence)
    return EStep(posterior, found.entropy, found.counts, padding)


def _padding(posterior: TaskPosterior, labels: Tensor | None, time: int | None) -> Tensor:
    """Return which elements are no steps: neither data nor a label, and none later in a chain."""
    padding = posterior.padding()
    if labels is not None:
        padding = padding & (labels == UNKNOWN).to(padding.device)
    return padding if time is None else trailing(padding, time)


def _replaced(
    posterior: TaskPosterior, log_probs: Tensor, log_evidence: Tensor | None
) -> TaskPosterior:
    return replace(
        posterior,
        log_probs={posterior.site_name(): log_probs},
        log_evidence=log_evidence,
        objective=None,
        points={},
        path={},
        joint=None,
    )


def _with_labels(posterior: TaskPosterior, labels: Tensor) -> TaskPosterior:
    """Return the posterior of independent elements when some of their tasks are known."""
    log_q = posterior.logits()
    clamped = clamp_log_likelihoods(torch.zeros_like(log_q), labels)
    log_evidence = posterior.log_evidence
    if log_evidence is not None and log_evidence.shape == labels.shape:
        # log p(x, z) = log p(x) + log p(z | x) where the task is known.
        log_evidence = log_evidence + (log_q + clamped).logsumexp(-1)
    else:
        log_evidence = None
    known = (labels != UNKNOWN).to(log_q.device).unsqueeze(-1)
    return _replaced(posterior, torch.where(known, clamped, log_q), log_evidence)


def _check_prior(prior: TaskPrior | TaskChain, posterior: TaskPosterior, site: TaskSite) -> None:
    if "chain" in posterior.settings:
        raise ValueError(
            "prior takes the place of every other prior over tasks, but the E-step is a "
            "BayesFilter already: give the inference inside it, or no prior"
        )
    if prior.num_tasks != site.num_tasks:
        raise ValueError(
            f"prior has {prior.num_tasks} tasks, task site {site.name!r} has {site.num_tasks}; "
            f"make it for K = {site.num_tasks}"
        )
