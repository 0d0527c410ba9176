"""Posterior predictive draws of the data, given drawn tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from gbi_pyro.export._handlers import AtDraws, dims_of, is_data, subsamples
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.purity import pure
from gbi_pyro.relax import Model
from gbi_pyro.sites import TaskSiteError


class PosteriorPredictive(NamedTuple):
    """Data of a model, and data drawn for the same elements.

    Attributes:
        observed: the data, by site.
        predictions: drawn data, ``(draws,) + shape`` by site.
        dims: the names of the dimensions of both, the draws left out.
        indices: of the plates that are subsampled.
    """

    observed: dict[str, Tensor]
    predictions: dict[str, Tensor]
    dims: dict[str, tuple[str, ...]]
    indices: dict[str, list[int]]


def posterior_predictive(
    posterior: TaskPosterior,
    tasks: Mapping[str, Tensor],
    model: Model,
    args: tuple[Any, ...],
    *,
    generator: torch.Generator,
) -> PosteriorPredictive:
    """Draw data of the same elements, one set for each draw of their tasks.

    x_rep ~ p(x | z), z ~ q(z | x): the posterior predictive of a model whose tasks alone are
    unknown (Gelman, Meng and Stern 1996, Posterior predictive assessment of model fitness).

    Args:
        posterior: of the model's tasks.
        tasks: drawn task ids, ``(draws,) + batch_shape`` by site.
        model: the Pyro model.
        args: what it takes.
        generator: source of the draws, seeded.

    Raises:
        TaskSiteError: for a model with other task sites than the posterior's.
    """
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    with pure(model), torch.no_grad():
        nodes = poutine.trace(model).get_trace(*args).nodes
        for name, site in posterior.sites.items():
            found = nodes[name]["value"].shape if name in nodes else None
            if found != (*site.batch_shape, site.num_tasks):
                raise TaskSiteError(
                    f"model should have the task site {name!r} of shape "
                    f"{(*site.batch_shape, site.num_tasks)}, as result has; got "
                    f"{'none' if found is None else tuple(found)}: give the model and the args "
                    "that the tasks were inferred with"
                )
        data = {n: node for n, node in nodes.items() if node["type"] == "sample" and is_data(node)}
        drawn: dict[str, list[Tensor]] = {name: [] for name in data}
        pyro.set_rng_seed(seed)
        for s in range(len(next(iter(tasks.values())))):
            given = {name: site.as_data(tasks[name][s]) for name, site in posterior.sites.items()}
            redrawn = AtDraws({}, data="redraw")(poutine.condition(model, data=given))
            trace = poutine.trace(redrawn).get_trace(*args)
            for name, values in drawn.items():
                values.append(trace.nodes[name]["value"].detach())
    return PosteriorPredictive(
        {name: node["value"] for name, node in data.items()},
        {name: torch.stack(values) for name, values in drawn.items() if values},
        {name: dims_of(name, node) for name, node in data.items()},
        subsamples(nodes),
    )
