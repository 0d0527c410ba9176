"""The M-step objective: the log joint under every task, or of the network at a mixture."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gbi_pyro.purity import ONE_MODEL
from gbi_pyro.relax import Model, Point, RelaxMessenger, points_at
from gbi_pyro.score import (
    Factor,
    ScoreMessenger,
    by_element,
    num_observations,
    sum_terms,
)
from gbi_pyro.sites import TaskSite, TaskSiteError, no_task_sites


class TaskTable(NamedTuple):
    """The log joint of each element under each task, differentiable in the weights.

    Attributes:
        likelihood: log p(x | z = k), ``(K,) + batch_shape``.
        prior: the model's own log pi_k, likewise.
        rest: what belongs to no element of the task, a scalar.
        num_observations: observed values.
        forward: passes used.
    """

    likelihood: Tensor
    prior: Tensor
    rest: Tensor
    num_observations: float
    forward: int

    def expected(self, q: Tensor, *, prior: bool) -> Tensor:
        """Return E_q log p(x, z), a scalar; the model's own prior is left out if ``prior`` is not.

        Args:
            q: ``batch_shape + (K,)``.
            prior: whether the model's own prior counts.
        """
        table = self.likelihood + self.prior if prior else self.likelihood
        q = q.movedim(-1, 0)
        return torch.where(q > 0, q * table, 0.0).sum() + self.rest


def task_table(model: Model, args: tuple[Any, ...], chunk_size: int | None = None) -> TaskTable:
    """Run a model under each of its tasks, gradients kept: K passes, or fewer by folding.

    Exact when elements do not influence each other given their tasks; see ``Enumeration``.

    Args:
        model: a Pyro model with one task site.
        args: what it takes.
        chunk_size: how many tasks are tried in one pass, as a leading dimension that the model has
            to broadcast over; None tries one after the other.

    Raises:
        TaskSiteError: for several task sites, or none.
    """
    first, site = _scored(model, args, lambda s: s.corner(0))
    nesting = max(f.log_prob.ndim for f in first.values())
    ones = (1,) * (nesting - len(site.batch_shape))
    rows = [by_element(first, site, nesting, 1)]
    chunks = torch.arange(1, site.num_tasks).split(chunk_size or 1)
    for tasks in chunks:
        if chunk_size is None:
            corners = site.corner(int(tasks[0]))
        else:
            corners = site.corner(tasks).reshape(len(tasks), *ones, *site.log_prior.shape)
        factors, _ = _scored(model, args, points_at({site.name: corners}))
        rows.append(by_element(factors, site, nesting, len(tasks)))
    likelihood, prior = (torch.cat(parts) for parts in zip(*rows, strict=True))
    rest = sum_terms(f for f in first.values() if not f.belongs(site))
    return TaskTable(likelihood, prior, rest, num_observations(first.values()), 1 + len(chunks))


def mixture_log_joint(
    model: Model, args: tuple[Any, ...], q: Tensor, *, prior: bool
) -> tuple[Tensor, float]:
    """Return log p(x, Z = q), the mixture into the network, and the number of observed values.

    Args:
        model: a Pyro model with one task site.
        args: what it takes.
        q: ``batch_shape + (K,)``.
        prior: whether the model's own prior counts.
    """
    factors, site = _scored(model, args, lambda _: q)
    kept = [f for name, f in factors.items() if prior or name != site.name]
    return sum_terms(kept), num_observations(factors.values())


def _scored(
    model: Model, args: tuple[Any, ...], point: Point
) -> tuple[dict[str, Factor], TaskSite]:
    # Not `pure`: this is training, in which noise moves on and batch statistics are kept.
    with ONE_MODEL, ScoreMessenger() as score, RelaxMessenger(point, inferred=True) as relax:
        model(*args)
    if not relax.sites:
        raise no_task_sites()
    if len(relax.sites) > 1:
        raise several_sites(list(relax.sites))
    return score.factors, next(iter(relax.sites.values()))


def several_sites(names: list[str]) -> TaskSiteError:
    """Return the error for a model with more than one task to learn."""
    return TaskSiteError(
        f"the model has {len(names)} task sites, {names}; expected one, which EM learns: give the "
        "others as data, or make their combinations the tasks of one site"
    )
