"""Pairwise Markov random fields over task sites, solved exactly along their graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from gbi_pyro.joint import JointTable, draw_tasks
from gbi_pyro.sites import TaskSiteError

Edge = tuple[str, str]


@dataclass(frozen=True)
class PairwiseJoint:
    r"""The joint posterior of a pairwise Markov random field over task sites.

    log q(z) = sum_i unary_i[z_i] + sum_{(i, j) in edges} pairwise_ij[z_i, z_j] - log Z, for each
    element by itself. Sites are eliminated one after the other, the one next whose neighbours need
    the fewest new edges (min-fill; Koller and Friedman 2009, Probabilistic graphical models,
    ch. 9). In reverse order each site is drawn given its neighbours at the time. All of it is
    exact, in float64; compute and memory grow with the largest table met, not with the number of
    combinations.

    Attributes:
        conditionals: for each site, in the order in which they are drawn, log q(site | parents): a
            table over the parents, drawn before it, and the site itself, last.
        edges: the pairs of sites that interact.

    >>> agree = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    >>> names = [f"s{i}" for i in range(30)]
    >>> field = PairwiseJoint.of_field(
    ...     {n: torch.tensor([1.0, 0.0]) if n == "s0" else torch.zeros(2) for n in names},
    ...     dict.fromkeys(zip(names, names[1:]), agree),
    ... )
    >>> field.marginals()["s1"].exp()  # .5 + .5 tanh(1) tanh(1/2)
    tensor([0.6760, 0.3240], dtype=torch.float64)
    >>> field.sample(5)["s29"].shape
    torch.Size([5])
    """

    conditionals: dict[str, JointTable] = field(repr=False)
    edges: tuple[Edge, ...]

    @classmethod
    def of_field(
        cls,
        unary: Mapping[str, Tensor],
        pairwise: Mapping[Edge, Tensor],
        max_joint: int = 4096,
    ) -> PairwiseJoint:
        """Solve a field by variable elimination.

        Args:
            unary: by site, ``batch_shape + (K,)``; at least one task of each element above -inf.
            pairwise: by pair of sites, ``batch_shape + (K_i, K_j)``.
            max_joint: the largest number of combinations of a table.

        Raises:
            TaskSiteError: for a graph whose elimination needs a larger table.
        """
        sizes = {name: value.shape[-1] for name, value in unary.items()}
        order = elimination_order(sizes, pairwise, max_joint)
        batch = next(iter(unary.values())).shape[:-1]
        factors: list[tuple[tuple[str, ...], Tensor]] = [
            ((name,), value.double()) for name, value in unary.items()
        ]
        factors += [(pair, value.double()) for pair, value in pairwise.items()]
        found = {}
        for name in order:
            own = [f for f in factors if name in f[0]]
            factors = [f for f in factors if name not in f[0]]
            scope = {other for names, _ in own for other in names}
            parents = tuple(n for n in reversed(order) if n in scope and n != name)
            table = sum(_aligned(value, names, (*parents, name), sizes) for names, value in own)
            table = torch.as_tensor(table).expand(*batch, *(sizes[n] for n in (*parents, name)))
            message = table.logsumexp(-1)
            possible = message.masked_fill(message.isneginf(), 0.0)
            found[name] = JointTable((*parents, name), table - possible.unsqueeze(-1))
            if parents:
                factors.append((parents, message))
        return cls({name: found[name] for name in reversed(order)}, tuple(pairwise))

    @property
    def sites(self) -> tuple[str, ...]:
        """Its sites, in an order in which each can be drawn given those before it."""
        return tuple(self.conditionals)

    def marginals(self) -> dict[str, Tensor]:
        """Return log q(z = k) by site, ``batch_shape + (K,)``, float64."""
        joint: dict[str, JointTable] = {}  # of each site and its parents
        found = {}
        for name, table in self.conditionals.items():
            log_q, parents = table.log_probs, table.sites[:-1]
            if parents:
                # The parent drawn last has all others among its own parents.
                log_q = log_q + _marginal(joint[parents[-1]], parents).log_probs.unsqueeze(-1)
            joint[name] = JointTable(table.sites, log_q)
            found[name] = _marginal(joint[name], (name,)).log_probs
        return found

    def sample(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw task ids together, ``(n,) + batch_shape`` for each site."""
        drawn: dict[str, Tensor] = {}
        for name, table in self.conditionals.items():
            logits = table.conditional(name, drawn).logits
            drawn[name] = draw_tasks(
                logits.expand(n, *table.batch_shape, logits.shape[-1]), generator
            )
        return drawn

    def log_prob(self, ids: Mapping[str, Tensor]) -> Tensor:
        """Return log q(all tasks) of each element, ``lead + batch_shape``."""
        return torch.stack([table.log_prob(ids) for table in self.conditionals.values()]).sum(0)

    def conditional(self, site: str, given: Mapping[str, Tensor]) -> Any:
        """Return the distribution of a site's tasks given those of the sites before it."""
        found = self.conditionals[site].conditional(site, given)
        before = self.sites[: self.sites.index(site)]
        return found.expand(
            torch.broadcast_shapes(found.batch_shape, *(given[n].shape for n in before))
        )


def elimination_order(
    sizes: Mapping[str, int], edges: Iterable[Edge], max_joint: int = 4096
) -> list[str]:
    """Return an order in which sites are eliminated: fewest new edges first, then smallest table.

    Args:
        sizes: K by site.
        edges: the pairs of sites that interact.
        max_joint: the largest number of combinations of a table.

    Raises:
        TaskSiteError: for a graph whose elimination needs a larger table.

    >>> elimination_order({"a": 2, "b": 2, "c": 2}, [("a", "b"), ("b", "c")])
    ['a', 'b', 'c']
    """
    near: dict[str, set[str]] = {name: set() for name in sizes}
    for i, j in edges:
        near[i].add(j)
        near[j].add(i)

    def cost(name: str) -> tuple[int, int]:
        missing = sum(b not in near[a] for a, b in combinations(near[name], 2))
        return missing, sizes[name] * math.prod(sizes[n] for n in near[name])

    order = []
    while near:
        name = min(near, key=cost)
        if (number := cost(name)[1]) > max_joint:
            raise TaskSiteError(
                f"task sites {list(sizes)[:3]} ... ({len(sizes)} sites, "
                f"{len({*map(frozenset, edges)})} interacting pairs) need a table of {number} "
                f"combinations of {1 + len(near[name])} sites, more than max_joint = {max_joint}: "
                "raise it, or use OneStepGradient, whose sites are independent, or Rescored, which "
                "scores a few combinations exactly"
            )
        order.append(name)
        neighbours = near.pop(name)
        for other in neighbours:
            near[other] = (near[other] | neighbours) - {name, other}
    return order


def _aligned(
    value: Tensor, names: tuple[str, ...], scope: tuple[str, ...], sizes: Mapping[str, int]
) -> Tensor:
    """Return a factor over ``names`` with a dimension for each site of ``scope``."""
    ordered = JointTable(names, value).ordered([n for n in scope if n in names])
    shape = [sizes[n] if n in names else 1 for n in scope]
    return ordered.log_probs.reshape(*ordered.batch_shape, *shape)


def _marginal(table: JointTable, sites: tuple[str, ...]) -> JointTable:
    """Return the marginal over some of the sites of a table, in this order."""
    n = len(table.sites)
    others = [i - n for i, name in enumerate(table.sites) if name not in sites]
    log_q = table.log_probs.logsumexp(others) if others else table.log_probs
    return JointTable(tuple(s for s in table.sites if s in sites), log_q).ordered(sites)
