"""The groups of a model whose other sites were drawn by MCMC or SVI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from pyro.infer import MCMC
from torch import Tensor

from gbi_pyro.export._handlers import Draws, look
from gbi_pyro.export._schema import SAMPLE_DIMS, Layout, likelihood_name, to_numpy
from gbi_pyro.export.given_draws import GivenDraws, TaskDraws
from gbi_pyro.export.marginal_draws import MarginalDraws, marginal_draws
from gbi_pyro.inference.marginal import Marginal
from gbi_pyro.relax import Model
from gbi_pyro.sites import UNKNOWN

if TYPE_CHECKING:
    import xarray as xr

Variables: TypeAlias = dict[str, tuple[tuple[str, ...], np.ndarray]]


def draw_groups(
    given: GivenDraws,
    model: Model,
    args: tuple[Any, ...],
    task_names: Mapping[str, Sequence[str]],
    dims: Mapping[str, Sequence[str]],
    observed: Mapping[str, Tensor],
    predictions: Mapping[str, Tensor] | None,
    generator: torch.Generator,
) -> tuple[Layout, dict[str, xr.Dataset | None]]:
    """Return the groups of a model with draws of its other sites, and how they are laid out.

    Args:
        given: the draws.
        model: the Pyro model they belong to.
        args: what it takes.
        task_names, dims, observed, predictions: as in ``to_inference_data``.
        generator: source of the drawn tasks and data.
    """
    seen = look(model, given.draws, args, {})
    found = given(model, *args)
    others = frozenset((*observed, *(predictions or {})))
    layout = Layout(found.average(), task_names, {**seen.dims, **dims}, others, seen.indices)
    if predictions is None:
        predictions = given.predict(model, *args, generator=generator)
    chains = tuple(found.log_likelihood.shape[:2])
    return layout, {
        "posterior": _posterior(layout, found, generator),
        "sample_stats": _sample_stats(layout, given.draws, chains),
        "task_probs": layout.probs(layout.result, "draws"),
        "task_probs_by_draw": _by_draw(layout, found),
        "log_likelihood": _log_likelihood(layout, found.log_likelihood, seen.observed),
        "posterior_predictive": layout.predictions(predictions, chains),
        "observed_data": layout.data({**seen.observed, **observed}),
    }


def marginal_groups(
    draws: Draws,
    marginal: Marginal,
    args: tuple[Any, ...],
    task_names: Mapping[str, Sequence[str]],
    dims: Mapping[str, Sequence[str]],
    observed: Mapping[str, Tensor],
    predictions: Mapping[str, Tensor],
    num_draws: int,
    by_step: bool,
    generator: torch.Generator,
) -> tuple[Layout, dict[str, xr.Dataset | None]]:
    """Return the groups of a marginal with draws of its sites, and how they are laid out.

    Args:
        draws: of the marginal's latent sites.
        marginal: what ``marginalize`` returned.
        args: what it takes.
        task_names, dims, observed, predictions, num_draws, by_step: as in ``to_inference_data``.
        generator: source of the drawn tasks.
    """
    found = marginal_draws(
        marginal, draws, args, num_tasks_drawn=num_draws, by_step=by_step, generator=generator
    )
    others = frozenset((*observed, *predictions))
    layout = Layout(found.average, task_names, {**found.dims, **dims}, others, found.indices)
    chains = tuple(found.log_likelihood.shape[:2])
    return layout, {
        "posterior": layout.dataset(_variables(layout, found.values)),
        "sample_stats": _sample_stats(layout, draws, chains),
        "task_probs": layout.probs(found.average, "draws"),
        "task_draws": _task_draws(layout, found),
        "log_likelihood": _log_likelihood(layout, found.log_likelihood, found.observed),
        "log_likelihood_by_step": _by_step(layout, found),
        "posterior_predictive": layout.predictions(predictions, chains)
        if predictions
        else layout.dataset(_variables(layout, found.predictions), _chosen(found)),
        "observed_data": layout.data({**found.observed, **observed}),
    }


def _posterior(layout: Layout, found: TaskDraws, generator: torch.Generator) -> xr.Dataset | None:
    """Return the other sites and, for each draw of them, one draw of the tasks."""
    variables = _variables(layout, found.values)
    for name, ids in found.sample(generator).items():
        variables[name] = (*SAMPLE_DIMS, *found.sites[name].dims), to_numpy(ids)
    return layout.dataset(variables)


def _variables(layout: Layout, values: Mapping[str, Tensor]) -> Variables:
    return {
        name: ((*SAMPLE_DIMS, *layout.data_dims(name, value.shape[2:])), to_numpy(value))
        for name, value in values.items()
    }


def _by_draw(layout: Layout, found: TaskDraws) -> xr.Dataset | None:
    return layout.dataset(
        {
            name: ((*SAMPLE_DIMS, *found.sites[name].dims, f"{name}_task"), to_numpy(p.exp()))
            for name, p in found.log_probs.items()
        },
        {f"{name}_task": layout.coordinate(name) for name in found.log_probs},
    )


def _task_draws(layout: Layout, found: MarginalDraws) -> xr.Dataset | None:
    """Return tasks drawn at some of the draws, ``UNKNOWN`` where there is no step."""
    if not found.tasks.shape[1]:
        return None
    (name,) = found.average.sites
    shown = found.tasks.masked_fill(found.average.padding(), UNKNOWN)
    dims = *SAMPLE_DIMS, *found.average.sites[name].dims
    return layout.dataset({name: (dims, to_numpy(shown))}, _chosen(found))


def _chosen(found: MarginalDraws) -> dict[str, list[int]]:
    return {"draw": found.chosen.tolist()}


def _by_step(layout: Layout, found: MarginalDraws) -> xr.Dataset | None:
    if found.by_step is None:
        return None
    (site,) = found.average.sites.values()
    dims = *SAMPLE_DIMS, *site.dims
    return layout.dataset({likelihood_name(found.observed): (dims, to_numpy(found.by_step))})


def _log_likelihood(layout: Layout, value: Tensor, data: Mapping[str, Tensor]) -> xr.Dataset | None:
    dims = layout.evidence_dims(tuple(value.shape[2:]))
    return layout.dataset({likelihood_name(data): ((*SAMPLE_DIMS, *dims), to_numpy(value))})


def _sample_stats(layout: Layout, draws: Draws, chains: tuple[int, ...]) -> xr.Dataset | None:
    """Return which steps of a Hamiltonian sampler diverged."""
    if not isinstance(draws, MCMC):
        return None
    steps = draws.diagnostics().get("divergences")
    if steps is None:
        return None
    diverging = torch.zeros(chains, dtype=torch.bool)
    for chain, found in enumerate(steps.values()):
        diverging[chain, found] = True
    return layout.dataset({"diverging": (SAMPLE_DIMS, to_numpy(diverging))})
