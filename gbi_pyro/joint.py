"""Joint posteriors over tasks, where the tasks of an inference hang together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyro.distributions as dist
import torch
from torch import Tensor

from gbi_pyro.sites import TaskSite


class Joint(Protocol):
    """A joint posterior over all tasks of one or several sites.

    Elements that do not hang together, those of the plates that all its sites share, have a
    probability each.
    """

    @property
    def sites(self) -> tuple[str, ...]:
        """Its sites, in an order in which each can be drawn given those before it."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw task ids together, ``(n,) + batch_shape`` for each of its sites."""

    def log_prob(self, ids: Mapping[str, Tensor]) -> Tensor:
        """Return log p(all tasks) of each shared element: ``lead`` + their shape, float64.

        Args:
            ids: of every site, ``lead + batch_shape``.
        """

    def conditional(self, site: str, given: Mapping[str, Tensor]) -> Any:
        """Return the distribution of a site's tasks, one-hot, given those of all sites before it.

        Its log probabilities, element by element, sum to the joint one over all sites.

        Args:
            site: its name.
            given: ids of the sites before it, each broadcasting from the right against
                ``lead`` + the batch shape of the site.
        """


@dataclass(frozen=True)
class JointTable:
    """The probability of every combination of the tasks of sites that share their elements.

    Attributes:
        sites: their names.
        log_probs: normalised log probabilities, ``batch_shape + (K_1, .., K_n)``.

    >>> table = JointTable(("a", "b"), torch.tensor([[0.5, 0.1], [0.1, 0.3]]).log())
    >>> table.marginals()["a"].exp()
    tensor([0.6000, 0.4000])
    >>> table.conditional("b", {"a": torch.tensor(1)}).probs
    tensor([0.2500, 0.7500])
    """

    sites: tuple[str, ...]
    log_probs: Tensor = field(repr=False)

    @classmethod
    def of_scores(cls, sizes: Mapping[str, int], log_weights: Tensor) -> JointTable:
        """Return the table of unnormalised log weights.

        Args:
            sizes: K by site.
            log_weights: ``batch_shape + (prod K,)``, combinations in the order of ``combinations``.
        """
        q = log_weights.log_softmax(-1)
        return cls(tuple(sizes), q.reshape(*q.shape[:-1], *sizes.values()))

    @property
    def sizes(self) -> dict[str, int]:
        """K by site."""
        return dict(zip(self.sites, self.log_probs.shape[-len(self.sites) :], strict=True))

    @property
    def batch_shape(self) -> torch.Size:
        """The shape of the elements."""
        return self.log_probs.shape[: -len(self.sites)]

    @property
    def flat(self) -> Tensor:
        """Log probabilities with all combinations last, ``batch_shape + (prod K,)``."""
        return self.log_probs.flatten(-len(self.sites))

    def marginals(self) -> dict[str, Tensor]:
        """Return log p(z = k) by site, ``batch_shape + (K,)``."""
        n = len(self.sites)
        found = {}
        for i, name in enumerate(self.sites):
            others = [d for d in range(-n, 0) if d != i - n]
            found[name] = self.log_probs.logsumexp(others) if others else self.log_probs
        return found

    def ordered(self, sites: Sequence[str]) -> JointTable:
        """Return the same table with its sites in another order."""
        first = len(self.batch_shape)
        at = [first + self.sites.index(name) for name in sites]
        return JointTable(tuple(sites), self.log_probs.permute(*range(first), *at))

    def mode(self) -> dict[str, Tensor]:
        """Return the most probable combination of each element, ``batch_shape`` by site."""
        ids = torch.unravel_index(self.flat.argmax(-1), tuple(self.sizes.values()))
        return dict(zip(self.sites, ids, strict=True))

    def sample(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw task ids together, ``(n,) + batch_shape`` for each site."""
        drawn = draw_tasks(self.flat.expand(n, *self.flat.shape), generator)
        ids = torch.unravel_index(drawn, tuple(self.sizes.values()))
        return dict(zip(self.sites, ids, strict=True))

    def log_prob(self, ids: Mapping[str, Tensor]) -> Tensor:
        """Return log p(all tasks) of each element, ``lead + batch_shape``."""
        return self._at(self.flat.unsqueeze(-1), self.sites, ids).squeeze(-1).double()

    def conditional(self, site: str, given: Mapping[str, Tensor]) -> Any:
        """Return the distribution of a site's tasks given those of the sites before it."""
        i, n = self.sites.index(site), len(self.sites)
        later = list(range(i + 1 - n, 0))
        table = self.log_probs.logsumexp(later) if later else self.log_probs
        table = table.reshape(*self.batch_shape, -1, self.sizes[site])
        return tasks_given(self._at(table, self.sites[:i], given))

    def _at(self, table: Tensor, names: tuple[str, ...], ids: Mapping[str, Tensor]) -> Tensor:
        """Read a table ``batch_shape + (combinations, ...)`` where each element has its own."""
        batch, device = self.batch_shape, table.device
        shape = torch.broadcast_shapes(batch, *(ids[name].shape for name in names))
        at = torch.zeros(shape, dtype=torch.long, device=device)
        for name in names:
            at = at * self.sizes[name] + ids[name].to(device)
        table = table.expand(*shape, *table.shape[-2:])
        at = at[..., None, None].expand(*shape, 1, table.shape[-1])
        return table.gather(-2, at).squeeze(-2)


@dataclass(frozen=True)
class Reordered:
    """A joint posterior whose tasks have other ids.

    Attributes:
        joint: the joint posterior.
        site: whose tasks.
        order: at k the former id of task k, ``(K,)``.
    """

    joint: Joint
    site: str
    order: Tensor

    @property
    def sites(self) -> tuple[str, ...]:
        """Its sites."""
        return self.joint.sites

    def sample(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw task ids, ``(n,) + batch_shape`` for each site."""
        drawn = self.joint.sample(n, generator)
        present = self.order.argsort().to(drawn[self.site].device)
        return {**drawn, self.site: present[drawn[self.site]]}

    def log_prob(self, ids: Mapping[str, Tensor]) -> Tensor:
        """Return log p(all tasks) of each shared element."""
        return self.joint.log_prob(self._former(ids))

    def conditional(self, site: str, given: Mapping[str, Tensor]) -> Any:
        """Return the distribution of a site's tasks given those before it."""
        found = self.joint.conditional(site, self._former(given))
        if site != self.site:
            return found
        if not isinstance(found, dist.OneHotCategorical):  # of a path
            return found.reordered(self.order)
        return tasks_given(found.logits[..., self.order.to(found.logits.device)])

    def _former(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {n: self.order.to(k.device)[k] if n == self.site else k for n, k in ids.items()}


def combinations(sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Return all combinations of tasks, ids ``(prod K,)`` by site, the last site fastest.

    >>> combinations({"a": 2, "b": 2})["b"]
    tensor([0, 1, 0, 1])
    """
    grid = torch.arange(math.prod(sizes.values()))
    return dict(zip(sizes, torch.unravel_index(grid, tuple(sizes.values())), strict=True))


def tasks_given(log_weights: Tensor) -> Any:
    """Return the distribution of one-hot tasks; uniform where all of them are impossible."""
    impossible = log_weights.isneginf().all(-1, keepdim=True)
    return dist.OneHotCategorical(logits=log_weights.masked_fill(impossible, 0.0))


def product_log_prob(
    sites: Mapping[str, TaskSite], log_probs: Mapping[str, Tensor], ids: Mapping[str, Tensor]
) -> Tensor:
    """Return the log probability of tasks that are independent of each other.

    Elements that only some of the sites have are summed up.

    Args:
        sites: the task sites.
        log_probs: by site, ``batch_shape + (K,)``.
        ids: likewise, ``lead + batch_shape``.

    Returns:
        ``lead`` + the shape of the elements that all sites share, float64.
    """
    shared = [p.name for p in next(iter(sites.values())).plates if p]
    for site in sites.values():
        shared = [name for name in shared if name in {p.name for p in site.plates if p}]
    alike = len({site.plates for site in sites.values()}) == 1
    outermost = [s for s in sites.values() if {p.name for p in s.plates if p} == {*shared}]
    terms = []
    for name, q in log_probs.items():
        here, rank = ids[name].to(q.device), q.ndim - 1
        lead = here.shape[: here.ndim - rank]
        term = q.expand(*lead, *q.shape).gather(-1, here.unsqueeze(-1)).squeeze(-1).double()
        if not alike:
            placed = {p.name: i - rank for i, p in enumerate(sites[name].plates) if p}
            term = term.movedim([placed[n] for n in shared], list(range(-len(shared), 0)))
            term = term.flatten(len(lead), -1 - len(shared)) if rank > len(shared) else term
            term = term.sum(len(lead)) if rank > len(shared) else term
            if outermost:
                order = [shared.index(p.name) - len(shared) for p in outermost[0].plates if p]
                term = term.movedim(order, list(range(-len(shared), 0)))
                term = term.reshape(*lead, *outermost[0].batch_shape)
        terms.append(term)
    return torch.stack(torch.broadcast_tensors(*terms)).sum(0)


def draw_tasks(log_weights: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw task ids from unnormalised log weights, ``(..., K)``, on their device: ``(...)``.

    Args:
        log_weights: at least one of each row above -inf.
        generator: a seeded generator, on any device; torch's own random state without one.
    """
    probs = log_weights.detach().softmax(-1)
    here = probs if generator is None else probs.to(generator.device)
    rows = here.reshape(-1, here.shape[-1])
    if not len(rows):  # which multinomial refuses
        return torch.zeros(probs.shape[:-1], dtype=torch.long, device=probs.device)
    drawn = torch.multinomial(rows, 1, generator=generator)
    return drawn.reshape(probs.shape[:-1]).to(probs.device)
