"""A fitted network that maps the data to a joint posterior over several task sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gbi_pyro._arrays import as_tensor
from gbi_pyro.inference._amortised import Network, check_output, read
from gbi_pyro.inference._combinations import check_same_elements
from gbi_pyro.inference._conditionals import NetworkConditionals, SiteNetworks
from gbi_pyro.inference.autoregressive_joint import AutoregressiveJoint
from gbi_pyro.logjoint import LogJoint, Passes, RelaxedModel
from gbi_pyro.posterior import TaskPosterior, detached
from gbi_pyro.relax import Model
from gbi_pyro.sites import TaskSite, TaskSiteError


@dataclass(frozen=True, eq=False)
class JointRecogniser:
    r"""Infer several task sites jointly by a network that was trained to recognise them.

        log q(z | x) = \sum_i log_softmax(a_i(features(x), z_parents(i)) + log pi_i)[z_i]

    It is what ``AutoregressiveRecogniser`` and ``LocalRecogniser`` return when they are fitted. At
    use the likelihood is not asked: one run of the model, counted as a check, reads its priors, and
    one forward pass is that of the networks. Elements whose data are all masked get their prior.

    Attributes:
        encoder: of the data, called with what the model is called with: ``batch_shape + (F,)``.
        networks: a, one for each site.
        method: the inference in words.
        losses: of each update of the fit, ``(updates,)``.
        fit_passes: runs of the model in the fit, by the elements of a batch.
        max_joint: the largest number of combinations of tasks that is written out as a table, of
            which marginals are sums; beyond it they are estimated from draws.
        num_draws: how many draws that are.
        seed: of those draws.

    Raises:
        TaskSiteError: for a model with other task sites than those of the fit, or in several
            plates.
        ValueError: for what the encoder returns, if it does not fit.
    """

    encoder: Network
    networks: SiteNetworks = field(repr=False)
    method: str
    losses: Tensor = field(repr=False)
    fit_passes: Passes
    max_joint: int = 4096
    num_draws: int = 1000
    seed: int = 0

    @property
    def parents(self) -> dict[str, tuple[str, ...]]:
        """The sites that each site is given, in the order in which sites are drawn."""
        return self.networks.parents

    def __call__(self, model: Model, *args: Any, **kwargs: Any) -> TaskPosterior:
        """Infer the task sites of ``model`` called with ``args`` and ``kwargs``."""
        run = RelaxedModel(model, args, kwargs)
        at = run.log_joint(lambda site: site.uniform())
        run.count(check=1)
        sites = detached(at.sites)
        sizes = {name: site.num_tasks for name, site in sites.items()}
        if sizes != self.networks.sizes:
            raise _other_sites(self.networks.sizes, sizes)
        features = read(self.encoder, args, kwargs)
        run.count(forward=1)
        joint = recognised(self.networks, features, at, sites)
        small = joint.num_combinations <= self.max_joint
        with torch.no_grad():
            generator = torch.Generator().manual_seed(self.seed)
            table = joint.table() if small else None
            found = table.marginals() if table else joint.marginals(self.num_draws, generator)
        return TaskPosterior(
            {name: found[name].to(site.log_prior) for name, site in sites.items()},
            sites,
            method=self.method,
            settings={"num_draws": 0 if small else self.num_draws, "seed": self.seed},
            passes=run.passes,
            num_observations={n: at.num_observations(s) for n, s in sites.items()},
            joint=table or joint,
        )


def recognised(
    networks: SiteNetworks, features: Any, at: LogJoint, sites: Mapping[str, TaskSite]
) -> AutoregressiveJoint:
    """Return the joint posterior that networks make of features, with its gradient.

    Args:
        networks: one for each site.
        features: ``batch_shape + (F,)``.
        at: a run of the model, for its data.
        sites: its task sites, detached.
    """
    shape = check_same_elements(sites, "a joint recogniser")
    features = as_features(features, shape)
    first = next(iter(sites.values()))
    observed = (at.num_observations(first) > 0).to(features.device)
    conditionals = NetworkConditionals(networks, features, sites, observed)
    return AutoregressiveJoint(networks.sizes, shape, conditionals)


def as_features(output: Any, batch_shape: torch.Size) -> Tensor:
    """Return what an encoder made of the data as floating numbers, ``batch_shape + (F,)``.

    Raises:
        ValueError: for another shape, or numbers that are not finite.
    """
    found = as_tensor(output, "encoder")
    found = found if found.is_floating_point() else found.to(torch.get_default_dtype())
    return check_output("encoder", found, batch_shape, found.shape[-1] if found.ndim else 1)


def _other_sites(fitted: Mapping[str, int], found: Mapping[str, int]) -> TaskSiteError:
    return TaskSiteError(
        f"the recogniser was fitted to the task sites {dict(fitted)} (K by name), the model has "
        f"{dict(found)}; expected the same: fit one to this model"
    )
