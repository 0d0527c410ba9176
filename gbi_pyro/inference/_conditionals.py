"""Conditional distributions of tasks given those of other sites: from networks, from tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from gbi_pyro.sites import TaskSite

Parents = Mapping[str, tuple[str, ...]]


class SiteNetworks(nn.ModuleDict):
    """A multilayer perceptron for each site, of the features and the tasks of its parents.

    They start at zero: their output adds to the log prior.

    Args:
        num_features: of an element.
        sizes: the number of tasks by site.
        parents: the sites that each site is given, in the order in which sites are drawn.
        hidden: the width of both hidden layers.
    """

    def __init__(
        self, num_features: int, sizes: Mapping[str, int], parents: Parents, hidden: int
    ) -> None:
        super().__init__()
        self.parents = {name: tuple(given) for name, given in parents.items()}
        self.sizes = {name: sizes[name] for name in parents}
        for i, (name, given) in enumerate(parents.items()):
            last = nn.Linear(hidden, sizes[name])
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            first = nn.Linear(num_features + sum(sizes[n] for n in given), hidden)
            # A module's name may hold no dot, a site's may.
            self[str(i)] = nn.Sequential(
                first, nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), last
            )

    def scores(self, site: str, features: Tensor, ids: Mapping[str, Tensor]) -> Tensor:
        """Return what the data and the parents add to the log prior of a site.

        Args:
            site: its name.
            features: ``batch_shape + (F,)``.
            ids: of its parents, at least, ``lead + batch_shape``.

        Returns:
            ``lead + batch_shape + (K,)``, without ``lead`` for a site without parents.
        """
        given = [one_hot(ids[n], self.sizes[n]).to(features) for n in self.parents[site]]
        if given:
            given.insert(0, features.expand(*given[0].shape[:-1], -1))
        inputs = torch.cat(given, -1) if given else features
        network = self[str(list(self.sizes).index(site))]
        return cast(Tensor, network(inputs))


@dataclass(frozen=True, eq=False)
class NetworkConditionals:
    """Log q(z_i | parents, x) = log_softmax(network + log prior).

    Attributes:
        networks: of all sites.
        features: what the encoder made of the data, ``batch_shape + (F,)``.
        sites: the task sites, for their priors.
        observed: which elements have data, ``batch_shape``; the others keep their prior.
    """

    networks: SiteNetworks
    features: Tensor
    sites: Mapping[str, TaskSite]
    observed: Tensor

    def __call__(self, site: str, ids: Mapping[str, Tensor]) -> Tensor:
        """Return log q of each task of a site, ``lead + batch_shape + (K,)``."""
        scores = self.networks.scores(site, self.features, ids)
        scores = torch.where(self.observed.unsqueeze(-1), scores, scores.new_zeros(()))
        return (scores + self.sites[site].log_prior.to(scores)).log_softmax(-1)


@dataclass(frozen=True, eq=False)
class TableConditionals:
    """Log q(z_i | z_1 .. z_{i-1}) from a table for each element and site, added to the log prior.

    Attributes:
        sites: the task sites.
        tables: by site, ``batch_shape + (K_1 .. K_{i-1} multiplied, K_i)``.
    """

    sites: Mapping[str, TaskSite]
    tables: Mapping[str, Tensor]

    @classmethod
    def zeros(cls, sites: Mapping[str, TaskSite]) -> TableConditionals:
        """Return tables of zeros, float64, that take gradients."""
        sizes = [site.num_tasks for site in sites.values()]
        tables = {
            name: torch.zeros(
                (*site.batch_shape, math.prod(sizes[:i]), site.num_tasks),
                dtype=torch.float64,
                device=site.log_prior.device,
                requires_grad=True,
            )
            for i, (name, site) in enumerate(sites.items())
        }
        return cls(sites, tables)

    def __call__(self, site: str, ids: Mapping[str, Tensor]) -> Tensor:
        """Return log q of each task of a site, ``lead + batch_shape + (K,)``."""
        before = list(self.sites)[: list(self.sites).index(site)]
        table = self.tables[site] + self.sites[site].log_prior.double().unsqueeze(-2)
        table = table.log_softmax(-1)
        if not before:
            return table.squeeze(-2)
        at = torch.zeros_like(ids[before[0]])
        for name in before:
            at = at * self.sites[name].num_tasks + ids[name]
        rows = at[..., None, None].expand(*at.shape, 1, table.shape[-1])
        return table.expand(*at.shape, *table.shape[-2:]).gather(-2, rows).squeeze(-2)
