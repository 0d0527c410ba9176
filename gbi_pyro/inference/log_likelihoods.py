"""What the data of an element say about its task, apart from any prior."""

from __future__ import annotations

import torch
from torch import Tensor

from gbi_pyro.posterior import TaskPosterior


def log_likelihoods(posterior: TaskPosterior) -> Tensor:
    """Return log p(x | z = k) of each element, as a posterior over single elements knows it.

    log q(k) - log pi_k, with the log evidence added where the method knows it; up to a constant of
    the element otherwise. At another temperature it is the tempered likelihood, log p(x | k) / temperature.

    Args:
        posterior: over one task site, of elements that were inferred one by one.

    Returns:
        ``batch_shape + (K,)``; -inf for a task that the model's prior forbids.

    >>> from gbi_pyro.sites import TaskSite
    >>> site = TaskSite("z", torch.tensor([0.2, 0.8]).log(), ())
    >>> q = TaskPosterior({"z": torch.tensor([0.1, 0.9]).log()}, {"z": site}, "example")
    >>> log_likelihoods(q).exp()
    tensor([0.5000, 1.1250])
    """
    site = posterior.sites[posterior.site_name()]
    temperature = posterior.settings.get("temperature") or 1.0
    evidence = posterior.logits() - site.log_prior / temperature
    # A task that the model's prior forbids stays forbidden: -inf - (-inf) is no number.
    evidence = evidence.masked_fill(site.log_prior.isneginf(), -torch.inf)
    if posterior.log_evidence is not None:
        evidence = evidence + posterior.log_evidence.unsqueeze(-1)
    return evidence
