"""Checks by samples that a model can be enumerated: elements keep to themselves, and broadcast."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gbi_pyro.inference._elimination import Axes
from gbi_pyro.inference._task_tables import Group, Row, at_tasks, close, score
from gbi_pyro.logjoint import LogJoint, RelaxedModel
from gbi_pyro.relax import points_at
from gbi_pyro.score import Factor
from gbi_pyro.sites import TaskSite, TaskSiteError

MOST_SHIFTS = 8  # runs in which neighbours have other tasks, to check that they do not matter


def check_broadcast(run: RelaxedModel, corner: dict[str, Tensor], row: Row, axes: Axes) -> None:
    """Check that one combination of tasks scores in a chunk as it does alone.

    Args:
        run: the model.
        corner: the combination.
        row: what it scored in the chunk.
        axes: of the tables.

    Raises:
        TaskSiteError: where it does not.
    """
    alone = run.log_joint(points_at(corner))
    run.count(check=1)
    if not close(row, score(alone, axes), score(alone, axes, rounding=True)):
        raise TaskSiteError(
            f"the model does not broadcast over tasks {list(corner)} tried at once, as "
            "chunk_size asks: it sums or indexes over a leading dimension. Keep '...' in front of "
            "each operation (z @ means, dim=-1), or leave out chunk_size"
        )


def check_independent(
    run: RelaxedModel, first: LogJoint, axes: Axes, tables: Mapping[Group, Tensor]
) -> None:
    """Check by samples that the likelihood of an element depends on its own tasks alone.

    The tables come from runs in which all elements have the same tasks. In further runs the task
    changes from each element to the next along every plate, so that each element sees every task
    of its neighbours (``MOST_SHIFTS`` of them, if there are more); in a last one it is random.

    Raises:
        TaskSiteError: where elements influence each other.
    """
    own = torch.Generator().manual_seed(0)
    sites = axes.sites
    shifts = range(min(MOST_SHIFTS, max(s.num_tasks for s in sites.values())))
    assignments = [{n: s.shifted_tasks(shift) for n, s in sites.items()} for shift in shifts]
    assignments.append({n: _mixed_tasks(s, own) for n, s in sites.items()})
    for tasks in assignments:
        points = {n: site.corner(0) for n, site in sites.items()}
        for n, site in sites.items():
            one_hot = torch.nn.functional.one_hot(tasks[n], site.num_tasks)
            points[n] = one_hot.to(site.log_prior)
        mixed = run.log_joint(points_at(points))
        run.count(check=1)
        agree = close(
            score(mixed, axes), at_tasks(tables, axes, tasks), score(mixed, axes, rounding=True)
        )
        if not (agree and _same_outside(mixed, first, axes)):
            raise TaskSiteError(
                f"the elements of task sites {list(sites)} influence each other (the likelihood "
                "of one element depends on the task of another, or of a plate that it does not lie "
                "in), so enumerating each element is not exact; expected a likelihood that "
                "factorises over the plates. A network that carries past tasks: wrap it, "
                "stepwise(model, *args), for the evidence of each step given the past"
            )


def _same_outside(mixed: LogJoint, first: LogJoint, axes: Axes) -> bool:
    """Whether what lies in no plate of a task is the same under all tasks."""
    here = {n: f for n, f in mixed.factors.items() if not axes.tasks_of(f)}
    return all(n in first.factors and _same(f, first.factors[n]) for n, f in here.items())


def _same(factor: Factor, other: Factor) -> bool:
    a, b = factor.log_prob, other.log_prob
    return bool(((a == b) | ((a - b).abs() <= factor.rounding)).all())  # -inf equals -inf


def _mixed_tasks(site: TaskSite, generator: torch.Generator) -> Tensor:
    """Draw tasks that are not all 0 and change along every dimension, few as they may be."""
    while True:
        tasks = torch.randint(site.num_tasks, site.batch_shape, generator=generator)
        long = [d for d, n in enumerate(tasks.shape) if n > 1]
        if bool(tasks.any()) and all(bool((tasks.diff(dim=d) != 0).any()) for d in long):
            return tasks
