"""No variable of an export is lost to a name, and each coordinate says which element it is."""

from pathlib import Path
from typing import Any

import arviz as az
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from gbi_pyro import Enumeration
from gbi_pyro._arviz import groups_of
from gbi_pyro.export import save_inference_data, to_inference_data

MEANS = torch.tensor([0.2, 0.8])
X = torch.tensor([0.1, 0.9, 0.4])


def mixture(
    x: Tensor, plate: str = "trial", site: str = "z", data: str = "x", **options: Any
) -> None:
    with pyro.plate(plate, options.pop("size", len(x)), **options):
        prior = dist.OneHotCategorical(torch.tensor([0.3, 0.7]))
        z = pyro.sample(site, prior, infer={"task": True})
        pyro.sample(data, dist.Normal(z @ MEANS, 0.3), obs=x)


def exported(*args: Any, observed: dict[str, Tensor] | None = None, **kwargs: Any) -> Any:
    posterior = Enumeration()(mixture, X, *args, **kwargs)
    site = posterior.site_name()
    return to_inference_data(
        posterior,
        observed={"x": X} if observed is None else observed,
        labels={site: torch.tensor([0, 1, 0])},
        exact=posterior,
        predictions={"x": X.expand(4, 3)},
        num_draws=4,
    )


GROUPS = {
    "posterior": ["z"],
    "task_probs": ["z"],
    "exact_task_probs": ["z"],
    "log_likelihood": ["x"],
    "posterior_predictive": ["x"],
    "observed_data": ["x"],
    "constant_data": ["z"],
}


@pytest.mark.parametrize("plate", ["x", "z", "log_evidence", "trial"])
def test_a_plate_called_like_a_site_loses_nothing(plate: str, tmp_path: Path) -> None:
    data = exported(plate)
    dim = "trial" if plate == "trial" else f"{plate}_dim"
    save_inference_data(data, tmp_path / "posterior.nc")
    for found in (data, az.from_netcdf(tmp_path / "posterior.nc")):
        assert {g: list(found[g].data_vars) for g in groups_of(found)} == GROUPS
        for group in groups_of(found):
            for variable in found[group].data_vars.values():
                assert dim in variable.dims
                assert variable[dim].values.tolist() == [0, 1, 2]
        torch.testing.assert_close(torch.tensor(found.observed_data["x"].values), X)


def test_draws_of_other_sites_may_be_called_like_plates() -> None:
    def model(x: Tensor) -> None:
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("trial", 30, subsample=torch.tensor([3, 10, 20])):
            prior = dist.OneHotCategorical(torch.tensor([0.3, 0.7]))
            z = pyro.sample("z", prior, infer={"task": True})
            pyro.sample("x", dist.Normal(shift + z @ MEANS, 0.3), obs=x)

    draws = {"shift": torch.tensor([0.0, 0.1])}
    extra = {"trial": torch.zeros(3)}
    data = to_inference_data(draws, model, (X,), observed=extra)
    assert sorted(data.observed_data.data_vars) == ["trial", "x"]
    assert data.posterior["z"].dims == ("chain", "draw", "trial_dim")
    assert sorted(data.posterior.data_vars) == ["shift", "z"]
    assert data.log_likelihood["trial_dim"].values.tolist() == [3, 10, 20]
    assert data.task_probs_by_draw["z_task"].values.tolist() == [0, 1]


@pytest.mark.parametrize("indices", [[3, 10, 20], [2, 0, 1], [0, 1, 2]])
@pytest.mark.parametrize("handed_over", [False, True], ids=["", "with its model"])
def test_a_subsample_is_labelled_by_its_indices(indices: list[int], handed_over: bool) -> None:
    size = max(indices) + 1

    def model(x: Tensor) -> None:
        mixture(x, size=size, subsample=torch.tensor(indices))

    given = {"model": model, "args": (X,)} if handed_over else {"observed": {"x": X}}
    data = to_inference_data(Enumeration()(model, X), num_draws=4, **given)
    assert "observed_data" in groups_of(data)
    for group in groups_of(data):
        assert data[group]["trial"].values.tolist() == indices
    later = torch.tensor(indices).argmax()  # the element is found by its own number
    torch.testing.assert_close(
        torch.tensor(data.observed_data["x"].sel(trial=max(indices)).item()), X[later]
    )


def test_data_in_a_subsampled_plate_of_their_own_are_labelled() -> None:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.OneHotCategorical(torch.tensor([0.3, 0.7])), infer={"task": True})
        with pyro.plate("trial", 30, subsample=torch.tensor([3, 10, 20])):
            pyro.sample("x", dist.Normal((z * MEANS).sum(-1), 0.3), obs=x)

    data = to_inference_data(Enumeration()(model, X), model, (X,), num_draws=4)
    for group in ("observed_data", "posterior_predictive"):
        assert data[group]["trial"].values.tolist() == [3, 10, 20]


def test_a_slash_becomes_a_dot_and_can_be_written(tmp_path: Path) -> None:
    data = exported("day/trial", "net/z", observed={"net/x": X})
    path = tmp_path / "posterior.nc"
    save_inference_data(data, path)
    for found in (data, az.from_netcdf(path)):
        assert found.task_probs["net.z"].dims == ("day.trial", "net.z_task")
        assert found.posterior["net.z"].dims == ("chain", "draw", "day.trial")
        assert list(found.observed_data.data_vars) == ["net.x"]


@pytest.mark.parametrize(
    ("names", "observed", "message"),
    [
        (("trial", "a/z"), {"a.z": X}, r"site 'a.z' and site 'a/z'.*'a.z'"),
        (("z",), {"z_dim": X}, r"dimension 'z' and site 'z_dim'.*'z_dim'"),
        (("z_task",), {"x": X}, r"dimension 'z_task'.*'z_task'"),
        (("draw",), {"x": X}, "plate should not be called draw"),
        (("trial", "chain"), {"x": X}, "site should not be called chain"),
        (("trial",), {"draw": X}, "site should not be called draw"),
    ],
)
def test_names_that_would_become_one_are_refused(
    names: tuple[str, ...], observed: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        exported(*names, observed=observed)
