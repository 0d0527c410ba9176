"""One interface to ArviZ before and after 1.0."""

from importlib.metadata import version
from pathlib import Path

import arviz as az
import numpy as np
import pytest
import xarray as xr

from gbi_pyro._arviz import (
    groups_of,
    inference_data,
    makes_trees,
    read_inference_data,
    relative_efficiency,
)
from gbi_pyro.export import save_inference_data

SAMPLE = ("chain", "draw")
GROUPS = {
    "posterior": xr.Dataset({"shift": (SAMPLE, np.arange(6.0).reshape(2, 3))}),
    "task_probs": xr.Dataset({"z": (("trial", "z_task"), np.full((4, 2), 0.5))}),
}


def test_groups_come_back_by_name(tmp_path: Path) -> None:
    data = inference_data(GROUPS, {"method": "example"})
    assert makes_trees() == (version("arviz") >= "1")
    assert isinstance(data, xr.DataTree if makes_trees() else az.InferenceData)
    save_inference_data(data, tmp_path / "posterior.nc")
    for found in (data, read_inference_data(tmp_path / "posterior.nc")):
        groups = groups_of(found)
        assert groups.keys() == GROUPS.keys()
        assert all(isinstance(group, xr.Dataset) for group in groups.values())
        assert all(groups[name].equals(group) for name, group in GROUPS.items())
        assert found.attrs["method"] == "example"


@pytest.mark.skipif(not hasattr(xr, "DataTree"), reason="xarray before 2024.10 has no trees")
def test_a_tree_is_read_with_any_arviz() -> None:
    """Xarray has it before ArviZ uses it."""
    groups = groups_of(xr.DataTree.from_dict(GROUPS))
    assert groups.keys() == GROUPS.keys()
    assert groups["posterior"].identical(GROUPS["posterior"])


@pytest.mark.parametrize("data", [{}, GROUPS])
def test_nothing_given_is_changed(data: dict[str, xr.Dataset]) -> None:
    before = {name: group.copy(deep=True) for name, group in data.items()}
    found = inference_data(data, {})
    assert groups_of(found).keys() == data.keys()
    found.attrs["run"] = "mine"
    assert all(group.identical(before[name]) for name, group in data.items())


def test_effective_draws_of_independent_chains_are_the_draws() -> None:
    draws = np.random.default_rng(0).normal(size=(4, 1000))
    one, four, again = (
        inference_data({"posterior": xr.Dataset({"shift": (SAMPLE, values)})}, {})
        for values in (draws[:1], draws, draws.repeat(10, 1))
    )
    assert relative_efficiency(one) == 1.0
    assert relative_efficiency(four) == pytest.approx(1, abs=0.1)
    assert relative_efficiency(again) == pytest.approx(0.1, abs=0.02)  # each draw ten times
