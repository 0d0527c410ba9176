"""Tensor variable elimination: tasks are summed out of a product of factors, plate by plate.

Obermeyer et al. (2019), Tensor variable elimination for parallel inference in plated factor
graphs, ICML. Plates are axes by name: two of them side by side on one dimension of the model stay
apart.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gbi_pyro.score import Factor
from gbi_pyro.sites import TaskSite, TaskSiteError

Names = frozenset[str]


@dataclass(frozen=True)
class Axes:
    """The axes of every table: one for each task site, then one for each plate; 1 where unused.

    Attributes:
        sites: the task sites, by name.
        plates: the names of all plates that hold one of them.
    """

    sites: Mapping[str, TaskSite]
    plates: tuple[str, ...]

    @classmethod
    def of(cls, sites: Mapping[str, TaskSite]) -> Axes:
        """Return the axes for these task sites."""
        plates = (p.name for site in sites.values() for p in site.plates if p)
        return cls(sites, tuple(dict.fromkeys(plates)))

    def plates_of(self, *sites: str) -> Names:
        """Return the plates that any of some task sites lies in."""
        return frozenset(p.name for name in sites for p in self.sites[name].plates if p)

    @property
    def shared(self) -> Names:
        """The plates that every task site lies in: each of their elements has a log evidence."""
        return frozenset.intersection(*map(self.plates_of, self.sites))

    def tasks_of(self, factor: Factor) -> Names:
        """Return the task sites that a factor may depend on: those whose plates it lies in."""
        return frozenset(n for n in self.sites if self.plates_of(n) <= factor.plates.keys())

    def of_sites(self, names: Iterable[str]) -> tuple[int, ...]:
        """Return the axes of some task sites."""
        order = list(self.sites)
        return tuple(order.index(name) for name in names)

    def of_plates(self, names: Iterable[str]) -> tuple[int, ...]:
        """Return the axes of some plates."""
        return tuple(len(self.sites) + self.plates.index(name) for name in names)

    def spread(self, value: Tensor, dims: Mapping[str, int], keep: Names) -> Tensor:
        """Sum over all plates but some, and give each of those its own axis: ``(lead,) + plates``.

        Args:
            value: its plates at ``dims`` (negative); other dimensions have size 1, but for points
                tried at once, to the left of all.
            dims: of its plates, by name.
            keep: the names of the plates that are kept, each among ``dims``.
        """
        surplus = [d for name, d in dims.items() if name not in keep and -d <= value.ndim]
        value = value.sum(surplus, keepdim=True) if surplus else value
        sizes = {p: value.shape[dims[p]] for p in self.plates if p in keep}
        value = value.movedim([dims[p] for p in sizes], list(range(-len(sizes), 0)))
        lead = value.numel() // max(1, math.prod(sizes.values()))
        return value.reshape(max(1, lead), *(sizes.get(p, 1) for p in self.plates))

    def gathered(self, value: Tensor, site: str) -> Tensor:
        """Return what the axes of a task site and its plates hold: ``batch_shape + (K,)``."""
        declared = self.sites[site]
        order = [p.name for p in declared.plates if p]
        kept = [*self.of_sites([site]), *self.of_plates(order)]
        others = [d for d in range(value.ndim) if d not in kept]
        value = value.permute(*others, *kept[1:], kept[0])
        return value.reshape(declared.log_prior.shape)

    def by_shared_element(self, value: Tensor) -> Tensor:
        """Return a value of each element of the shared plates, whose axes are the last ones.

        It has the batch shape of the outermost task site, if there is one; what lies to the left of
        the axes of all plates, but for axes of size 1, is kept.
        """
        shared, plates = self.shared, len(self.plates)
        outermost = [s for n, s in self.sites.items() if self.plates_of(n) == shared]
        site = (outermost or list(self.sites.values()))[0]
        first = value.ndim - plates
        kept = [first + self.plates.index(p.name) for p in site.plates if p and p.name in shared]
        others = [d for d in range(first, value.ndim) if d not in kept]
        sizes = [value.shape[d] for d in kept]
        shape = site.batch_shape if outermost else torch.Size(sizes)
        value = value.permute((*range(first), *others, *kept))
        return value.reshape(value.shape[:first] + shape)


class Table(NamedTuple):
    """The log of a factor: its values, the tasks that it depends on, and its plates."""

    value: Tensor
    tasks: Names
    plates: Names


class Component(NamedTuple):
    """Tasks of one plate set that are summed out together.

    Attributes:
        tasks: those that are summed out here.
        outer: those it depends on, which lie in fewer plates.
        plates: where it lies.
        joint: the log of the product of its factors.
        total: the same with its tasks summed out.
    """

    tasks: Names
    outer: Names
    plates: Names
    joint: Tensor
    total: Tensor

    @property
    def conditional(self) -> Tensor:
        """Log p(tasks | outer, data); what is impossible whatever its own tasks are stays so."""
        return (self.joint - self.total).nan_to_num(nan=-torch.inf, neginf=-torch.inf)


class Eliminated(NamedTuple):
    """The components, each before the one that it reports to.

    Attributes:
        components: innermost plates first.
        parents: the number of the component that each reports to; None for a root.
    """

    axes: Axes
    components: list[Component]
    parents: list[int | None]

    @property
    def log_evidence(self) -> Tensor:
        """The log of the sum over all tasks, of each element of the shared plates.

        It has the batch shape of the outermost task site, if there is one.
        """
        axes, shared = self.axes, self.axes.shared
        roots = [
            c for c, parent in zip(self.components, self.parents, strict=True) if parent is None
        ]
        total = functools.reduce(
            torch.add, (_summed(c.total, axes.of_plates(c.plates - shared)) for c in roots)
        )
        total = total.reshape(total.shape[len(axes.sites) :])
        return axes.by_shared_element(total)

    def log_marginals(self) -> dict[str, Tensor]:
        """Return log p(z = k | data) of every task site: ``batch_shape + (K,)``."""
        found: dict[str, Tensor] = {}
        joints: dict[int, Tensor] = {}
        for i in reversed(range(len(self.components))):
            component, parent = self.components[i], self.parents[i]
            joint = component.conditional
            if parent is not None:
                joint = joint + self._only(joints[parent], component.outer)
            joints[i] = joint
            for name in component.tasks:
                found[name] = self.axes.gathered(self._only(joint, frozenset([name])), name)
        return {name: found[name] for name in self.axes.sites}

    def _only(self, joint: Tensor, tasks: Names) -> Tensor:
        """Sum out all tasks but some."""
        others = self.axes.of_sites(n for n in self.axes.sites if n not in tasks)
        return joint.logsumexp(others, keepdim=True) if others else joint


def eliminate(tables: Sequence[Table], axes: Axes) -> Eliminated:
    """Sum all tasks out of a product of factors, those of the most plates first.

    Raises:
        TaskSiteError: where tasks of plates that cross meet in one factor: the sum over them does
            not fall apart.
    """
    waiting: list[tuple[Table, int | None]] = [(table, None) for table in tables]
    components: list[Component] = []
    parents: list[int | None] = []
    while waiting:
        leaf = max((table.plates for table, _ in waiting), key=len)
        here = [w for w in waiting if w[0].plates == leaf]
        waiting = [w for w in waiting if w[0].plates != leaf]
        local = frozenset(name for name in axes.sites if axes.plates_of(name) == leaf)
        for group in _connected(here, local):
            tasks = frozenset[str]().union(*(table.tasks for table, _ in group))
            own, outer = tasks & local, tasks - local
            joint = functools.reduce(torch.add, (table.value for table, _ in group))
            total = joint.logsumexp(axes.of_sites(own), keepdim=True) if own else joint
            for _, source in group:
                if source is not None:
                    parents[source] = len(components)
            if outer:
                plates = axes.plates_of(*outer)
                if plates == leaf:
                    raise _crossing(outer, axes)
                message = _summed(total, axes.of_plates(leaf - plates))
                waiting.append((Table(message, outer, plates), len(components)))
            components.append(Component(own, outer, leaf, joint, total))
            parents.append(None)
    return Eliminated(axes, components, parents)


def _summed(value: Tensor, dims: tuple[int, ...]) -> Tensor:
    return value.sum(dims, keepdim=True) if dims else value


def _connected(
    factors: list[tuple[Table, int | None]], local: Names
) -> Iterator[list[tuple[Table, int | None]]]:
    """Split factors into groups that share no task of their own plates."""
    while factors:
        group, tasks = [factors[0]], factors[0][0].tasks & local
        rest = factors[1:]
        while more := [f for f in rest if f[0].tasks & tasks]:
            group += more
            rest = [f for f in rest if not f[0].tasks & tasks]
            tasks = tasks.union(*(f[0].tasks & local for f in more))
        yield group
        factors = rest


def _crossing(tasks: Names, axes: Axes) -> TaskSiteError:
    where = ", ".join(
        f"{name!r} (in {', '.join(map(repr, sorted(axes.plates_of(name)))) or 'no plate'})"
        for name in axes.sites
        if name in tasks
    )
    return TaskSiteError(
        f"task sites {where} meet in one factor, and neither's plates hold the other's, so that "
        "the sum over their tasks does not fall into parts; expected nested plates, or plates side "
        "by side whose tasks share no data. Infer them by OneStepGradient, or one at a time with "
        "the other conditioned"
    )
