"""What the tests of the studies share: runs that draw nothing, and the check of a posterior."""

from typing import Any

import arviz as az

from gbi_pyro._arviz import groups_of
from studies.core.protocol import Study
from studies.core.run_folder import POSTERIOR
from studies.core.runner import StudyResults


def without_figures(study: Study[Any]) -> Study[Any]:
    """Return the study with nothing to draw, which takes as long as all else of a tiny run."""
    study.figures = lambda _found: iter(())  # type: ignore[method-assign]
    return study


def check_posterior_file(
    study: Study[Any], results: StudyResults, *, known_tasks: bool = True
) -> None:
    """Assert that the posterior of a run comes back as it was written, everything in it named."""
    data = study.posterior(results.found)
    found = az.from_netcdf(results.folder / POSTERIOR)
    assert {"posterior", "task_probs"} <= groups_of(data).keys()
    assert ("constant_data" in groups_of(data)) == known_tasks
    assert groups_of(found).keys() == groups_of(data).keys()
    for group in groups_of(data):
        assert found[group].identical(data[group]), group  # values, names, coordinates, attributes
        for variable_name, variable in found[group].data_vars.items():
            assert set(variable.coords) == set(variable.dims), (group, variable_name)
            made_up = [dim for dim in variable.dims if "_dim_" in str(dim)]
            assert not made_up, (group, variable_name)
    run = found.attrs.pop("run")
    assert run in (results.folder / "config.json").read_text()
    assert found.attrs == data.attrs
    assert found.attrs["study"] == study.name
    assert {"method", "settings", "passes_forward", "draws_seed"} <= set(found.attrs)
