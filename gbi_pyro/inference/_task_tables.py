"""The log joint of every combination of tasks, factor by factor, with plates as named axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from gbi_pyro.inference._elimination import Axes, Names, Table
from gbi_pyro.logjoint import LogJoint


class Group(NamedTuple):
    """Factors that are added up: all of one task alone, any other by itself.

    Attributes:
        tasks: the task sites that they may depend on, those whose plates they lie in.
        factor: the name of the only factor, where there may be several tasks.
    """

    tasks: Names
    factor: str = ""


Row = dict[Group, Tensor]


def score(joint: LogJoint, axes: Axes, *, rounding: bool = False) -> Row:
    """Sum the factors of a run, in float64, over the plates that hold none of their tasks.

    Args:
        joint: the run.
        axes: of the tables.
        rounding: sum what rounding may do to each factor in place of the factor.

    Returns:
        ``(lead,) + plates`` for each group, lead being the points tried at once.
    """
    row: Row = {}
    for name, factor in joint.factors.items():
        tasks = axes.tasks_of(factor)
        if tasks:
            group = Group(tasks, name if len(tasks) > 1 else "")
            value = factor.rounding if rounding else factor.log_prob
            value = axes.spread(value.double(), factor.plates, axes.plates_of(*tasks))
            row[group] = row[group] + value if group in row else value
    return row


def stack(rows: list[tuple[int, Row]], axes: Axes) -> dict[Group, Tensor]:
    """Put the rows of all combinations side by side: the tasks' axes, then the plates'.

    Args:
        rows: how many combinations each row holds, in the order of ``itertools.product``; a factor
            that a run does not have is 1 there.
        axes: of the tables.
    """
    sizes = [site.num_tasks for site in axes.sites.values()]
    found = {}
    for group in dict.fromkeys(group for _, row in rows for group in row):
        here = [row[group] for _, row in rows if group in row]
        plates = torch.broadcast_shapes(*(value.shape[1:] for value in here))
        absent = here[0].new_zeros((1, *plates))
        parts = [row.get(group, absent).expand(lead, *plates) for lead, row in rows]
        found[group] = torch.cat(parts).reshape(*sizes, *plates)
    return found


def depend(tables: Mapping[Group, Tensor], axes: Axes) -> list[Table]:
    """Return the tables with the tasks that they do depend on; each prior keeps its own."""
    found = []
    for group, value in tables.items():
        tasks = set(group.tasks)
        for name, dim in zip(axes.sites, axes.of_sites(axes.sites), strict=True):
            first = value.narrow(dim, 0, 1)
            if name not in tasks:
                value = first
            elif len(tasks) > 1 and name != group.factor and bool((value == first).all()):
                value = first
                tasks.remove(name)
        found.append(Table(value, frozenset(tasks), axes.plates_of(*group.tasks)))
    return found


def at_tasks(tables: Mapping[Group, Tensor], axes: Axes, tasks: Mapping[str, Tensor]) -> Row:
    """Read the tables where each element has a task of its own: ``(1,) + plates`` for each group.

    Args:
        tables: of all combinations.
        axes: of the tables.
        tasks: ids for each task site, ``batch_shape``.
    """
    found, num_sites = {}, len(axes.sites)
    for group, value in tables.items():
        plates = value.shape[num_sites:]
        index = torch.zeros((1, *plates), dtype=torch.long, device=value.device)
        for name, site in axes.sites.items():
            index = index * site.num_tasks
            if name in group.tasks:
                dims = {p.name: i - len(site.plates) for i, p in enumerate(site.plates) if p}
                ids = tasks[name].to(value.device)
                index = index + axes.spread(ids, dims, axes.plates_of(name))
        found[group] = value.reshape(-1, *plates).gather(0, index)
    return found


def close(a: Row, b: Row, rounding: Row) -> bool:
    """Whether two rows agree within what rounding may do to them."""
    return a.keys() == b.keys() and all(
        bool(((x == b[group]) | ((x - b[group]).abs() <= rounding[group])).all())
        for group, x in a.items()
    )
