"""A marginal at draws of its latent sites: its likelihood, average tasks, paths drawn jointly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from gbi_pyro.export._handlers import (
    AtDraws,
    Drawn,
    Draws,
    by_chain,
    dims_of,
    is_data,
    log_mean_exp,
    refuse_outside,
    subsamples,
)
from gbi_pyro.export.posterior_predictive import posterior_predictive
from gbi_pyro.inference.chain_posterior import ChainPosterior
from gbi_pyro.inference.marginal import Marginal
from gbi_pyro.joint import draw_tasks
from gbi_pyro.logjoint import Passes
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.purity import pure
from gbi_pyro.relax import Model


class MarginalDraws(NamedTuple):
    """The exact posterior over the tasks of a marginal, draw by draw; C chains of S draws.

    Attributes:
        values: the draws themselves, ``(C, S) + shape`` by site.
        average: p(z | x) = 1 / (C S) sum_s p(z | x, draw s), smoothed along a chain. It is
            meaningful if tasks keep their ids from draw to draw.
        log_likelihood: log p(x_n | draw) of each sequence of a chain, tasks summed out, else of
            each element: ``(C, S)`` + their shape.
        by_step: log p(x_t | x_1..t-1, draw), ``(C, S) + batch_shape``, NaN beyond the end of a
            sequence; None without a chain, or where it was not asked for.
        tasks: task ids, ``(C, D) + batch_shape``, drawn jointly given each of some draws.
        predictions: data drawn at the same draws, ``(C, D) + shape`` by site, under tasks of the
            prior, or of the chain alone, as those of a sequence not seen yet.
        chosen: which draws of each chain those are, ``(D,)``.
        observed: the data.
        dims: names of the dimensions of sites and data, without the draws.
        indices: of the plates that are subsampled.
    """

    values: dict[str, Tensor]
    average: TaskPosterior
    log_likelihood: Tensor
    by_step: Tensor | None
    tasks: Tensor
    predictions: dict[str, Tensor]
    chosen: Tensor
    observed: dict[str, Tensor]
    dims: dict[str, tuple[str, ...]]
    indices: dict[str, list[int]]

    @property
    def log_predictive_density(self) -> Tensor:
        """Log mean_s p(x_n | draw s) of each sequence or element, for held-out data.

        Of data that the draws were made from it is too large: take ``arviz.loo`` there.
        """
        return log_mean_exp(self.log_likelihood)


def marginal_draws(
    marginal: Marginal,
    draws: Draws,
    args: tuple[Any, ...],
    *,
    num_tasks_drawn: int = 0,
    by_step: bool = True,
    generator: torch.Generator | None = None,
) -> MarginalDraws:
    """Infer the tasks at each draw of the other sites, one draw after the other.

    Kept are numbers for each draw and sequence, and for each draw and step where ``by_step`` asks
    for them; probabilities of tasks are summed as they come.

    Args:
        marginal: what ``marginalize`` returned.
        draws: of its latent sites; others are left aside.
        args: what it takes.
        num_tasks_drawn: how many sets of tasks are drawn, and of data, at draws spread evenly over
            each chain.
        by_step: whether the likelihood of a chain is kept step by step, too.
        generator: source of the drawn tasks and data; torch's own random state without one.

    Raises:
        TaskSiteError: for draws of another shape than their site's, and for data outside the plates
            of the task.
        ValueError: for a latent site without draws, no draws, or different numbers of them.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from gbi_pyro import TaskChain, marginalize
        >>> def model(x):
        ...     level = pyro.sample("level", dist.Normal(0.0, 2.0))
        ...     with pyro.plate("time", len(x)):
        ...         even = dist.OneHotCategorical(torch.ones(2))
        ...         z = pyro.sample("z", even, infer={"task": True})
        ...         pyro.sample("x", dist.Normal(z[..., 1] * level, 1.0), obs=x)
        >>> marginal = marginalize(model, TaskChain.sticky(2, hazard=0.1))
        >>> draws = {"level": torch.tensor([1.0, 2.0])}
        >>> found = marginal_draws(marginal, draws, (torch.tensor([0.1, -0.2, 1.9]),))
        >>> found.log_likelihood  # log p(x | level), one sequence, 1 chain of 2 draws
        tensor([[-4.3353, -4.8715]], dtype=torch.float64)
        >>> found.by_step.shape, found.average.probs().shape
        (torch.Size([1, 2, 3]), torch.Size([3, 2]))
    """
    seen = _look(marginal, by_chain(draws), args)
    C, S = next(iter(seen.values.values())).shape[:2]
    each = min(S, math.ceil(num_tasks_drawn / C))
    chosen = (torch.arange(each) * S).div(max(each, 1), rounding_mode="floor")
    wanted = set(chosen.tolist())
    checked = replace(marginal, check=False)  # by ``_look``
    total: Tensor | float = 0.0
    evidence, steps, passes = _Rows((C, S)), _Rows((C, S)), Passes()
    tasks, data = _Rows((C, each)), {name: _Rows((C, each)) for name in seen.observed}
    for c in range(C):
        for s in range(S):
            values = {name: value[c, s : s + 1] for name, value in seen.values.items()}
            found = _at(checked, values, "given").infer(*args)
            assert found.log_evidence is not None  # that of a marginal is always known
            total = total + found.probs().double()
            evidence.append(found.log_evidence)
            passes = Passes(*map(sum, zip(passes, found.passes, strict=True)))
            if by_step and isinstance(found, ChainPosterior):
                assert found.step_log_evidence is not None
                steps.append(found.step_log_evidence.masked_fill(found.padding(), math.nan))
            if s in wanted:
                tasks.append(found.sample(1, generator=generator)[found.site_name()][0])
                sampled = _at(checked, values, "latent").model
                for site, value in _predict(found, sampled, args, generator).items():
                    data[site].append(value)
    name = found.site_name()
    average = TaskPosterior(
        {name: (torch.as_tensor(total) / (C * S)).log()},
        found.sites,
        method=f"{found.method}, averaged over draws",
        settings={**found.settings, "draws": type(draws).__name__},
        passes=passes,
        num_observations=found.num_observations,
    )
    shape = average.log_probs[name].shape[:-1]
    return MarginalDraws(
        seen.values,
        average,
        torch.as_tensor(evidence.table),
        steps.table,
        torch.empty((C, 0, *shape)) if tasks.table is None else tasks.table,
        {site: rows.table for site, rows in data.items() if rows.table is not None},
        chosen,
        seen.observed,
        seen.dims,
        seen.indices,
    )


@dataclass
class _Rows:
    """Rows of one table, filled in turn: kept one by one, small tensors would fragment memory."""

    shape: tuple[int, ...]
    table: Tensor | None = None
    filled: int = 0

    def append(self, row: Tensor) -> None:
        """Fill the next row."""
        if self.table is None:
            self.table = row.new_empty((*self.shape, *row.shape))
        self.table.flatten(0, len(self.shape) - 1)[self.filled] = row
        self.filled += 1


class _Seen(NamedTuple):
    values: dict[str, Tensor]
    observed: dict[str, Tensor]
    dims: dict[str, tuple[str, ...]]
    indices: dict[str, list[int]]


def _look(marginal: Marginal, values: Mapping[str, Tensor], args: tuple[Any, ...]) -> _Seen:
    """Run a marginal at the first draw, as a sampler does, to learn its sites."""
    at = _at(marginal, {name: value[0, :1] for name, value in values.items()}, "latent")
    with pure(marginal.model), torch.no_grad():
        outside = poutine.trace(at).get_trace(*args).nodes
        inside = poutine.trace(at.model).get_trace(*args).nodes
    sampled = {n: m for n, m in outside.items() if m["type"] == "sample"}
    latents = {n: m for n, m in sampled.items() if not (m["is_observed"] or site_is_subsample(m))}
    if not latents or latents.keys() - values.keys():
        raise ValueError(
            f"draws should hold each latent site of the marginal, {list(latents) or 'of which it '}"
            f"{'' if latents else 'has none'}; got {list(values)}: look at the names; the "
            "posterior at fixed weights is marginal.infer(*args)"
        )
    task_sites = [n for n, m in inside.items() if m.get("infer", {}).get("task")]
    refuse_outside([n for n, m in sampled.items() if is_data(m)], task_sites)
    data = {n: m for n, m in inside.items() if m["type"] == "sample" and is_data(m)}
    return _Seen(
        {n: values[n].reshape(*values[n].shape[:2], *m["value"].shape) for n, m in latents.items()},
        {n: m["value"] for n, m in data.items()},
        {n: dims_of(n, m) for n, m in {**latents, **data}.items()},
        subsamples(inside),
    )


def _predict(
    posterior: TaskPosterior,
    model: Model,
    args: tuple[Any, ...],
    generator: torch.Generator | None,
) -> dict[str, Tensor]:
    """Draw data once, under tasks that have seen none."""
    name = posterior.site_name()
    if isinstance(posterior, ChainPosterior):
        tasks = posterior.sample_prior(1, generator=generator)
    else:
        tasks = draw_tasks(posterior.sites[name].log_prior, generator).unsqueeze(0)
    found = posterior_predictive(
        posterior, {name: tasks}, model, args, generator=generator or torch.default_generator
    )
    return {site: value[0] for site, value in found.predictions.items()}


def _at(marginal: Marginal, values: Mapping[str, Tensor], drawn: Drawn) -> Marginal:
    """Return the marginal at one draw, values ``(1,) + shape``."""
    prior = marginal.prior
    if callable(prior):
        prior = AtDraws(values, drawn=drawn)(prior)
    return replace(marginal, model=AtDraws(values, drawn=drawn)(marginal.model), prior=prior)
