"""The posterior that each study writes comes back from netCDF as it was, everything in it named."""

from pathlib import Path
from typing import Any

import arviz as az
import pytest
import torch

from studies.__main__ import STUDIES
from studies.core.commands import load_study
from studies.core.run_folder import RunFolder
from studies.core.runner import run

WITHOUT = {"ood", "baselines", "split_digits"}  # these write no posterior
SETTINGS: dict[str, dict[str, Any]] = {
    "told_or_not": {"seeds": 2},
    "unsupervised_images": {"dataset": "digits"},
}


@pytest.mark.parametrize("name", [name for name in STUDIES if name not in WITHOUT])
def test_a_posterior_comes_back_as_it_was_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    written: list[az.InferenceData] = []
    write = RunFolder.write_posterior

    def recorded(self: RunFolder, data: az.InferenceData) -> None:
        written.append(data)
        write(self, data)

    monkeypatch.setattr(RunFolder, "write_posterior", recorded)
    study = load_study(STUDIES[name])
    run(study(study.config_type(**{"seeds": 1, **SETTINGS.get(name, {})}).fast()), tmp_path)
    (data,) = written
    found = az.from_netcdf(tmp_path / "posterior.nc")
    assert {"posterior", "task_probs", "constant_data"} <= set(data.groups())
    assert found.groups() == data.groups()
    for group in data.groups():
        assert found[group].identical(data[group]), group  # values, names, coordinates, attributes
        for variable_name, variable in found[group].data_vars.items():
            assert set(variable.coords) == set(variable.dims), (group, variable_name)
            made_up = [dim for dim in variable.dims if "_dim_" in str(dim)]
            assert not made_up, (group, variable_name)
    assert found.attrs == data.attrs
    assert found.attrs["study"] == name
    assert {"method", "settings", "passes_forward", "draws_seed"} <= set(found.attrs)


@pytest.mark.parametrize("name", sorted(WITHOUT))
def test_the_other_studies_write_none(name: str) -> None:
    study = load_study(STUDIES[name])
    assert study(study.config_type()).posterior({}) is None
