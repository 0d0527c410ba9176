"""Task posteriors for ArviZ: named dimensions, provenance, one netCDF file."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pyro.infer import MCMC
from torch import Tensor

from gbi_pyro._arviz import groups_of, inference_data
from gbi_pyro.export._draw_groups import draw_groups, marginal_groups
from gbi_pyro.export._handlers import Draws
from gbi_pyro.export._schema import SAMPLE_DIMS, Layout, likelihood_name, provenance, to_numpy
from gbi_pyro.export.chains import chain_posteriors, stream_posterior
from gbi_pyro.export.given_draws import GivenDraws
from gbi_pyro.export.posterior_predictive import posterior_predictive
from gbi_pyro.files import replacing
from gbi_pyro.inference.hmm import HMMPosterior
from gbi_pyro.inference.marginal import Marginal
from gbi_pyro.learning.online_em import OnlineEMRun
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.relax import Model

if TYPE_CHECKING:
    import xarray as xr

    from gbi_pyro._arviz import InferenceData

NUM_DRAWS = 100  # of task ids, where nobody says how many


def to_inference_data(
    result: TaskPosterior | HMMPosterior | OnlineEMRun | GivenDraws | Draws,
    model: Model | None = None,
    args: tuple[Any, ...] = (),
    *,
    observed: Mapping[str, Tensor] | None = None,
    labels: Mapping[str, Tensor] | None = None,
    exact: TaskPosterior | None = None,
    predictions: Mapping[str, Tensor] | None = None,
    log_evidence: Tensor | None = None,
    task_names: Mapping[str, Sequence[str]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    num_draws: int | None = None,
    by_step: bool | None = None,
    generator: torch.Generator | None = None,
    attributes: Mapping[str, object] | None = None,
) -> InferenceData:
    """Convert a task posterior, or a model with draws of its other sites, to ArviZ.

    The groups, each present if there is something to put in it:

    - ``posterior``: task ids drawn from q(z | x), paths of a smoothed chain, else each element on
      its own; -1 where all data are masked (``TaskPosterior.padding``); chain, draw and the site's
      plates.
    - ``task_probs``: q(z = k | x), NaN there; the site's plates and ``<site>_task``, labelled by
      name.
    - ``exact_task_probs``: the same for the exact posterior; ``filtered_task_probs``: of an
      ``HMMPosterior``, whose ``task_probs`` are smoothed.
    - ``log_likelihood``: the *marginal* log p(x_i) with tasks summed out, never log p(x_i | z_i),
      whose LOO would be that of known tasks. It is called like the data where the model, or
      ``observed`` without one, has one variable of them, as ArviZ's plots expect, and
      ``log_evidence`` otherwise. It does not depend on the drawn tasks, so that a single value is
      repeated for every draw: ``az.loo`` then gives the plain log score (p_loo = 0) and warns; from
      ArviZ 1.0 on it raises an error, and ``gbi_pyro.metrics.Score(log_evidence, "held-out")`` is
      that score. Give ``log_evidence`` for draws of the weights to get a real LOO. What the method
      does not know is not taken from ``exact``, which may be of the generator.
    - ``posterior_predictive``: data of the same elements, drawn under each draw of their tasks.
    - ``observed_data``, and ``constant_data`` (true task ids).

    A model fitted by MCMC or SVI is handed over as its draws, with the model and its data: the
    tasks are enumerated for each draw (see ``GivenDraws``). Then ``posterior`` also holds the other
    sites, and ``log_likelihood`` is what LOO needs, as it depends on the draws; ``task_probs`` is
    the average over the draws, ``task_probs_by_draw`` what it averages; ``posterior_predictive`` is
    drawn for elements not seen yet, with tasks from their prior; ``observed_data`` are read from
    the model, and ``sample_stats`` says which steps of MCMC diverged.

    A marginal (``marginalize``) is handed over with the draws of its sites in the same way. Tasks
    are summed out at each draw, along the chain if it has one, and nothing that has a number for
    each draw, step and task is kept. Its groups are ``posterior``, the sites; ``task_probs``, p(z |
    x) = 1/S sum_s p(z | x, draw s), smoothed along a chain; ``task_draws``, tasks drawn jointly, as
    paths, given each of ``num_draws`` of the draws, whose numbers label ``draw``;
    ``posterior_predictive``, data drawn at the same draws, under tasks of the chain alone;
    ``log_likelihood``, log p(x_n | draw) of each sequence, so that ``az.loo`` leaves out sequences
    (see ``gbi_pyro.metrics.leave_one_out``), or of each element where there is no chain; and
    ``log_likelihood_by_step``, log p(x_t | x_1..t-1, draw), NaN beyond the end of a sequence. The
    steps of a chain are no elements to be left out one by one: ``gbi_pyro.metrics.one_step_ahead``.

    A dimension of size 1 that no plate declares, such as that of a task per sequence beside time,
    is left out. A subsampled plate is labelled by its indices. A plate that is called like a site,
    x say, becomes the dimension ``x_dim``, since a coordinate would take the place of the variable;
    a slash in a name becomes a dot, since netCDF takes it for a group.
    The attributes record method, settings, compute, versions and ``draws_seed``. What netCDF has no
    type for (None, bool, dict, list) is written as JSON.

    Args:
        result: a posterior from any inference; what ``hmm_posterior`` or ``hsmm_posterior``
            returned, its site then called ``z``, its dimensions ``sequence`` and ``time``; what
            ``OnlineEM.run`` returned, whose likelihood is that of each step given its past; a
            finished ``pyro.infer.MCMC``, or draws by site, ``(S,) + shape``; or either of these
            inside ``GivenDraws``, which has options.
        model: the Pyro model, or the marginal, that the draws belong to; for a posterior the one it
            is of, to read the data and to draw new ones, at the cost of a run for each draw.
        args: what the model takes.
        observed: data by name, beside those of the model. Dimensions are named by ``dims``, else
            the plates of the model, else from the left by the plates of the task site with the most
            elements, for as long as sizes agree.
        labels: true task ids by site, ``batch_shape`` each, integers.
        exact: the exact posterior over the same sites, where ``result`` is a posterior.
        predictions: draws of data by name, ``(draws, ...)`` each; for a model and its draws,
            ``(C * S, ...)`` to take the place of those drawn here.
        log_evidence: marginal log p(x_i) for draws of the weights, ``(draws,)`` + the shape of the
            elements; ``result.log_evidence`` without it.
        task_names: K names by site; 0 .. K - 1 without.
        dims: names of the dimensions of data and drawn sites, without the draws.
        num_draws: how many task ids are drawn, 100 without; 0 leaves ``posterior`` out, of a
            marginal ``task_draws`` and ``posterior_predictive``. A model with its draws gets one
            for each.
        by_step: whether a marginal with a chain gets ``log_likelihood_by_step``, as it does without
            it: 8 bytes for each draw and step.
        generator: source of the draws, seeded; a new one with seed 0 without it.
        attributes: more attributes, such as the configuration of the study.

    Returns:
        The groups, with single elements and plates of size 1 kept: an ``arviz.InferenceData``, or,
        from ArviZ 1.0 on, an ``xarray.DataTree``.

    Raises:
        TaskSiteError: if ``exact``, ``labels`` or ``task_names`` know a site that ``result`` does
            not.
        ValueError: for shapes or names that do not fit, or two names that would become one.
        TypeError: for a result of another kind.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from gbi_pyro import Enumeration
        >>> def model(x):
        ...     with pyro.plate("sequence", len(x)):
        ...         prior = dist.OneHotCategorical(torch.tensor([0.5, 0.5]))
        ...         z = pyro.sample("z", prior, infer={"task": True})
        ...         pyro.sample("x", dist.Normal(z @ torch.tensor([0.2, 0.8]), 0.1), obs=x)
        >>> x = torch.tensor([0.2, 0.8, 0.7])
        >>> names = {"z": ["low", "high"]}
        >>> data = to_inference_data(Enumeration()(model, x), observed={"x": x}, task_names=names)
        >>> data.task_probs["z"].sel(z_task="high").values.round(2)
        array([0., 1., 1.], dtype=float32)
        >>> data.posterior["z"].dims, data.observed_data["x"].dims
        (('chain', 'draw', 'sequence'), ('sequence',))
    """
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    options = {"exact": exact, "log_evidence": log_evidence}
    of_marginal = {"by_step": by_step}
    names, wanted_dims = task_names or {}, dims or {}
    if num_draws is not None and num_draws < 0:
        raise ValueError(f"num_draws should be 0 or more; got {num_draws}")
    n = NUM_DRAWS if num_draws is None else num_draws
    indices: Mapping[str, Sequence[int]] = {}
    filtered = None
    if isinstance(result, HMMPosterior):
        result, filtered = chain_posteriors(result)
    if isinstance(result, OnlineEMRun):
        result = stream_posterior(result)
    if isinstance(result, TaskPosterior):
        _refuse(of_marginal, "a marginal with draws")
        posterior = result
        tasks = result.sample(n, generator=generator)
        data: Mapping[str, Tensor] = observed or {}
        if model is not None:
            inner = model.model if isinstance(model, Marginal) else model
            found = posterior_predictive(result, tasks, inner, args, generator=generator)
            data, observed = found.observed, {**found.observed, **(observed or {})}
            predictions = found.predictions if predictions is None else predictions
            wanted_dims, indices = {**found.dims, **wanted_dims}, found.indices
        elif args:
            raise ValueError("args should come with their model; got no model")
        others = frozenset((*(observed or {}), *(predictions or {})))
        layout = Layout(result, names, wanted_dims, others, indices)
        groups = {
            "posterior": layout.tasks(tasks) if n else None,
            "task_probs": layout.probs(result, "result"),
            "exact_task_probs": layout.probs(exact, "exact") if exact else None,
            "filtered_task_probs": layout.probs(filtered, "result") if filtered else None,
            "log_likelihood": _log_likelihood(layout, log_evidence, max(n, 1), data),
            "posterior_predictive": layout.predictions(predictions or {}),
            "observed_data": layout.data(observed or {}),
        }
    elif isinstance(result, (GivenDraws, MCMC, Mapping)):
        _refuse(options, "a task posterior")
        if model is None:
            raise ValueError(
                "model should be the Pyro model that the draws belong to, with its data in args; "
                "got none: the draws alone do not say how likely the data are"
            )
        if isinstance(model, Marginal):
            if isinstance(result, GivenDraws):
                raise ValueError(
                    "GivenDraws says how tasks are enumerated, which a marginal does itself: give "
                    "the draws alone, to_inference_data(given.draws, marginal, args)"
                )
            layout, groups = marginal_groups(
                result,
                model,
                args,
                names,
                wanted_dims,
                observed or {},
                predictions or {},
                n,
                by_step is not False,
                generator,
            )
        else:
            _refuse({"num_draws": num_draws}, "a task posterior or a marginal")
            _refuse(of_marginal, "a marginal with draws")
            given = result if isinstance(result, GivenDraws) else GivenDraws(result)
            layout, groups = draw_groups(
                given, model, args, names, wanted_dims, observed or {}, predictions, generator
            )
        posterior = layout.result
    else:
        raise TypeError(
            "result should be a TaskPosterior, an HMMPosterior, an OnlineEMRun, a finished MCMC, "
            f"GivenDraws or draws by site; got {type(result).__name__}: of a model fitted by SVI "
            "give the draws, Predictive(guide, num_samples=S)(*args)"
        )
    groups["constant_data"] = layout.labels(labels or {})
    attrs = provenance(posterior, generator.initial_seed(), attributes or {})
    present = {name: layout.squeezed(data) for name, data in groups.items() if data is not None}
    return inference_data(present, attrs)


def save_inference_data(data: InferenceData, path: str | os.PathLike[str]) -> None:
    """Write ArviZ's data to a netCDF file, whole or not at all.

    Args:
        data: what ``to_inference_data`` returned.
        path: the file, usually ``*.nc``; opens with ``arviz.from_netcdf``. Folders are made.

    Raises:
        OSError: where the file cannot be written.

    Example:
        >>> save_inference_data(data, "runs/toy/posterior.nc")  # doctest: +SKIP
    """
    _write(groups_of(data), data.attrs, path)


def save_dataset(data: xr.Dataset, path: str | os.PathLike[str]) -> None:
    """Write an ``xarray.Dataset`` to a netCDF file, whole or not at all.

    Args:
        data: named variables with their dimensions, coordinates and attributes.
        path: the file, usually ``*.nc``; opens with ``xarray.load_dataset``. Folders are made.

    Raises:
        OSError: where the file cannot be written.

    Example:
        >>> save_dataset(xr.Dataset({"loss": ("step", losses)}), "loss.nc")  # doctest: +SKIP
    """
    _write({None: data}, {}, path)


def _write(
    groups: Mapping[str, xr.Dataset] | Mapping[None, xr.Dataset],
    attributes: Mapping[Any, Any],
    path: str | os.PathLike[str],
) -> None:
    import h5netcdf
    from xarray.backends import H5NetCDFStore

    # In memory first: where a disk is full, HDF5 raises while it frees its objects, or crashes.
    buffer = io.BytesIO()
    with h5netcdf.File(buffer, "w") as file:
        file.attrs.update(attributes)
        for group, data in groups.items():
            packed = {
                name: {"zlib": True}
                for name, variable in data.variables.items()
                if variable.dtype.kind in "biufc"
            }
            data.dump_to_store(H5NetCDFStore(file, group=group, mode="a"), encoding=packed)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _refuse(options: Mapping[str, object], belong_to: str) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ValueError(f"{' and '.join(given)} should be left out: only {belong_to} may have it")


def _log_likelihood(
    layout: Layout, given: Tensor | None, draws: int, data: Mapping[str, Tensor]
) -> xr.Dataset | None:
    value = layout.result.log_evidence if given is None else given
    if value is None:
        return None
    if given is None:
        value = value.expand(draws, *value.shape)
    elif given.dim() == 0:
        raise ValueError("log_evidence should have the draws of the weights first; got a scalar")
    dims = layout.evidence_dims(tuple(value.shape[1:]))
    values = (*SAMPLE_DIMS, *dims), to_numpy(value.unsqueeze(0))
    return layout.dataset({likelihood_name(data): values})
