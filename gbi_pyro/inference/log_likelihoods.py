"""Log likelihoods of the tasks, read off a posterior: what remains without the prior."""

from __future__ import annotations

import torch
from torch import Tensor

from gbi_pyro.posterior import TaskPosterior


def log_likelihoods(posterior: TaskPosterior) -> Tensor:
    """Return log p(x | z = k) of each element, from a posterior over single elements.

    log q(k) - log pi_k, with the log evidence added where the method knows it; up to a constant of
    the element otherwise. At another temperature T it is tempered, log p(x | k) / T.

    Args:
        posterior: over one task site, of elements that were inferred one by one.

    Returns:
        ``batch_shape + (K,)``; -inf for a task that the model's prior forbids.

    Raises:
        TypeError: for anything but a posterior.
        ValueError: for a posterior along a chain.

    >>> from gbi_pyro.sites import TaskSite
    >>> site = TaskSite("z", torch.tensor([0.2, 0.8]).log(), ())
    >>> q = TaskPosterior({"z": torch.tensor([0.1, 0.9]).log()}, {"z": site}, "example")
    >>> log_likelihoods(q).exp()
    tensor([0.5000, 1.1250])
    """
    if not isinstance(posterior, TaskPosterior):
        raise TypeError(
            f"expected a TaskPosterior, got a {type(posterior).__name__}: log_likelihoods takes "
            "what an inference returns, such as Enumeration()(model, *args)"
        )
    if "chain" in posterior.settings:
        raise ValueError(
            "expected a posterior over elements that were inferred one by one, got "
            f"{posterior.method!r} along a chain: take what the inference inside the filter returns"
        )
    site = posterior.sites[posterior.site_name()]
    temperature = posterior.settings.get("temperature") or 1.0
    log_likelihood = posterior.logits() - site.log_prior / temperature
    # A task that the model's prior forbids stays forbidden: -inf - (-inf) is no number.
    log_likelihood = log_likelihood.masked_fill(site.log_prior.isneginf(), -torch.inf)
    if posterior.log_evidence is not None:
        log_likelihood = log_likelihood + posterior.log_evidence.unsqueeze(-1)
    return log_likelihood
