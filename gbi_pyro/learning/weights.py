"""The weight update: ascend log p(x, Z) in the weights with the tasks clamped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from torch import Tensor

from gbi_pyro.purity import module_of
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
    loss, observations = summed_loss(model, *args, **kwargs)
    if not observations:
        raise nothing_observed()
    return loss / observations


def summed_loss(model: Model, *args: Any, **kwargs: Any) -> tuple[Tensor, float]:
    """Return -log p(x, Z), and how many values are observed."""
    with ScoreMessenger() as score:
        model(*args, **kwargs)
    return -sum_terms(score.factors.values()), num_observations(score.factors.values())


def nothing_observed() -> TaskSiteError:
    """Return the error of a model without data."""
    return TaskSiteError(
        "the model observes nothing: expected at least one site with data (obs=...) that are "
        "not all masked"
    )


def check_gradients(model: Any, weights: Sequence[Tensor], gradients: Sequence[Any]) -> None:
    """Refuse gradients that are not finite, before an optimiser takes them.

    Args:
        model: whose weights they are, for their names.
        weights: the weights.
        gradients: one for each, or None.

    Raises:
        TaskSiteError: names the weight.
    """
    found = [g for g in gradients if g is not None]
    # One number decides in the usual case. It may overflow.
    if not found or bool(torch.nn.utils.get_total_norm(found).isfinite()):
        return
    for weight, gradient in zip(weights, gradients, strict=True):
        if gradient is not None and not bool(gradient.isfinite().all()):
            bad = int((~gradient.isfinite()).sum())
            raise TaskSiteError(
                f"the gradient of parameter {_name(model, weight)} has {bad} NaN or infinite "
                "element(s); expected finite numbers, and the weights stay as they were: look for "
                "a square root or a logarithm at zero, a scale that vanishes, or data out of range"
            )


def _name(model: Any, weight: Tensor) -> str:
    module = module_of(model)
    named = dict(module.named_parameters()) if module is not None else {}
    named |= pyro.get_param_store()._params
    found = [repr(name) for name, p in named.items() if p is weight]
    return found[0] if found else f"of shape {tuple(weight.shape)}"
