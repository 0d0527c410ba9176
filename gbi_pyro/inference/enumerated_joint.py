"""The joint posterior over the tasks of all sites, where they were enumerated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gbi_pyro.inference._elimination import Axes, Eliminated
from gbi_pyro.joint import draw_tasks, tasks_given


@dataclass(frozen=True)
class Conditional:
    """Log p(tasks of one plate set | outer tasks, data).

    Attributes:
        tasks: the names of their sites.
        outer: of those they depend on.
        log_probs: with an axis for each task site and each plate, 1 where unused.
    """

    tasks: tuple[str, ...]
    outer: tuple[str, ...]
    log_probs: Tensor


@dataclass(frozen=True)
class EnumeratedJoint:
    """The joint posterior of several task sites: p(z) = prod p(tasks of a plate set | outer ones).

    Tasks of an outer plate come first; given them the elements of an inner plate are independent.

    Attributes:
        axes: of the tables.
        conditionals: those of the fewest plates first.
    """

    axes: Axes = field(repr=False)
    conditionals: tuple[Conditional, ...] = field(repr=False)

    @classmethod
    def of(cls, eliminated: Eliminated) -> EnumeratedJoint:
        """Return the joint posterior that variable elimination leaves."""
        order = list(eliminated.axes.sites)
        parts = [
            Conditional(
                tuple(sorted(c.tasks, key=order.index)),
                tuple(sorted(c.outer, key=order.index)),
                c.conditional.detach(),
            )
            for c in reversed(eliminated.components)
            if c.tasks
        ]
        return cls(eliminated.axes, tuple(parts))

    def sample(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw task ids together, ``(n,) + batch_shape`` for each site."""
        drawn: dict[str, Tensor] = {}
        for part in self.conditionals:
            table = self._given(part, drawn)
            if len(table) == 1:
                table = table.expand(n, *table.shape[1:])
            table = self._own_last(table, part.tasks)
            sizes = [self.axes.sites[name].num_tasks for name in part.tasks]
            ids = torch.unravel_index(draw_tasks(table, generator), sizes)
            drawn |= dict(zip(part.tasks, ids, strict=True))
        return {
            name: drawn[name].permute(0, *self._plates(name, first=1)).reshape(n, *s.batch_shape)
            for name, s in self.axes.sites.items()
        }

    @property
    def sites(self) -> tuple[str, ...]:
        """Its sites, those of outer plates first."""
        return tuple(name for part in self.conditionals for name in part.tasks)

    def log_prob(self, ids: Mapping[str, Tensor]) -> Tensor:
        """Return log p(all tasks | data) of each shared element, ``lead`` + their shape.

        Args:
            ids: of every site, ``lead + batch_shape``.
        """
        name, first = next(iter(self.axes.sites.items()))
        lead = ids[name].shape[: ids[name].ndim - len(first.batch_shape)]
        given = {name: self._spread(name, ids[name]) for name in self.axes.sites}
        inner = [1 + i for i, p in enumerate(self.axes.plates) if p not in self.axes.shared]
        total = torch.zeros((), dtype=torch.float64, device=first.log_prior.device)
        for part in self.conditionals:
            everything = (*part.outer, *part.tasks)
            chosen = self._given(Conditional((), everything, part.log_probs), given).double()
            chosen = chosen.flatten(0, len(self.axes.sites))
            total = total + (chosen.sum(inner, keepdim=True) if inner else chosen)
        found = self.axes.by_shared_element(total)
        return found.expand(lead.numel(), *found.shape[1:]).reshape(*lead, *found.shape[1:])

    def conditional(self, site: str, given: Mapping[str, Tensor]) -> Any:
        """Return the distribution of a site's tasks, one-hot, given those of the sites before it.

        Args:
            site: its name.
            given: ids of the sites before it, each broadcasting from the right against
                ``lead`` + the batch shape of the site.
        """
        (part,) = (part for part in self.conditionals if site in part.tasks)
        at = part.tasks.index(site)
        later = self.axes.of_sites(part.tasks[at + 1 :])
        table = part.log_probs.logsumexp(later, keepdim=True) if later else part.log_probs
        before = (*part.outer, *part.tasks[:at])
        own = self.axes.sites[site]
        rank = len(own.batch_shape)
        ids = {n: given[n].reshape((1,) * (rank - given[n].ndim) + given[n].shape) for n in before}
        lead = torch.broadcast_shapes(*(k.shape[: k.ndim - rank] for k in ids.values()), ())
        spread = {}
        for name in before:
            shape = self.axes.sites[name].batch_shape
            k = ids[name].expand(*lead, *ids[name].shape[ids[name].ndim - rank :])
            # An outer site may have fewer dimensions than this one: those between are of size 1.
            k = k.reshape(*lead, *k.shape[k.ndim - len(shape) :])
            spread[name] = self._spread(name, k.expand(*lead, *shape))
        rows = self._own_last(self._given(Conditional((), before, table), spread), (site,))
        rows = rows.permute(0, *self._plates(site, first=1), rows.ndim - 1)
        rows = rows.expand(lead.numel(), *rows.shape[1:])
        return tasks_given(rows.reshape(*lead, *own.batch_shape, own.num_tasks))

    def _given(self, part: Conditional, ids: Mapping[str, Tensor]) -> Tensor:
        """Return the table at ids of its outer tasks, ``(n or 1,) + axes``."""
        if not part.outer:
            return part.log_probs.unsqueeze(0)
        outer = self.axes.of_sites(part.outer)
        rest = [d for d in range(part.log_probs.ndim) if d not in outer]
        table = part.log_probs.permute(*rest, *outer).flatten(len(rest))
        for axis in sorted(outer):
            table = table.unsqueeze(axis)
        # One index for all outer tasks: expanding the table along its own axes would not fit.
        at = torch.zeros((), dtype=torch.long, device=table.device)
        for name, axis in zip(part.outer, outer, strict=True):
            at = at * part.log_probs.shape[axis] + ids[name]
        at = at.reshape(len(at), *[1] * len(self.axes.sites), *at.shape[1:], 1)
        shape = torch.broadcast_shapes(table.shape[:-1], at.shape[:-1])
        chosen = table.expand(*shape, table.shape[-1]).gather(-1, at.expand(*shape, 1))
        return chosen.squeeze(-1)

    def _own_last(self, table: Tensor, tasks: tuple[str, ...]) -> Tensor:
        """Return a table with its own tasks as one last axis: ``(n,) + plates + (prod K,)``."""
        own = [a + 1 for a in self.axes.of_sites(tasks)]
        others = [d for d in range(1, len(self.axes.sites) + 1) if d not in own]
        plates = list(range(len(self.axes.sites) + 1, table.ndim))
        table = table.permute(0, *others, *plates, *own)
        kept = [table.shape[0], *table.shape[1 + len(others) : 1 + len(others) + len(plates)]]
        return table.reshape(*kept, -1)

    def _plates(self, name: str, first: int) -> list[int]:
        """Return where the plates of a site are among all, in the site's order, then the others."""
        own = [self.axes.plates.index(p.name) for p in self.axes.sites[name].plates if p]
        others = [i for i in range(len(self.axes.plates)) if i not in own]
        return [first + i for i in (*own, *others)]

    def _spread(self, name: str, ids: Tensor) -> Tensor:
        """Return ids of a site with an axis for every plate: ``(lead,) + plates``."""
        site = self.axes.sites[name]
        own = [self.axes.plates.index(p.name) for p in site.plates if p]
        sizes = [p.size for p in site.plates if p]
        flat = ids.reshape(-1, *sizes)
        order = sorted(range(len(own)), key=own.__getitem__)
        flat = flat.permute(0, *(1 + i for i in order))
        shape = [1] * len(self.axes.plates)
        for i in order:
            shape[own[i]] = sizes[i]
        return flat.reshape(-1, *shape)
