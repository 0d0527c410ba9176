"""What ArviZ before and after 1.0 do differently: the only module that imports it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    import arviz as az
    import xarray as xr

    InferenceData: TypeAlias = az.InferenceData | xr.DataTree

# ArviZ takes 1.5 s to load: each function imports it by itself, so that only its users pay.


def makes_trees() -> bool:
    """Whether ArviZ keeps groups in ``xarray.DataTree``, as it does from 1.0 on.

    Before, they were kept in a class of its own, ``InferenceData``.
    """
    return int(version("arviz").split(".")[0]) >= 1


def inference_data(groups: Mapping[str, xr.Dataset], attrs: Mapping[str, object]) -> InferenceData:
    """Put groups, by name, into what the installed ArviZ reads."""
    if makes_trees():
        import xarray as xr

        tree = xr.DataTree.from_dict(dict(groups))
        tree.attrs.update(attrs)
        return tree
    import arviz as az

    # ``task_probs`` is no group of ArviZ's schema.
    return az.InferenceData(attrs=dict(attrs), warn_on_custom_groups=False, **groups)


def read_inference_data(path: Path) -> InferenceData:
    """Open a netCDF file, of either version of ArviZ; numbers are read when they are needed."""
    import arviz as az

    return az.from_netcdf(path)


def groups_of(data: InferenceData) -> dict[str, xr.Dataset]:
    """Return the groups by name.

    ``InferenceData.groups()`` is a method that returns names, ``DataTree.groups`` a property with
    paths.
    """
    either: Any = data
    if hasattr(data, "children"):
        return {name: node.to_dataset() for name, node in either.children.items()}
    return {name: either[name] for name in either.groups()}


def relative_efficiency(data: InferenceData) -> float:
    """Return effective draws / draws of the posterior, 1 for a single chain, as ``az.loo`` does."""
    posterior = groups_of(data)["posterior"]
    if posterior.sizes["chain"] == 1:
        return 1.0
    import arviz as az

    sizes = az.ess(posterior, method="mean")
    each = np.concatenate([np.ravel(sizes[name]) for name in posterior.data_vars])
    return float(each.mean()) / (posterior.sizes["chain"] * posterior.sizes["draw"])
