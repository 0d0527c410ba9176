"""Task posteriors as ``arviz.InferenceData``: named dimensions, provenance, one netCDF file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.files import replacing
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.sites import unknown_site

if TYPE_CHECKING:
    import arviz as az
    import xarray as xr

PACKAGES = ("torch", "pyro-ppl", "arviz", "numpy")
SAMPLE_DIMS = ("chain", "draw")


def to_inference_data(
    result: TaskPosterior,
    *,
    observed: Mapping[str, Tensor] | None = None,
    labels: Mapping[str, Tensor] | None = None,
    exact: TaskPosterior | None = None,
    predictions: Mapping[str, Tensor] | None = None,
    log_evidence: Tensor | None = None,
    task_names: Mapping[str, Sequence[str]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    num_draws: int = 100,
    generator: torch.Generator | None = None,
    attributes: Mapping[str, object] | None = None,
) -> az.InferenceData:
    """Hand a task posterior to ArviZ.

    The groups, each present if there is something to put in it:

    - ``posterior``: task ids drawn from q(z | x); chain, draw and the site's plates.
    - ``task_probs``: q(z = k | x); the site's plates and ``<site>_task``, labelled by name.
    - ``exact_task_probs``: the same for the exact posterior.
    - ``log_likelihood``: ``log_evidence``, the *marginal* log p(x_i) with tasks summed out, never
      log p(x_i | z_i), whose LOO would be that of known tasks. It does not depend on the drawn
      tasks, so that a single value is repeated for every draw: ``az.loo`` then gives the plain log
      score (p_loo = 0) and warns. Give ``log_evidence`` for draws of the weights to get a real LOO.
    - ``posterior_predictive``, ``observed_data``, and ``constant_data`` (true task ids).

    The attributes record method, settings, compute, versions and ``draws_seed``. What netCDF has
    no type for (None, bool, dict, list) is written as JSON.

    Args:
        result: a posterior from any inference.
        observed: data by name. Dimensions are named by ``dims``, else from the left by the plates
            of the site with the most elements, for as long as sizes agree.
        labels: true task ids by site, ``batch_shape`` each, integers.
        exact: the exact posterior over the same sites.
        predictions: draws of data by name, ``(draws, ...)`` each.
        log_evidence: marginal log p(x_i) for draws of the weights, ``(draws,)`` + the shape of the
            elements; ``result.log_evidence`` without it.
        task_names: K names by site; 0 .. K - 1 without.
        dims: names of the dimensions of observed and predicted data, without the draws.
        num_draws: how many task ids are drawn; 0 leaves ``posterior`` out.
        generator: source of the draws, seeded; a new one with seed 0 without it.
        attributes: more attributes, such as the configuration of the study.

    Returns:
        The groups, with single elements and plates of size 1 kept.

    Raises:
        TaskSiteError: if ``exact``, ``labels`` or ``task_names`` know a site that ``result`` does
            not.
        ValueError: for shapes, names or types that do not fit.

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
    if num_draws < 0:
        raise ValueError(f"num_draws should be 0 or more; got {num_draws}")
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    layout = _Layout(result, task_names or {}, dims or {})
    groups = {
        "posterior": _drawn_tasks(layout, num_draws, generator),
        "task_probs": _probs(layout, result, "result"),
        "exact_task_probs": _probs(layout, exact, "exact") if exact else None,
        "log_likelihood": _log_likelihood(layout, log_evidence, max(num_draws, 1)),
        "posterior_predictive": _predictive(layout, predictions or {}),
        "observed_data": _dataset(
            {n: (layout.data_dims(n, x.shape), _numpy(x)) for n, x in (observed or {}).items()}
        ),
        "constant_data": _labels(layout, labels or {}),
    }
    provenance = {
        "creation_library": "gbi_pyro",
        "inference_library": "gbi_pyro",
        "inference_library_version": version("gbi-pyro"),
        **{f"{p.replace('-', '_')}_version": version(p) for p in PACKAGES},
        "method": result.method,
        "settings": result.settings,
        **{f"passes_{kind}": count for kind, count in result.passes._asdict().items()},
        "draws_seed": generator.initial_seed(),
    }
    if clash := provenance.keys() & (attributes or {}).keys():
        raise ValueError(
            f"attributes should not redefine what the result knows itself; got {sorted(clash)}: "
            "choose other names"
        )
    provenance.update(attributes or {})
    # Half the time of importing this package would be ArviZ's (1.5 s): only its users pay.
    import arviz as az

    # The one call that knows ArviZ; `task_probs` is no group of its schema.
    return az.InferenceData(
        attrs={name: _attribute(value) for name, value in provenance.items()},
        warn_on_custom_groups=False,
        **{name: data for name, data in groups.items() if data is not None},
    )


def save_inference_data(data: az.InferenceData, path: str | os.PathLike[str]) -> None:
    """Write an ``arviz.InferenceData`` to a netCDF file, whole or not at all.

    Args:
        data: what ``to_inference_data`` returned.
        path: the file, usually ``*.nc``; opens with ``arviz.from_netcdf``. Folders are made.

    Example:
        >>> save_inference_data(data, "runs/toy/posterior.nc")  # doctest: +SKIP
    """
    with replacing(path) as temporary:
        data.to_netcdf(str(temporary), engine="h5netcdf")


@dataclass(frozen=True)
class _Layout:
    """The names of all dimensions of a result."""

    result: TaskPosterior
    task_names: Mapping[str, Sequence[str]]
    dims: Mapping[str, Sequence[str]]

    def __post_init__(self) -> None:
        for site in self.task_names:
            self.known("task_names", site)
        taken = {d for s in self.result.sites.values() for d in s.dims} & {*SAMPLE_DIMS}
        if taken:
            raise ValueError(
                f"a plate should not be called {' or '.join(sorted(taken))}, which are ArviZ's "
                "dimensions of the draws: rename the plate"
            )

    def known(self, argument: str, site: str) -> None:
        if site not in self.result.log_probs:
            raise unknown_site(f"{argument}[{site!r}]", list(self.result.log_probs))

    def batch_shape(self, site: str) -> tuple[int, ...]:
        return tuple(self.result.log_probs[site].shape[:-1])

    def coordinate(self, site: str) -> Sequence[Any]:
        """Return the names of a site's K tasks."""
        K = self.result.log_probs[site].shape[-1]
        names = list(self.task_names.get(site, range(K)))
        if len(names) != K or len(set(names)) != K:
            raise ValueError(
                f"task_names[{site!r}] should be {K} different names, one per task; got {names}"
            )
        return names

    def data_dims(self, name: str, shape: Sequence[int]) -> tuple[str, ...]:
        """Return the dimensions of an observed or predicted variable."""
        if name in self.dims:
            if len(self.dims[name]) != len(shape):
                raise ValueError(
                    f"dims[{name!r}] should name {len(shape)} dimensions, those of shape "
                    f"{tuple(shape)}; got {tuple(self.dims[name])}: leave out the draws"
                )
            return tuple(self.dims[name])
        site = max(self.result.sites.values(), key=lambda s: s.batch_shape.numel())
        named = 0
        for size, expected in zip(shape, self.batch_shape(site.name), strict=False):
            if size != expected:
                break
            named += 1
        rest = range(named, len(shape))
        return (*site.dims[:named], *(f"{name}_dim_{i}" for i in rest))

    def evidence_dims(self, shape: tuple[int, ...]) -> tuple[str, ...]:
        """Return the dimensions of the elements that the log evidence tells apart."""
        sites = self.result.sites
        # A chain sums out the last dimension, time; without one the outermost site has the shape.
        for cut in (0, 1):
            for name, site in sites.items():
                batch = self.batch_shape(name)
                if batch[: len(batch) - cut] == shape:
                    return site.dims[: len(shape)]
        expected = " or ".join(str(self.batch_shape(name)) for name in sites)
        raise ValueError(
            f"log_evidence should have one number per element of a task site, {expected}, or of "
            f"that without its last dimension; got {shape} (after the draws)"
        )


def _dataset(
    variables: Mapping[str, tuple[Sequence[str], np.ndarray]],
    coords: Mapping[str, Sequence[Any]] | None = None,
) -> xr.Dataset | None:
    """Make a dataset that labels each dimension, those without names by 0, 1, ..."""
    if not variables:
        return None
    import xarray as xr  # arrives with ArviZ, and as slowly

    data = xr.Dataset({name: (tuple(dims), array) for name, (dims, array) in variables.items()})
    numbered = {str(dim): np.arange(size) for dim, size in data.sizes.items()}
    return data.assign_coords({**numbered, **{k: list(v) for k, v in (coords or {}).items()}})


def _numpy(value: Tensor) -> np.ndarray:
    return torch.as_tensor(value).detach().cpu().numpy()


def _drawn_tasks(layout: _Layout, n: int, generator: torch.Generator) -> xr.Dataset | None:
    if n == 0:
        return None
    result, device = layout.result, generator.device
    here = {name: value.detach().to(device) for name, value in result.log_probs.items()}
    draws = replace(result, log_probs=here).sample(n, generator=generator)
    return _dataset(
        {
            name: ((*SAMPLE_DIMS, *result.sites[name].dims), _numpy(ids.unsqueeze(0)))
            for name, ids in draws.items()
        }
    )


def _probs(layout: _Layout, posterior: TaskPosterior, argument: str) -> xr.Dataset | None:
    variables, coords = {}, {}
    for name, log_prob in posterior.log_probs.items():
        layout.known(argument, name)
        expected = tuple(layout.result.log_probs[name].shape)
        if tuple(log_prob.shape) != expected:
            raise ValueError(
                f"{argument} should have log probabilities of shape {expected} at site {name!r}, "
                f"as result has; got {tuple(log_prob.shape)}: infer both for the same data"
            )
        dim = f"{name}_task"
        variables[name] = (*layout.result.sites[name].dims, dim), _numpy(log_prob.exp())
        coords[dim] = layout.coordinate(name)
    return _dataset(variables, coords)


def _log_likelihood(layout: _Layout, given: Tensor | None, draws: int) -> xr.Dataset | None:
    value = layout.result.log_evidence if given is None else given
    if value is None:
        return None
    if given is None:
        value = value.expand(draws, *value.shape)
    elif given.dim() == 0:
        raise ValueError("log_evidence should have the draws of the weights first; got a scalar")
    dims = layout.evidence_dims(tuple(value.shape[1:]))
    return _dataset({"log_evidence": ((*SAMPLE_DIMS, *dims), _numpy(value.unsqueeze(0)))})


def _predictive(layout: _Layout, predictions: Mapping[str, Tensor]) -> xr.Dataset | None:
    variables = {}
    for name, draws in predictions.items():
        if draws.dim() == 0:
            raise ValueError(f"predictions[{name!r}] should have draws first; got a scalar")
        dims = *SAMPLE_DIMS, *layout.data_dims(name, draws.shape[1:])
        variables[name] = dims, _numpy(draws.unsqueeze(0))
    return _dataset(variables)


def _labels(layout: _Layout, labels: Mapping[str, Tensor]) -> xr.Dataset | None:
    variables = {}
    for name, ids in labels.items():
        layout.known("labels", name)
        expected = layout.batch_shape(name)
        if tuple(ids.shape) != expected or ids.is_floating_point():
            raise ValueError(
                f"labels[{name!r}] should be integer task ids of shape {expected}, one per element "
                f"of the site; got {tuple(ids.shape)} {ids.dtype}: one-hot labels need .argmax(-1)"
            )
        variables[name] = layout.result.sites[name].dims, _numpy(ids)
    return _dataset(variables)


def _attribute(value: object) -> str | int | float:
    """Return what netCDF can hold: text and numbers as they are, everything else as JSON."""
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return value
    return json.dumps(value, default=_jsonable)


def _jsonable(value: object) -> object:
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return value.tolist()
    return getattr(value, "__qualname__", repr(value))
