"""The schema of an export: names of dimensions and coordinates, arrays, provenance."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.sites import UNKNOWN, unknown_site

if TYPE_CHECKING:
    import xarray as xr

PACKAGES = ("torch", "pyro-ppl", "arviz", "numpy")
SAMPLE_DIMS = ("chain", "draw")
LOG_EVIDENCE = "log_evidence"


@dataclass(frozen=True)
class Layout:
    """The names of all variables, dimensions and coordinates of a result.

    Attributes:
        result: whose task sites are laid out.
        task_names: K names by site; 0 .. K - 1 without.
        dims: names of the dimensions of data and other sites, without the draws.
        others: names of variables beside those of ``result`` and ``dims``.
        indices: those of a plate's subsample, by plate, beside those that ``result`` knows.
    """

    result: TaskPosterior
    task_names: Mapping[str, Sequence[str]]
    dims: Mapping[str, Sequence[str]]
    others: frozenset[str] = frozenset()
    indices: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for site in self.task_names:
            self.known("task_names", site)
        named = [s.dims for s in self.result.sites.values()] + list(self.dims.values())
        for what, names in (("plate", {d for dims in named for d in dims}), ("site", self.names)):
            if taken := names & {*SAMPLE_DIMS}:
                raise ValueError(
                    f"a {what} should not be called {' or '.join(sorted(taken))}, which are "
                    f"ArviZ's dimensions of the draws: rename the {what}"
                )

    @property
    def names(self) -> frozenset[str]:
        """The names of all variables, as the model has them."""
        return frozenset((LOG_EVIDENCE, *self.result.sites, *self.dims, *self.others))

    def dim(self, name: str) -> str:
        """Return what a dimension is called: with ``_dim`` where a variable has its name.

        xarray would take the coordinate of the dimension for the variable.
        """
        return _stored(name) + "_dim" * (_stored(name) in map(_stored, self.names))

    def dataset(
        self,
        variables: Mapping[str, tuple[Sequence[str], np.ndarray]],
        coords: Mapping[str, Sequence[Any]] | None = None,
    ) -> xr.Dataset | None:
        """Make a dataset; each dimension is labelled: by ``coords``, its indices, or 0, 1, ...."""
        if not variables:
            return None
        import xarray as xr  # arrives with ArviZ, and as slowly

        self._check_distinct(variables)
        data = xr.Dataset(
            {
                _stored(name): (tuple(map(self.dim, dims)), array)
                for name, (dims, array) in variables.items()
            }
        )
        plates = [p for site in self.result.sites.values() for p in site.plates if p and p.indices]
        labels: dict[str, Sequence[Any]] = {p.name: p.indices for p in plates if p.indices}
        labels = {self.dim(n): v for n, v in {**labels, **self.indices, **(coords or {})}.items()}
        for dim, size in data.sizes.items():
            given = labels.get(str(dim), ())
            data = data.assign_coords({dim: list(given) if len(given) == size else np.arange(size)})
        return data

    def _check_distinct(self, variables: Mapping[str, tuple[Sequence[str], np.ndarray]]) -> None:
        """Check that no two names become one: xarray would drop one of them without a word."""
        dims = {dim for used, _ in variables.values() for dim in used}
        names = [(_stored(n), f"site {n!r}") for n in self.names]
        names += [(self.dim(d), f"dimension {d!r}") for d in dims]
        for used, _ in variables.values():
            names += [(self.dim(d), f"dimension {d!r}") for d in dims if list(used).count(d) > 1]
        first: dict[str, str] = {}
        for stored, what in sorted(names):
            if stored in first:
                raise ValueError(
                    f"{first[stored]} and {what} would both be called {stored!r} in the export; "
                    "expected a name for each: rename a site or a plate"
                )
            first[stored] = what

    def known(self, argument: str, site: str) -> None:
        """Check that a site is one of the result's."""
        if site not in self.result.log_probs:
            raise unknown_site(f"{argument}[{site!r}]", list(self.result.log_probs))

    def batch_shape(self, site: str) -> tuple[int, ...]:
        """Return the shape of the elements of a site."""
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
        """Return the dimensions of the elements that have a log evidence each."""
        sites, time = self.result.sites, self.result.settings.get("time")
        for name, site in sites.items():
            kept = [i for i, dim in enumerate(site.dims) if dim != time]
            if len(kept) < len(site.dims) and shape == tuple(
                self.batch_shape(name)[i] for i in kept
            ):
                return tuple(site.dims[i] for i in kept)
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

    def squeezed(self, data: xr.Dataset) -> xr.Dataset:
        """Leave out the dimensions of task sites that no plate declares and that have size 1."""
        surplus = {
            dim
            for site in self.result.sites.values()
            for dim, plate, size in zip(
                map(self.dim, site.dims), site.plates, self.batch_shape(site.name), strict=True
            )
            if plate is None and size == 1
        }
        return data.squeeze([dim for dim in data.dims if dim in surplus], drop=True)

    def data(self, values: Mapping[str, Tensor]) -> xr.Dataset | None:
        """Return observed variables."""
        return self.dataset(
            {n: (self.data_dims(n, x.shape), to_numpy(x)) for n, x in values.items()}
        )

    def probs(self, posterior: TaskPosterior, argument: str) -> xr.Dataset | None:
        """Return task probabilities, tasks named."""
        variables, coords = {}, {}
        for name, log_prob in posterior.log_probs.items():
            self.known(argument, name)
            expected = tuple(self.result.log_probs[name].shape)
            if tuple(log_prob.shape) != expected:
                raise ValueError(
                    f"{argument} should have log probabilities of shape {expected} at site "
                    f"{name!r}, as result has; got {tuple(log_prob.shape)}: infer both for the "
                    "same data"
                )
            dim, padding = f"{name}_task", self.result.padding(name).unsqueeze(-1)
            shown = to_numpy(log_prob.exp().masked_fill(padding.to(log_prob.device), math.nan))
            variables[name] = (*self.result.sites[name].dims, dim), shown
            coords[dim] = self.coordinate(name)
        return self.dataset(variables, coords)

    def predictions(
        self, predictions: Mapping[str, Tensor], chains: tuple[int, ...] | None = None
    ) -> xr.Dataset | None:
        """Return drawn data; ``chains`` is ``(C, S)`` where the draws are C chains of S."""
        variables = {}
        for name, draws in predictions.items():
            if draws.dim() == 0:
                raise ValueError(f"predictions[{name!r}] should have draws first; got a scalar")
            if chains is not None and len(draws) != math.prod(chains):
                raise ValueError(
                    f"predictions[{name!r}] should have {math.prod(chains)} draws first, as many "
                    f"as the other sites; got {len(draws)}"
                )
            dims = *SAMPLE_DIMS, *self.data_dims(name, draws.shape[1:])
            variables[name] = dims, to_numpy(draws.unflatten(0, chains or (1, len(draws))))
        return self.dataset(variables)

    def tasks(self, draws: Mapping[str, Tensor]) -> xr.Dataset | None:
        """Return drawn task ids, ``UNKNOWN`` where an element is padding."""
        variables = {}
        for name, ids in draws.items():
            padding = self.result.padding(name).to(ids.device)
            shown = to_numpy(ids.masked_fill(padding, UNKNOWN).unsqueeze(0))
            variables[name] = (*SAMPLE_DIMS, *self.result.sites[name].dims), shown
        return self.dataset(variables)

    def labels(self, labels: Mapping[str, Tensor]) -> xr.Dataset | None:
        """Return true task ids."""
        variables = {}
        for name, ids in labels.items():
            self.known("labels", name)
            expected = self.batch_shape(name)
            if tuple(ids.shape) != expected or ids.is_floating_point():
                raise ValueError(
                    f"labels[{name!r}] should be integer task ids of shape {expected}, one per "
                    f"element of the site; got {tuple(ids.shape)} {ids.dtype}: one-hot labels need "
                    ".argmax(-1)"
                )
            variables[name] = self.result.sites[name].dims, to_numpy(ids)
        return self.dataset(variables)


def likelihood_name(data: Collection[str]) -> str:
    """Return what the log likelihood of data is called, given their names.

    ArviZ's plots look it up by the name of the data, which is possible for one variable of them.
    """
    return next(iter(data)) if len(data) == 1 else LOG_EVIDENCE


def _stored(name: str) -> str:
    """Return a name as netCDF can store it, to which a slash separates groups."""
    return name.replace("/", ".")


def to_numpy(value: Tensor) -> np.ndarray:
    """Return a tensor's numbers."""
    return torch.as_tensor(value).detach().cpu().numpy()


def provenance(
    result: TaskPosterior, seed: int, attributes: Mapping[str, object]
) -> dict[str, str | int | float]:
    """Return where a result comes from, in what netCDF has types for.

    Args:
        result: its method, settings and compute are written.
        seed: of the draws.
        attributes: what the caller adds.

    Raises:
        ValueError: if the caller would redefine what the result knows itself.
    """
    known = {
        "creation_library": "gbi_pyro",
        "inference_library": "gbi_pyro",
        "inference_library_version": version("gbi-pyro"),
        **{f"{p.replace('-', '_')}_version": version(p) for p in PACKAGES},
        "method": result.method,
        "settings": result.settings,
        **{f"passes_{kind}": count for kind, count in result.passes._asdict().items()},
        "draws_seed": seed,
    }
    if clash := known.keys() & attributes.keys():
        raise ValueError(
            f"attributes should not redefine what the result knows itself; got {sorted(clash)}: "
            "choose other names"
        )
    return {name: _attribute(value) for name, value in {**known, **attributes}.items()}


def _attribute(value: object) -> str | int | float:
    """Return what netCDF can hold: text and numbers as they are, everything else as JSON."""
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return value
    return json.dumps(value, default=_jsonable)


def _jsonable(value: object) -> object:
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return value.tolist()
    return getattr(value, "__qualname__", repr(value))
