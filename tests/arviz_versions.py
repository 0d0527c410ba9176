"""ArviZ as tests call it, before and after 1.0: names, signs and rounding of its results differ."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import arviz as az
import numpy as np
import xarray as xr

from gbi_pyro._arviz import inference_data, makes_trees


class Loo(NamedTuple):
    """What ``az.loo`` returns.

    Attributes:
        elpd: the sum of the scores.
        p: the effective number of parameters.
        elpd_i: the score of each element.
        k_hat: likewise Pareto's k-hat.
        raw: ArviZ's own object.
    """

    elpd: float
    p: float
    elpd_i: np.ndarray
    k_hat: np.ndarray
    raw: Any


def loo(data: Any) -> Loo:
    found = az.loo(data, pointwise=True)
    names = ("elpd", "p", "elpd_i") if makes_trees() else ("elpd_loo", "p_loo", "loo_i")
    elpd, p, each = (getattr(found, name) for name in names)
    return Loo(float(elpd), float(p), each.values, found.pareto_k.values, found)


class Difference(NamedTuple):
    """The score of a model less that of the best one, and its standard error."""

    value: float
    error: float


def compare(data: Mapping[str, Any]) -> dict[str, Difference]:
    """Call ``az.compare``: the best model comes first, and differences are not above 0."""
    if makes_trees():
        table, sign = az.compare(dict(data), round_to="none"), 1
    else:
        table, sign = az.compare(dict(data)), -1
    return {name: Difference(sign * row["elpd_diff"], row["dse"]) for name, row in table.iterrows()}


def psislw(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return smoothed log weights and k-hat; ArviZ 1.x takes log likelihoods, of the other sign."""
    if makes_trees():
        from arviz_stats.base import array_stats

        return array_stats.psislw(-log_weights)
    return az.psislw(log_weights)


def from_arrays(**groups: Mapping[str, np.ndarray]) -> Any:
    """Return ArviZ's data of arrays ``(chains, draws, ...)``."""
    return inference_data(
        {
            group: xr.Dataset(
                {
                    name: (("chain", "draw", *(f"{name}_{i}" for i in range(a.ndim - 2))), a)
                    for name, a in variables.items()
                }
            )
            for group, variables in groups.items()
        },
        {},
    )
