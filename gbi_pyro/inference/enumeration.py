"""Exact inference by enumeration: every task is tried, in chunks of bounded memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from gbi_pyro.inference._elimination import Axes, eliminate
from gbi_pyro.inference._independence import check_broadcast, check_independent
from gbi_pyro.inference._options import check_numbers
from gbi_pyro.inference._task_tables import Group, Row, depend, score, stack
from gbi_pyro.inference.enumerated_joint import EnumeratedJoint
from gbi_pyro.logjoint import LogJoint, RelaxedModel
from gbi_pyro.posterior import Objective, TaskPosterior, detached, entropy
from gbi_pyro.relax import Model, Point
from gbi_pyro.sites import TaskSite, TaskSiteError

CHUNK_ELEMENTS, CHUNK_NUMBERS = 2**13, 2**22
"""What a chunk that is chosen may hold: elements of the largest site, numbers of one tensor."""


@dataclass(frozen=True)
class Enumeration:
    r"""Infer the task exactly: q(k) = softmax_k(log p(x, z = k) / temperature).

    Every task is tried for all elements at once, so K forward passes serve any batch. Several
    sites are enumerated jointly, prod K_i passes, and each gets its marginal; inner sites are
    summed out per element of the outer ones (a task per step within a task per sequence, say), and
    plates side by side each on its own.

    It is exact when elements do not influence each other given their tasks. That is checked by
    samples, K + 1 more runs and nine at most: each element sees every task (eight, if there are
    more) of its neighbours along each plate, and a random one of all others. A network that
    carries past tasks is refused.

    Args:
        chunk_size: how many tasks are tried in one run, as a leading dimension that the model has
            to broadcast over; None tries one after the other, which any model can do. ``"auto"``
            chooses: as many as make 8192 log probabilities of the largest site, and 2^22 numbers
            in the tasks or the data of a site, or all. Memory is that of the chunk. Two of its
            tasks are tried alone as well; where the model fails on a chunk, or scores them
            otherwise, it goes on one by one (all of that are passes of ``check``).
        temperature: other values than 1 give the tempered posterior.
        max_joint: the largest prod K_i that is tried.
        check: whether independence, and broadcasting over a chunk of a given size, are checked.

    Raises:
        TaskSiteError: more joint tasks than ``max_joint``, tasks of crossing plates that meet in
            one factor, elements that influence each other; and see ``RelaxedModel``.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("sequence", len(x)):
    ...         prior = dist.OneHotCategorical(torch.tensor([0.5, 0.5]))
    ...         z = pyro.sample("z", prior, infer={"task": True})
    ...         pyro.sample("x", dist.Normal(z @ torch.tensor([0.2, 0.8]), 0.1), obs=x)
    >>> posterior = Enumeration()(model, torch.tensor([0.52, 0.2]))
    >>> posterior.probs().round(decimals=2), posterior.log_evidence.round(decimals=2)
    (tensor([[0.2300, 0.7700],
            [1.0000, 0.0000]]), tensor([-2.9700,  0.6900]))
    """

    chunk_size: int | Literal["auto"] | None = "auto"
    temperature: float = 1.0
    max_joint: int = 4096
    check: bool = True

    def __post_init__(self) -> None:
        chosen = self.chunk_size is None or self.chunk_size == "auto"
        whole = ("max_joint",) if chosen else ("chunk_size", "max_joint")
        check_numbers(self, "temperature", integers=whole)
        if isinstance(self.chunk_size, int) and self.chunk_size < 1:
            raise ValueError(
                f"chunk_size must be at least 1, None or 'auto', got {self.chunk_size}"
            )
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if self.max_joint < 2:
            raise ValueError(f"max_joint must be at least 2, got {self.max_joint}")

    def __call__(self, model: Model, *args: Any, **kwargs: Any) -> TaskPosterior:
        """Infer the task sites of ``model`` called with ``args`` and ``kwargs``."""
        run = RelaxedModel(model, args, kwargs)
        first = run.log_joint(lambda site: site.corner(0))
        run.count(forward=1)
        axes = Axes.of(first.sites)
        full = self._tables(run, first, axes)
        tables = depend(full, axes)
        tempered = [t._replace(value=t.value / self.temperature) for t in tables]
        eliminated = eliminate(tempered, axes)
        log_evidence = eliminated.log_evidence
        outside = [f for f in first.factors.values() if not axes.tasks_of(f)]
        alone = len({*map(axes.plates_of, axes.sites)}) == 1 and log_evidence.numel() == 1
        if self.check and (outside or not alone):
            check_independent(run, first, axes, full)
        _check_possible(log_evidence, axes)
        dtype = next(iter(axes.sites.values())).log_prior.dtype  # tables are sums in float64
        log_probs = {n: q.log_softmax(-1).to(dtype) for n, q in eliminated.log_marginals().items()}
        objective = None
        if len(log_probs) == 1:
            ((name, q),) = log_probs.items()
            objective = _objective(axes.gathered(tables[0].value, name), q, self.temperature)
        return TaskPosterior(
            log_probs,
            detached(first.sites),
            method="enumeration",
            settings={"temperature": self.temperature, "chunk_size": self.chunk_size},
            passes=run.passes,
            num_observations={n: first.num_observations(s) for n, s in first.sites.items()},
            log_evidence=log_evidence.to(dtype) if self.temperature == 1 else None,
            log_outside=sum(f.total.item() for f in outside),
            objective=objective,
            joint=EnumeratedJoint.of(eliminated) if len(axes.sites) > 1 else None,
        )

    def _tables(self, run: RelaxedModel, first: LogJoint, axes: Axes) -> dict[Group, Tensor]:
        """Score every combination of tasks."""
        sites = axes.sites
        sizes = [site.num_tasks for site in sites.values()]
        if math.prod(sizes) > self.max_joint:
            raise _too_many(list(sites), math.prod(sizes), self.max_joint)
        rows = [(1, score(first, axes))]
        rest = torch.tensor(list(itertools.product(*map(range, sizes))))[1:]
        size = self.chunk_size
        if size == "auto":
            size = _chosen_size(first, len(rest))
            if size and (row := _tried(run, first, axes, rest[:size])) is not None:
                rows.append((size, row))
                rest = rest[size:]
            else:
                size = None
        for chunk in rest.split(size or 1) if len(rest) else ():
            row = _run_chunk(run, first, axes, chunk, fold=size is not None)
            run.count(forward=len(chunk))
            rows.append((len(chunk), row))
            if self.check and isinstance(self.chunk_size, int) and len(rows) == 2:
                _check_ends(run, axes, chunk, row)
        return stack(rows, axes)


def _chosen_size(first: LogJoint, tasks: int) -> int | None:
    """Return how many of the tasks that are left are tried at once; None for one by one."""
    elements = max(f.log_prob.numel() for f in first.factors.values())
    values = [f.value.numel() for f in first.factors.values() if f.value is not None]
    numbers = max(*values, *(site.log_prior.numel() for site in first.sites.values()))
    most = max(1, min(CHUNK_ELEMENTS // elements, CHUNK_NUMBERS // numbers))
    runs = math.ceil(tasks / most)
    # Two more runs see whether it broadcasts: with few tasks they would cost more than they save.
    return math.ceil(tasks / runs) if runs + 2 < tasks else None


def _tried(run: RelaxedModel, first: LogJoint, axes: Axes, chunk: Tensor) -> Row | None:
    """Score a chunk of tasks, if the model runs on it and its ends score as they do alone."""
    try:
        row = _run_chunk(run, first, axes, chunk, fold=True)
        _check_ends(run, axes, chunk, row)
    except Exception:  # whatever a model raises that is not written for a leading dimension
        run.count(check=1)
        return None
    run.count(forward=len(chunk))
    return row


def _run_chunk(run: RelaxedModel, first: LogJoint, axes: Axes, chunk: Tensor, *, fold: bool) -> Row:
    """Score a chunk of combinations of tasks, ``(c, sites)``."""
    corners = {
        n: _fold(s, chunk[:, i], first.nesting, keep=fold)
        for i, (n, s) in enumerate(axes.sites.items())
    }
    joint = run.log_joint(_points_of_all(corners))
    if joint.sites.keys() != axes.sites.keys():
        raise _other_sites(list(axes.sites), list(joint.sites))
    return score(joint, axes)


def _check_ends(run: RelaxedModel, axes: Axes, chunk: Tensor, row: Row) -> None:
    for i in {0, len(chunk) - 1}:
        corner = {
            n: s.corner(int(k)) for (n, s), k in zip(axes.sites.items(), chunk[i], strict=True)
        }
        here = {g: v[i : i + 1] if len(v) > 1 else v for g, v in row.items()}
        check_broadcast(run, corner, here, axes)


def _fold(site: TaskSite, tasks: Tensor, nesting: int, *, keep: bool) -> Tensor:
    """Put corners side by side, left of every plate: ``(c, 1, ..) + batch_shape + (K,)``."""
    if not keep:
        return site.corner(int(tasks[0]))
    ones = (1,) * (nesting - len(site.batch_shape))
    return site.corner(tasks).reshape((len(tasks), *ones, *site.log_prior.shape))


def _points_of_all(corners: Mapping[str, Tensor]) -> Point:
    def point(site: TaskSite) -> Tensor:
        if site.name not in corners:
            raise _other_sites(list(corners), [*corners, site.name])
        return corners[site.name]

    return point


def _other_sites(names: list[str], others: list[str]) -> TaskSiteError:
    return TaskSiteError(
        f"the model has task sites {names} under the first tasks and {others} under others; "
        "expected the same under all of them: sample each of them always, and let a task choose "
        "which of the others the likelihood takes"
    )


def _too_many(names: list[str], number: int, limit: int) -> TaskSiteError:
    cure = "raise the limit (a forward pass each)"
    if len(names) > 2:
        cure = (
            "if they are the elements of a plate, sample them together, with pyro.plate(...) in "
            "place of a loop, so that one pass serves all; else " + cure
        )
    shown = ", ".join(map(repr, names[:3])) + (f", ... ({len(names)} sites)" if names[3:] else "")
    return TaskSiteError(
        f"task sites {shown} have {number} joint tasks, more than max_joint = {limit}: {cure}, or "
        "use OneStepGradient, whose cost does not grow with the number of tasks"
    )


def _check_possible(log_evidence: Tensor, axes: Axes) -> None:
    impossible = log_evidence.isneginf()
    if bool(impossible.any()):
        raise TaskSiteError(
            f"no task of {list(axes.sites)} can have made the data of element "
            f"{tuple(impossible.nonzero()[0].tolist())}: every log joint is -inf"
        )


def _objective(table: Tensor, log_probs: Tensor, temperature: float) -> Objective:
    table = table.to(log_probs.dtype)
    q = log_probs.exp()
    expected = torch.where(q > 0, q * table, 0.0).sum(-1)
    return Objective(expected, entropy(log_probs), temperature)
