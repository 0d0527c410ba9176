"""Models fitted by MCMC or SVI in ArviZ: leave-one-out is that of tasks summed out by hand."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_versions import compare, from_arrays, loo
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoNormal, init_to_value
from pyro_models import TASK
from torch import Tensor

from gbi_pyro import to_inference_data
from gbi_pyro._arviz import groups_of, makes_trees
from gbi_pyro.export import GivenDraws, save_inference_data

# Few draws: ArviZ then warns from a lower k-hat on than the bar.
pytestmark = pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")
GOOD_K_HAT = 0.7  # above it the importance weights of leave-one-out have no usable variance
Model = Callable[[Tensor], None]


def mixture(K: int, plated: bool = True) -> Model:
    """K Gaussians with unknown weights, means and common scale.

    With the means in a plate the model does not broadcast over draws; with an event it does.
    """

    def model(x: Tensor) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(2 * x.new_ones(K)))
        scale = pyro.sample("scale", dist.LogNormal(x.new_tensor(-0.5), 0.5))
        prior = dist.Normal(x.new_tensor(0.0), 2.0)
        if plated:
            with pyro.plate("component", K):
                means = pyro.sample("means", prior)
        else:
            means = pyro.sample("means", prior.expand([K]).to_event(1))
        with pyro.plate("trial", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(weights), infer=TASK)
            pyro.sample("x", dist.Normal((z * means).sum(-1), scale), obs=x)

    return model


def sample_mixture(K: int, n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randint(K, (n,), generator=generator)
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    return torch.linspace(-2, 2, K, dtype=torch.float64)[z] + 0.5 * noise, z


def likely(K: int, x: Tensor) -> dict[str, Tensor]:
    """A start with the components apart: K equal means would be a saddle point."""
    quantiles = (torch.arange(K, dtype=x.dtype) + 0.5) / K
    return {
        "weights": x.new_ones(K) / K,
        "means": x.quantile(quantiles),
        "scale": x.new_tensor(0.5),
    }


def fit(K: int, x: Tensor, seed: int, warmup: int, draws: int) -> MCMC:
    """NUTS on everything but the tasks, which Pyro enumerates out; from a likely start.

    With the metric of the whole covariance three leapfrog steps are trajectory enough.
    """
    pyro.set_rng_seed(seed)
    start = init_to_value(values=likely(K, x))
    kernel = NUTS(mixture(K), max_tree_depth=2, full_mass=True, init_strategy=start)
    mcmc = MCMC(kernel, draws, warmup, disable_progbar=True)
    mcmc.run(x)
    return mcmc


def summed_by_hand(x: Tensor, draws: dict[str, Tensor]) -> np.ndarray:
    """log sum_k w_k Normal(x_i; mu_k, sigma), (1, S, N)."""
    scale, means, weights = draws["scale"][:, None, None], draws["means"], draws["weights"]
    parts = -0.5 * ((x[:, None] - means[:, None]) / scale) ** 2 - scale.log()
    parts = parts - 0.5 * np.log(2 * np.pi) + weights.log()[:, None]
    return parts.logsumexp(-1)[None].numpy()


def check_leave_one_out(K: int, x: Tensor, mcmc: MCMC) -> float:
    """Return the largest k-hat."""
    given, model = GivenDraws(mcmc, chunk_size=50), mixture(K, plated=False)
    data, again = (to_inference_data(given, model, (x,)) for _ in range(2))
    for group in groups_of(data):
        assert data[group].identical(again[group]), group
    draws = mcmc.get_samples()
    by_hand = from_arrays(
        posterior={"scale": draws["scale"][None].numpy()},
        log_likelihood={"x": summed_by_hand(x, draws)},
    )
    found, expected = loo(data), loo(by_hand)
    assert found.elpd == pytest.approx(expected.elpd, abs=0.01)
    np.testing.assert_allclose(found.elpd_i, expected.elpd_i, atol=1e-6)
    return float(found.k_hat.max())


@pytest.fixture(scope="module")
def fitted() -> tuple[Tensor, Tensor, MCMC]:
    x, z = sample_mixture(2, 40, seed=0)
    return x, z, fit(2, x, seed=0, warmup=20, draws=60)


def test_leave_one_out_is_that_of_tasks_summed_by_hand(fitted: tuple[Tensor, Tensor, MCMC]) -> None:
    x, _, mcmc = fitted
    check_leave_one_out(2, x, mcmc)
    one_by_one = to_inference_data(mcmc, mixture(2), (x,)).log_likelihood["x"]
    np.testing.assert_allclose(one_by_one, summed_by_hand(x, mcmc.get_samples()), atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("K", [2, 3])
def test_no_observation_is_too_influential_to_be_left_out(K: int, seed: int) -> None:
    x, _ = sample_mixture(K, 150, seed)
    mcmc = fit(K, x, seed, warmup=80, draws=200)
    assert check_leave_one_out(K, x, mcmc) <= GOOD_K_HAT


def test_every_group_has_the_dimensions_of_the_schema(fitted: tuple[Tensor, Tensor, MCMC]) -> None:
    x, z, mcmc = fitted
    names = {"z": ["low", "high"]}
    data = to_inference_data(mcmc, mixture(2), (x,), labels={"z": z}, task_names=names)
    sample, trial = {"chain": 1, "draw": 60}, {"trial": 40}
    expected = {
        "posterior": {
            "weights": {**sample, "weights_dim_0": 2},
            "scale": sample,
            "means": {**sample, "component": 2},
            "z": {**sample, **trial},
        },
        "sample_stats": {"diverging": sample},
        "task_probs": {"z": {**trial, "z_task": 2}},
        "task_probs_by_draw": {"z": {**sample, **trial, "z_task": 2}},
        "log_likelihood": {"x": {**sample, **trial}},
        "posterior_predictive": {"x": {**sample, **trial}},
        "observed_data": {"x": trial},
        "constant_data": {"z": trial},
    }
    assert groups_of(data).keys() == set(expected)
    for group, variables in expected.items():
        assert {n: dict(v.sizes) for n, v in data[group].data_vars.items()} == variables
        for name, sizes in variables.items():
            assert set(data[group][name].coords) == set(sizes), (group, name)
    draws = mcmc.get_samples(group_by_chain=True)
    for name, value in draws.items():
        np.testing.assert_array_equal(data.posterior[name], value)
    by_draw = data.task_probs_by_draw["z"]
    np.testing.assert_allclose(by_draw.mean(("chain", "draw")), data.task_probs["z"], atol=1e-12)
    np.testing.assert_array_equal(data.observed_data["x"], x)
    assert data.task_probs["z_task"].values.tolist() == ["low", "high"]
    assert data.attrs["method"] == "enumeration, averaged over draws"
    assert data.attrs["passes_forward"] == 60 * 2


def test_tasks_are_drawn_from_their_posterior_at_each_draw() -> None:
    def model(x: Tensor) -> None:
        shift = pyro.sample("shift", dist.Normal(x.new_tensor(0.0), 1.0))
        with pyro.plate("trial", len(x)):
            prior = dist.OneHotCategorical(x.new_tensor([0.3, 0.7]))
            z = pyro.sample("z", prior, infer=TASK)
            pyro.sample("x", dist.Normal(shift + z[..., 1], 0.7), obs=x)

    S, x = 4000, torch.tensor([-0.5, 0.1, 0.9]).double()
    shift = torch.randn(S, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given = GivenDraws({"shift": shift}, chunk_size=1000)
    data = to_inference_data(given, model, (x,))
    p = data.task_probs["z"].sel(z_task=1).values
    frequency = data.posterior["z"].mean(("chain", "draw")).values
    assert (np.abs(frequency - p) <= 5 * np.sqrt(p * (1 - p) / S)).all()
    # Each follows its own draw: tasks are surer where the shift is known than on average.
    by_draw = data.task_probs_by_draw["z"].sel(z_task=1).values
    drawn = data.posterior["z"].values
    log_score = np.log(np.where(drawn == 1, by_draw, 1 - by_draw)).mean((0, 1))
    assert (log_score > np.log(np.where(drawn == 1, p, 1 - p)).mean((0, 1))).all()
    assert "sample_stats" not in groups_of(data)


def in_two_chains(mcmc: MCMC) -> MCMC:
    """Read one run as two chains of half the length, the third draw of the second divergent."""
    half = copy.copy(mcmc)
    half._samples = {n: v.unflatten(1, (2, -1))[0] for n, v in mcmc._samples.items()}
    half.num_chains, half._diagnostics = 2, [{"divergences": []}, {"divergences": [2]}]
    return half


def test_variational_draws_are_handed_over_like_those_of_a_chain() -> None:
    model, S = mixture(2), 150
    x, z = sample_mixture(2, 150, seed=0)
    pyro.set_rng_seed(0)
    start = init_to_value(values=likely(2, x))
    guide = AutoNormal(poutine.block(model, hide=["z"]), init_loc_fn=start)
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    svi = SVI(config_enumerate(model), guide, pyro.optim.Adam({"lr": 0.05}), elbo)
    for _ in range(100):
        svi.step(x)
    of_guide = Predictive(guide, num_samples=S)(x)
    # Of the model there are also tasks from their prior, and data: both must count for nothing.
    of_model = Predictive(model, guide=guide, num_samples=S)(x)
    assert {"z", "x"} <= set(of_model)
    for drawn in (of_guide, of_model):
        data = to_inference_data(drawn, model, (x,), labels={"z": z}, dims={"weights": ["task"]})
        shapes = {"weights": (2,), "means": (2,), "scale": ()}
        values = {name: drawn[name].reshape(S, *shape) for name, shape in shapes.items()}
        by_hand = summed_by_hand(x, values)
        np.testing.assert_allclose(data.log_likelihood["x"], by_hand, atol=1e-6)
        assert set(data.posterior.data_vars) == {*shapes, "z"}
        assert data.posterior["weights"].dims == ("chain", "draw", "task")
        assert data.posterior_predictive["x"].dims == ("chain", "draw", "trial")
        assert loo(data).k_hat.max() <= GOOD_K_HAT
        # It was fitted, and keeps the numbering of its start.
        found = data.task_probs["z"].values.argmax(-1) == data.constant_data["z"].values
        assert found.mean() > 0.95


def test_chains_stay_chains(fitted: tuple[Tensor, Tensor, MCMC]) -> None:
    x, _, mcmc = fitted
    one = to_inference_data(mcmc, mixture(2), (x,))
    two = to_inference_data(in_two_chains(mcmc), mixture(2), (x,))
    assert dict(two.log_likelihood.sizes) == {"chain": 2, "draw": 30, "trial": 40}
    for group, name in (
        ("log_likelihood", "x"),
        ("posterior", "means"),
        ("posterior_predictive", "x"),
    ):
        a, b = one[group][name].values, two[group][name].values
        np.testing.assert_array_equal(a[0, 30:], b[1])
    np.testing.assert_allclose(one.task_probs["z"], two.task_probs["z"], atol=1e-12)
    diverging = two.sample_stats["diverging"].values
    assert diverging[1, 2]
    assert diverging.sum() == 1
    assert loo(one).elpd == pytest.approx(loo(two).elpd, abs=0.5)


def test_netcdf_brings_back_everything(fitted: tuple[Tensor, Tensor, MCMC], tmp_path: Path) -> None:
    x, z, mcmc = fitted
    names = {"z": ["low", "high"]}
    data = to_inference_data(mcmc, mixture(2), (x,), labels={"z": z}, task_names=names)
    save_inference_data(data, tmp_path / "mcmc.nc")
    found = az.from_netcdf(tmp_path / "mcmc.nc")
    assert groups_of(found).keys() == groups_of(data).keys()
    for group in groups_of(data):
        assert found[group].identical(data[group]), group
    assert found.attrs == data.attrs


# ArviZ 0.23 calls matplotlib 3.11 and pandas 3 in ways that later ones will refuse.
@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame")
@pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping")
def test_arviz_reads_compares_and_plots_it(fitted: tuple[Tensor, Tensor, MCMC]) -> None:
    x, _, mcmc = fitted
    # Both means equal: no task.
    same = {n: v.clone() for n, v in mcmc.get_samples().items()}
    same["means"] = x.mean() + 0 * same["means"]
    same["scale"] = x.std() * (1 + 0.1 * torch.randn(60, generator=torch.Generator()).double())
    data = {
        "two tasks": to_inference_data(mcmc, mixture(2), (x,)),
        "one": to_inference_data(same, mixture(2), (x,)),
    }
    table = compare(data)
    assert next(iter(table)) == "two tasks"
    assert table["one"].value < -5
    assert set(az.summary(data["two tasks"], var_names=["means"]).index) == {
        "means[0]",
        "means[1]",
    }
    plt.switch_backend("Agg")
    two = data["two tasks"]
    az.plot_trace(two, var_names=["means"])
    az.plot_forest(two, var_names=["scale"])
    az.plot_khat(loo(two).raw)
    if makes_trees():  # the log likelihood is called like the data, which are all there is
        az.plot_dist(two, var_names=["means", "scale"])
        az.plot_ppc_dist(two, num_samples=10)
        az.plot_loo_pit(two)
    else:
        az.plot_posterior(two, var_names=["means", "scale"])
        az.plot_ppc(two, num_pp_samples=10, random_seed=0)
        az.plot_loo_pit(two, y="x")
    plt.close("all")


def test_the_model_says_what_data_are_and_more_may_be_given(
    fitted: tuple[Tensor, Tensor, MCMC],
) -> None:
    x, _, mcmc = fitted
    data = to_inference_data(
        mcmc,
        mixture(2),
        (x,),
        observed={"age": torch.arange(40)},
        predictions={"x": torch.zeros(60, 40)},
        dims={"means": ["which"], "age": ["trial"]},
        generator=torch.Generator().manual_seed(5),
        attributes={"study": "mine"},
    )
    assert set(data.observed_data.data_vars) == {"x", "age"}
    assert data.observed_data["age"].dims == ("trial",)
    assert data.posterior["means"].dims == ("chain", "draw", "which")
    assert not data.posterior_predictive["x"].values.any()
    assert (data.attrs["draws_seed"], data.attrs["study"]) == (5, "mine")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": None}, "model should be the Pyro model"),
        ({"num_draws": 5}, "num_draws should be left out: only a task posterior or a"),
        ({"log_evidence": torch.zeros(2, 3)}, "log_evidence should be left out"),
        ({"predictions": {"x": torch.zeros(3, 3)}}, r"predictions\['x'\] should have 2 draws"),
        ({"task_names": {"z": ["a"]}}, "should be 2 different names"),
        ({"labels": {"z": torch.zeros(2).long()}}, r"shape \(3,\).*got \(2,\)"),
        ({"dims": {"x": ["a", "b"]}}, r"dims\['x'\] should name 1"),
        ({"dims": {"x": ["draw"]}}, "should not be called draw"),
    ],
)
def test_invalid_options_are_named(options: dict[str, Any], message: str) -> None:
    x = torch.zeros(3).double()
    draws = {
        "weights": torch.full((2, 2), 0.5),
        "means": torch.zeros(2, 2),
        "scale": torch.ones(2),
    }
    with pytest.raises(ValueError, match=message):
        to_inference_data(GivenDraws(draws), **{"model": mixture(2), "args": (x,), **options})
