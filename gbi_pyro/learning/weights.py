"""The weight update: ascend log p(x, Z) in the weights with the tasks clamped."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gbi_pyro.relax import Model
from gbi_pyro.score import ScoreMessenger, num_observations, sum_terms
from gbi_pyro.sites import TaskSiteError


def clamped_loss(model: Model, *args: Any, **kwargs: Any) -> Tensor:
    """Return -log p(x, Z) per observed value, to be descended in the weights.

    The tasks are given: as labels that the model takes among its arguments, or as mixtures by
    ``clamp_tasks``. It is a loss for torch's optimisers: ``clamped_loss(model, x, z).backward()``.

    Args:
        model: a Pyro model.
        args, kwargs: what the model takes.

    Returns:
        A scalar in nats.

    Raises:
        TaskSiteError: for a site that is not observed, or data that are not finite.

    >>> import pyro, torch, pyro.distributions as dist
    >>> def model(x, z):
    ...     prior = dist.OneHotCategorical(torch.tensor([0.5, 0.5]))
    ...     z = pyro.sample("z", prior, obs=z, infer={"task": True})
    ...     pyro.sample("x", dist.Normal(z @ torch.tensor([0.0, 1.0]), 1.0), obs=x)
    >>> clamped_loss(model, torch.tensor(0.0), torch.tensor([1.0, 0.0]))  # log 2 + log(2 pi) / 2
    tensor(1.6121)
    """
    with ScoreMessenger() as score:
        model(*args, **kwargs)
    observations = num_observations(score.factors.values())
    if not observations:
        raise TaskSiteError(
            "the model observes nothing: expected at least one site with data (obs=...)"
        )
    return -sum_terms(score.factors.values()) / observations
