"""Exact inference by enumeration: every task is tried, in chunks of bounded memory."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gbi_pyro.logjoint import LogJoint, RelaxedModel
from gbi_pyro.posterior import Objective, TaskPosterior, detached, entropy
from gbi_pyro.relax import Model, points_at
from gbi_pyro.score import sum_to_element
from gbi_pyro.sites import TaskSite, TaskSiteError

MOST_SHIFTS = 8  # runs in which neighbours have other tasks, to check that they do not matter


@dataclass(frozen=True)
class Enumeration:
    r"""Infer the task exactly: q(k) = softmax_k(log p(x, z = k) / temperature).

    Every task is tried for all elements at once, so K forward passes serve any batch. Several
    sites are enumerated jointly, prod K_i passes, and each gets its marginal; their plates must be
    nested (a task per sequence and a task per step, say), and inner sites are summed out per
    element of the outer ones.

    It is exact when elements do not influence each other given their tasks. That is checked by
    samples, K + 1 more runs and nine at most: each element sees every task (eight, if there are
    more) of its neighbours along each plate, and a random one of all others. A network that
    carries past tasks is refused.

    Args:
        chunk_size: how many tasks are tried in one run, as a leading dimension that the model has
            to broadcast over; None tries one after the other, which any model can do. Memory is
            that of the chunk.
        temperature: other values than 1 give the tempered posterior.
        max_joint: the largest prod K_i that is tried.
        check: whether independence, and broadcasting over a chunk, are checked.

    Raises:
        TaskSiteError: more joint tasks than ``max_joint``, plates that are not nested, elements
            that influence each other; and see ``RelaxedModel``.

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

    chunk_size: int | None = None
    temperature: float = 1.0
    max_joint: int = 4096
    check: bool = True

    def __post_init__(self) -> None:
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1 or None, got {self.chunk_size}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if self.max_joint < 2:
            raise ValueError(f"max_joint must be at least 2, got {self.max_joint}")

    def __call__(self, model: Model, *args: Any, **kwargs: Any) -> TaskPosterior:
        """Infer the task sites of ``model`` called with ``args`` and ``kwargs``."""
        run = RelaxedModel(model, args, kwargs)
        first = run.log_joint(lambda site: site.corner(0))
        run.count(forward=1)
        levels = _levels(list(first.sites.values()))
        tables = self._tables(run, first, levels)
        log_joints = _eliminate(tables, levels, self.temperature)
        alone = len(levels) == 1 and levels[0][0].batch_shape.numel() == 1
        if self.check and not (alone and not _loose(first, levels)):
            _check_independent(run, first, levels, tables)
        log_probs, log_evidence = _marginals(log_joints, levels)
        dtype = next(iter(first.sites.values())).log_prior.dtype  # tables are sums in float64
        log_probs = {n: q.log_softmax(-1).to(dtype) for n, q in log_probs.items()}
        log_evidence = log_evidence.to(dtype)
        single = list(log_probs) if len(log_probs) == 1 else []
        return TaskPosterior(
            log_probs,
            detached(first.sites),
            method="enumeration",
            settings={"temperature": self.temperature, "chunk_size": self.chunk_size},
            passes=run.passes,
            num_observations={n: first.num_observations(s) for n, s in first.sites.items()},
            log_evidence=log_evidence if self.temperature == 1 else None,
            log_outside=sum(first.factors[n].total.item() for n in _loose(first, levels)),
            objective=_objective(tables[0], log_probs[single[0]], self.temperature)
            if single
            else None,
        )

    def _tables(
        self, run: RelaxedModel, first: LogJoint, levels: list[list[TaskSite]]
    ) -> list[Tensor]:
        """Score every joint task; one table a level, ``(K_1, .., K_S) + batch_shape``."""
        sites = [site for level in levels for site in level]
        sizes = [site.num_tasks for site in sites]
        if math.prod(sizes) > self.max_joint:
            raise TaskSiteError(
                f"task sites {[s.name for s in sites]} have {math.prod(sizes)} joint tasks, more "
                f"than max_joint = {self.max_joint}: raise the limit (a forward pass each), or use "
                "OneStepGradient, whose cost does not grow with the number of tasks"
            )
        joint_tasks = torch.tensor(list(itertools.product(*map(range, sizes))))
        rows = [_by_level(first, levels, first.nesting)]
        rest = joint_tasks[1:]
        for chunk in rest.split(self.chunk_size or 1):
            corners = {
                s.name: _fold(s, chunk[:, i], first.nesting, keep=self.chunk_size is not None)
                for i, s in enumerate(sites)
            }
            joint = run.log_joint(points_at(corners))
            run.count(forward=len(chunk))
            rows.append(_by_level(joint, levels, first.nesting, lead=len(chunk)))
            if self.check and self.chunk_size is not None and len(rows) == 2:
                for i in {0, len(chunk) - 1}:
                    corner = {
                        s.name: s.corner(int(k)) for s, k in zip(sites, chunk[i], strict=True)
                    }
                    _check_broadcast(run, corner, [r[i : i + 1] for r in rows[1]], levels)
        return [
            torch.cat([row[i] for row in rows]).reshape(*sizes, *level[0].batch_shape)
            for i, level in enumerate(levels)
        ]


def _elements(site: TaskSite) -> frozenset[int]:
    """Return the dimensions (negative) along which a site has separate elements."""
    rank = len(site.batch_shape)
    return frozenset(
        i - rank
        for i, (n, plate) in enumerate(zip(site.batch_shape, site.plates, strict=True))
        if plate or n > 1
    )


def _levels(sites: list[TaskSite]) -> list[list[TaskSite]]:
    """Group sites by their plates, outermost first; each level's plates hold the one before."""
    groups: dict[frozenset[int], list[TaskSite]] = {}
    for site in sites:
        groups.setdefault(_elements(site), []).append(site)
    dims = sorted(groups, key=len)
    for outer, inner in itertools.pairwise(dims):
        if not outer < inner:
            a, b = groups[outer][0], groups[inner][0]
            raise TaskSiteError(
                f"task sites {a.name!r} (over {a.dims}) and {b.name!r} (over {b.dims}) lie in "
                "plates neither of which contains the other; expected nested plates. Infer them "
                "by OneStepGradient, or one at a time with the other conditioned"
            )
    return [groups[d] for d in dims]


def _fold(site: TaskSite, tasks: Tensor, nesting: int, *, keep: bool) -> Tensor:
    """Put corners side by side, left of every plate: ``(c, 1, ..) + batch_shape + (K,)``."""
    if not keep:
        return site.corner(int(tasks[0]))
    ones = (1,) * (nesting - len(site.batch_shape))
    return site.corner(tasks).reshape((len(tasks), *ones, *site.log_prior.shape))


def _by_level(
    joint: LogJoint, levels: list[list[TaskSite]], nesting: int, lead: int = 1
) -> list[Tensor]:
    """Sum each factor into the deepest level it belongs to: ``(lead,) + batch_shape`` a level."""
    tables = []
    for i, level in enumerate(levels):
        deeper = levels[i + 1][0] if i + 1 < len(levels) else None
        terms = [
            f.log_prob.double()
            for f in joint.factors.values()
            if f.belongs(level[0]) and not (deeper and f.belongs(deeper))
        ]
        table = sum_to_element(terms, level[0], nesting)
        tables.append(table.expand((lead, *level[0].batch_shape)))
    return tables


def _axes(levels: list[list[TaskSite]]) -> list[tuple[int, ...]]:
    """Return which leading axes of the tables belong to each level's sites."""
    ends = list(itertools.accumulate(len(level) for level in levels))
    return [tuple(range(end - len(level), end)) for end, level in zip(ends, levels, strict=True)]


def _padded(table: Tensor, num_sites: int, rank: int) -> Tensor:
    lead, batch = table.shape[:num_sites], table.shape[num_sites:]
    return table.reshape(lead + (1,) * (rank - len(batch)) + batch)


def _eliminate(
    tables: list[Tensor], levels: list[list[TaskSite]], temperature: float
) -> list[Tensor]:
    """Sum out inner tasks, innermost level first.

    Returns, for each level, log p(x, z of this level and those outside it) / temperature, with the
    parts outside its own plates left out: ``(K_1, .., K_S) + batch``, inner sites' axes of size 1.
    """
    axes, num_sites = _axes(levels), sum(map(len, levels))
    rank = max(len(level[0].batch_shape) for level in levels)
    out: list[Tensor] = []
    message: Tensor | float = 0.0
    for i in reversed(range(len(levels))):
        table = _padded(tables[i], num_sites, rank) / temperature
        for axis in itertools.chain.from_iterable(axes[i + 1 :]):
            table = table.narrow(axis, 0, 1)  # inner tasks do not touch these factors
        table = table + message
        out.insert(0, table)
        if i:
            summed = table.logsumexp(axes[i], keepdim=True)
            message = _padded(sum_to_element([summed], levels[i - 1][0], rank), num_sites, rank)
    return out


def _marginals(
    log_joints: list[Tensor], levels: list[list[TaskSite]]
) -> tuple[dict[str, Tensor], Tensor]:
    """Return each site's log marginal, ``batch_shape + (K,)``, and the outermost log evidence."""
    axes, log_probs = _axes(levels), {}
    joint: Tensor | float = 0.0
    log_evidence = torch.empty(())
    for i, (level, table) in enumerate(zip(levels, log_joints, strict=True)):
        total = table.logsumexp(axes[i], keepdim=True)
        if i == 0:
            log_evidence = total.reshape(level[0].batch_shape)
            impossible = log_evidence.isneginf()
            if bool(impossible.any()):
                raise TaskSiteError(
                    f"no task of {[s.name for s in level]} can have made the data of element "
                    f"{tuple(impossible.nonzero()[0].tolist())}: every log joint is -inf"
                )
        # A combination of outer tasks that is impossible stays so: -inf - (-inf) is no number.
        joint = joint + (table - total).nan_to_num(nan=-torch.inf, neginf=-torch.inf)
        num_sites = sum(map(len, levels))
        for axis, site in zip(axes[i], level, strict=True):
            others = tuple(a for a in range(num_sites) if a != axis)
            marginal = joint.logsumexp(others) if others else joint
            marginal = marginal.reshape(site.num_tasks, *site.batch_shape).movedim(0, -1)
            log_probs[site.name] = marginal
    return log_probs, log_evidence


def _check_broadcast(
    run: RelaxedModel, corner: dict[str, Tensor], row: list[Tensor], levels: list[list[TaskSite]]
) -> None:
    """Check that tasks of a chunk score in it as they do alone."""
    alone = run.log_joint(points_at(corner))
    run.count(check=1)
    single, error = _by_level(alone, levels, alone.nesting), _rounding(alone, levels)
    if not all(map(_close, row, single, error)):
        raise TaskSiteError(
            f"the model does not broadcast over tasks {list(corner)} tried at once, as "
            "chunk_size asks: it sums or indexes over a leading dimension. Keep '...' in front of "
            "each operation (z @ means, dim=-1), or leave out chunk_size"
        )


def _check_independent(
    run: RelaxedModel, first: LogJoint, levels: list[list[TaskSite]], tables: list[Tensor]
) -> None:
    """Check by samples that the likelihood of an element depends on its own tasks alone.

    The tables come from runs in which all elements have the same tasks. In further runs the task
    changes from each element to the next along every plate, so that each element sees every task
    of its neighbours (``MOST_SHIFTS`` of them, if there are more); in a last one it is random.
    """
    sites = [site for level in levels for site in level]
    own = torch.Generator().manual_seed(0)
    assignments = [
        {s.name: s.shifted_tasks(shift) for s in sites}
        for shift in range(min(MOST_SHIFTS, max(s.num_tasks for s in sites)))
    ]
    assignments.append({s.name: _mixed_tasks(s, own) for s in sites})
    for tasks in assignments:
        _check_assignment(run, first, levels, tables, tasks)


def _check_assignment(
    run: RelaxedModel,
    first: LogJoint,
    levels: list[list[TaskSite]],
    tables: list[Tensor],
    tasks: dict[str, Tensor],
) -> None:
    """Check that the tables add up where each element has a task of its own."""
    sites = [site for level in levels for site in level]
    tasks = {s.name: tasks[s.name].to(s.log_prior.device) for s in sites}
    one_hot = torch.nn.functional.one_hot
    points = {s.name: one_hot(tasks[s.name], s.num_tasks).to(s.log_prior.dtype) for s in sites}
    mixed = run.log_joint(points_at(points))
    run.count(check=1)
    scored, errors = _by_level(mixed, levels, first.nesting), _rounding(mixed, levels)
    agree, seen = True, 0
    for level, table, row, error in zip(levels, tables, scored, errors, strict=True):
        seen += len(level)
        shape = level[0].batch_shape
        index = torch.zeros(shape, dtype=torch.long, device=row.device)
        for i, site in enumerate(sites):
            ids = tasks[site.name].expand(shape) if i < seen else torch.zeros_like(index)
            index = index * site.num_tasks + ids
        expected = table.reshape(-1, *shape).gather(0, index.unsqueeze(0))
        agree = agree and _close(row, expected, error)
    for name in _loose(first, levels):
        here, there = mixed.factors[name].log_prob, first.factors[name].log_prob
        agree = agree and _close(here, there, mixed.factors[name].rounding)
    if not agree:
        raise TaskSiteError(
            f"the elements of task sites {[s.name for s in sites]} influence each other (the "
            "likelihood of one element depends on the task of another), so enumerating each "
            "element is not exact; expected a likelihood that factorises over the plates. A "
            "network that carries past tasks: wrap it, stepwise(model, *args), for the evidence of "
            "each step given the past"
        )


def _loose(joint: LogJoint, levels: list[list[TaskSite]]) -> list[str]:
    """Name the factors that belong to no element of any task."""
    return [n for n, f in joint.factors.items() if not any(f.belongs(x[0]) for x in levels)]


def _mixed_tasks(site: TaskSite, generator: torch.Generator) -> Tensor:
    """Draw tasks that are not all 0 and change along every dimension, few as they may be."""
    while True:
        tasks = torch.randint(site.num_tasks, site.batch_shape, generator=generator)
        long = [d for d, n in enumerate(tasks.shape) if n > 1]
        if bool(tasks.any()) and all(bool((tasks.diff(dim=d) != 0).any()) for d in long):
            return tasks


def _rounding(joint: LogJoint, levels: list[list[TaskSite]]) -> list[Tensor]:
    """Return what rounding may do to the sums of each level."""
    factors = {n: replace(f, log_prob=f.rounding) for n, f in joint.factors.items()}
    return _by_level(replace(joint, factors=factors), levels, joint.nesting)


def _close(a: Tensor, b: Tensor, rounding: Tensor) -> bool:
    return bool(((a == b) | ((a - b).abs() <= rounding)).all())


def _objective(table: Tensor, log_probs: Tensor, temperature: float) -> Objective:
    table = table.movedim(0, -1).to(log_probs.dtype)
    q = log_probs.exp()
    expected = torch.where(q > 0, q * table, 0.0).sum(-1)
    return Objective(expected, entropy(log_probs), temperature)
