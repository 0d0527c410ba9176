"""Shared parts of inferences that do not run the likelihood."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gbi_pyro._arrays import as_tensor
from gbi_pyro.logjoint import Passes, RelaxedModel
from gbi_pyro.purity import pure
from gbi_pyro.relax import Model
from gbi_pyro.sites import TaskSite, TaskSiteError

Network = Callable[..., Tensor]


class OnlySite(NamedTuple):
    """The one task site of a model, for an inference that needs its prior and nothing else.

    Attributes:
        site: the site, cut off from any gradient.
        num_observations: how many observed values an element explains, ``batch_shape``.
        passes: the run of the model that found them, counted as a check.
    """

    site: TaskSite
    num_observations: Tensor
    passes: Passes


def only_site(model: Model, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> OnlySite:
    """Find the one task site of a model called with ``args`` and ``kwargs``.

    Raises:
        TaskSiteError: for none, or for several.
    """
    run = RelaxedModel(model, args, kwargs)
    joint = run.log_joint(lambda site: site.uniform())
    run.count(check=1)
    if len(joint.sites) != 1:
        raise TaskSiteError(
            f"the model has {len(joint.sites)} task sites, {list(joint.sites)}; expected one, "
            "which the network names: give the others as data, or make their combinations the "
            "tasks of one site"
        )
    (site,) = joint.sites.values()
    return OnlySite(site.detached(), joint.num_observations(site), run.passes)


def read(network: Network, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Run a network on the data and leave nothing behind: no gradient, random draw or statistic."""
    with pure(network, freeze=True), torch.no_grad():
        return network(*args, **kwargs)


def check_output(what: str, output: Any, batch_shape: torch.Size, size: int) -> Tensor:
    """Return what a network made of the data, if it is ``batch_shape + (size,)`` and finite.

    Raises:
        ValueError: else.
    """
    found = as_tensor(output, what)
    expected = (*batch_shape, size)
    if tuple(found.shape) != expected:
        raise ValueError(
            f"{what} has shape {tuple(found.shape)}, expected {expected}: {size} numbers for each "
            "element of the task site. It is called with what the model is called with; reshape "
            "what it returns"
        )
    if not bool(found.detach().isfinite().all()):
        raise ValueError(
            f"{what} has NaN or infinite elements; expected finite numbers: look at the data and "
            "at the network's weights"
        )
    return found
