import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_versions import loo
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor

from gbi_pyro import (
    BayesFilter,
    Enumeration,
    IterativeGradient,
    OneStepGradient,
    OnlineEM,
    TaskChain,
    TaskSiteError,
    hmm_posterior,
)
from gbi_pyro._arviz import groups_of, inference_data, makes_trees
from gbi_pyro.data import SwitchingStream
from gbi_pyro.export import save_inference_data, to_inference_data
from gbi_pyro.metrics import Score, leave_one_out
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.sites import Plate, TaskSite

MEANS = torch.tensor([0.2, 0.8])
NAMES = {"z": ["low", "high"]}


def per_step(x: Tensor) -> None:
    B, T = x.shape
    with pyro.plate("sequence", B, dim=-2), pyro.plate("time", T, dim=-1):
        prior = dist.OneHotCategorical(torch.tensor([0.3, 0.7]))
        z = pyro.sample("z", prior, infer={"task": True})
        pyro.sample("x", dist.Normal(z @ MEANS, 0.3), obs=x)


def two_sites(x: Tensor) -> None:
    B, T = x.shape
    half = dist.OneHotCategorical(torch.tensor([0.5, 0.5]))
    with pyro.plate("sequence", B, dim=-2):
        context = pyro.sample("context", half, infer={"task": True})
        with pyro.plate("time", T, dim=-1):
            z = pyro.sample("z", half, infer={"task": True})
            pyro.sample("x", dist.Normal(z @ MEANS + context @ MEANS, 0.3), obs=x)


def no_plate(x: Tensor) -> None:
    prior = dist.OneHotCategorical(torch.tensor([0.5, 0.5]))
    z = pyro.sample("z", prior, infer={"task": True})
    pyro.sample("x", dist.Normal(z @ MEANS, 0.3), obs=x)


@pytest.fixture
def stream(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x, z = SwitchingStream(sigma=0.3).sample(3, 7, generator)
    return x, z


def full(x: Tensor, z: Tensor, **settings: Any) -> Any:
    options: dict[str, Any] = {
        "observed": {"x": x},
        "labels": {"z": z},
        "exact": Enumeration()(per_step, x),
        "predictions": {"x": x + torch.zeros(4, 1, 1)},
        "task_names": NAMES,
        "log_evidence": Enumeration()(per_step, x).log_evidence.expand(5, -1, -1),
        "attributes": {"seed": 3, "flag": True, "nothing": None, "config": {"K": 2, "mu": [0.2]}},
    }
    return to_inference_data(OneStepGradient()(per_step, x), **{**options, **settings})


def test_every_group_has_the_dimensions_and_values_of_the_schema(
    stream: tuple[Tensor, Tensor],
) -> None:
    x, z = stream
    data = full(x, z)
    elements = {"sequence": 3, "time": 7}
    expected = {
        "posterior": {"chain": 1, "draw": 100, **elements},
        "task_probs": {**elements, "z_task": 2},
        "exact_task_probs": {**elements, "z_task": 2},
        "log_likelihood": {"chain": 1, "draw": 5, **elements},
        "posterior_predictive": {"chain": 1, "draw": 4, **elements},
        "observed_data": elements,
        "constant_data": elements,
    }
    assert groups_of(data).keys() == set(expected)
    for group, sizes in expected.items():
        (variable,) = data[group].data_vars.values()
        assert dict(variable.sizes) == sizes, group
        assert set(variable.coords) == set(sizes), group
    estimate, exact = OneStepGradient()(per_step, x), Enumeration()(per_step, x)
    np.testing.assert_array_equal(data.task_probs["z"], estimate.probs())
    np.testing.assert_array_equal(data.exact_task_probs["z"], exact.probs())
    np.testing.assert_array_equal(data.observed_data["x"], x)
    np.testing.assert_array_equal(data.constant_data["z"], z)
    np.testing.assert_array_equal(
        data.task_probs["z"].sel(z_task="high", sequence=1, time=2), estimate.probs()[1, 2, 1]
    )


def test_log_likelihood_is_marginal_over_tasks(stream: tuple[Tensor, Tensor]) -> None:
    x, _ = stream
    data = to_inference_data(Enumeration()(per_step, x), num_draws=6)
    mixture = torch.logsumexp(
        torch.tensor([0.3, 0.7]).log() + dist.Normal(MEANS, 0.3).log_prob(x[..., None]), -1
    )
    found = data.log_likelihood["log_evidence"]
    assert found.dims == ("chain", "draw", "sequence", "time")
    np.testing.assert_allclose(found, mixture.expand(1, 6, 3, 7), rtol=1e-5, atol=1e-5)
    # One step does not know it, and the exact posterior beside it may be that of another model.
    estimate, exact = OneStepGradient()(per_step, x), Enumeration()(per_step, x)
    assert "log_likelihood" not in groups_of(to_inference_data(estimate, exact=exact))


@pytest.mark.parametrize("infer", [IterativeGradient(num_steps=3), OneStepGradient(order=2)])
def test_any_inference_is_handed_over(stream: tuple[Tensor, Tensor], infer: Any) -> None:
    x, z = stream
    result = infer(per_step, x)
    data = to_inference_data(result, labels={"z": z}, exact=Enumeration()(per_step, x))
    np.testing.assert_array_equal(data.task_probs["z"], result.probs())
    assert data.attrs["method"] == result.method
    assert data.attrs["passes_forward"] == result.passes.forward


def test_the_exact_chain_is_handed_over_smoothed_and_filtered(
    stream: tuple[Tensor, Tensor],
) -> None:
    x, z = stream
    toy = SwitchingStream(sigma=0.3)
    chain = hmm_posterior(toy.log_initial, toy.log_transition, toy.log_emission(x))
    data = to_inference_data(chain, observed={"x": x}, labels={"z": z}, task_names=NAMES)
    assert data.task_probs["z"].dims == ("sequence", "time", "z_task")
    np.testing.assert_array_equal(data.task_probs["z"], chain.log_smoothed.exp())
    np.testing.assert_array_equal(data.filtered_task_probs["z"], chain.log_filtered.exp())
    assert data.observed_data["x"].dims == ("sequence", "time")
    evidence = data.log_likelihood["x"]
    assert evidence.dims == ("chain", "draw", "sequence")
    np.testing.assert_array_equal(evidence[0, 0], chain.log_evidence)
    assert data.attrs["method"] == "exact chain, smoothed"
    alone = hmm_posterior(toy.log_initial, toy.log_transition, toy.log_emission(x[0]))
    assert to_inference_data(alone).task_probs["z"].dims == ("time", "z_task")


def test_a_stream_learned_online_is_handed_over(stream: tuple[Tensor, Tensor]) -> None:
    x, z = (part[0] for part in stream)
    means = torch.nn.Parameter(torch.tensor([0.1, 0.5, 0.9]))

    def one_step(x: Tensor) -> None:
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(3)), infer={"task": True})
        pyro.sample("x", dist.Normal(z @ means, 0.2), obs=x)

    optimiser = torch.optim.SGD([means], lr=1e-3)
    run = OnlineEM(one_step, optimiser, TaskChain.sticky(3, 0.1)).run(x)
    data = to_inference_data(run, observed={"x": x}, labels={"z": z})
    assert data.task_probs["z"].dims == ("time", "z_task")
    np.testing.assert_allclose(data.task_probs["z"], run.filtered)
    assert data.log_likelihood["x"].dims == ("chain", "draw", "time")
    np.testing.assert_allclose(data.log_likelihood["x"][0, 0], run.log_prob)


def test_data_are_read_from_the_model_and_drawn_anew_under_its_tasks() -> None:
    def clear(x: Tensor) -> None:  # an observation of several words, hardly any noise
        with pyro.plate("text", len(x), dim=-2):
            prior = dist.OneHotCategorical(torch.tensor([0.5, 0.5]))
            z = pyro.sample("z", prior.expand([len(x), 1]), infer={"task": True})
            with pyro.plate("word", x.shape[1], dim=-1):
                pyro.sample("x", dist.Normal(z @ MEANS, 1.0), obs=x)

    x, S = torch.tensor([[0.2, 0.1, 0.3], [2.0, 2.5, 0.8]]), 3000
    result = Enumeration()(clear, x)
    before = torch.get_rng_state()
    data = to_inference_data(result, clear, (x,), num_draws=S)
    assert torch.equal(torch.get_rng_state(), before)
    assert data.observed_data["x"].dims == ("text", "word")
    np.testing.assert_array_equal(data.observed_data["x"], x)
    drawn, tasks = data.posterior_predictive["x"], data.posterior["z"]
    assert drawn.dims == ("chain", "draw", "text", "word")
    # Each draw follows its own tasks: noise is what is left. Five standard errors.
    noise = drawn.values - MEANS.numpy()[tasks.values][..., None]
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert abs(noise.std() - 1) < 5 / np.sqrt(2 * noise.size)
    expected = (result.probs() @ MEANS).numpy()
    error = 5 * np.sqrt((1 + 0.6**2 / 4) / S)
    np.testing.assert_allclose(drawn.mean(("chain", "draw")), expected.repeat(3, 1), atol=error)
    again = to_inference_data(result, clear, (x,), num_draws=S)
    assert again.posterior_predictive.identical(data.posterior_predictive)
    data = to_inference_data(result, clear, (x,), num_draws=0)
    assert "posterior_predictive" not in groups_of(data)


def test_the_model_of_a_posterior_is_the_one_it_is_of(stream: tuple[Tensor, Tensor]) -> None:
    x, _ = stream
    result = OneStepGradient()(per_step, x)
    with pytest.raises(TaskSiteError, match=r"'z' of shape \(3, 7, 2\).*got \(2, 7, 2\)"):
        to_inference_data(result, per_step, (x[:2],))
    with pytest.raises(TaskSiteError, match=r"'z' of shape .* got none"):
        to_inference_data(result, lambda x: pyro.sample("y", dist.Normal(0.0, 1.0)), (x,))
    with pytest.raises(ValueError, match="args should come with their model"):
        to_inference_data(result, args=(x,))


def test_a_result_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError, match=r"result should be a TaskPosterior.*got SVI.*Predictive"):
        to_inference_data(SVI(per_step, per_step, pyro.optim.Adam({}), Trace_ELBO()))  # type: ignore[arg-type]


def test_a_chain_has_one_evidence_per_sequence(stream: tuple[Tensor, Tensor]) -> None:
    x, _ = stream
    toy = SwitchingStream(sigma=0.3)
    result = BayesFilter(Enumeration(), TaskChain(toy.log_initial, toy.log_transition))(per_step, x)
    found = to_inference_data(result).log_likelihood["log_evidence"]
    assert found.dims == ("chain", "draw", "sequence")
    np.testing.assert_array_equal(found[0, 0], result.log_evidence)


def test_draws_have_the_frequencies_of_the_probabilities(stream: tuple[Tensor, Tensor]) -> None:
    x, _ = stream
    n = 4000
    data = to_inference_data(OneStepGradient()(per_step, x), num_draws=n)
    p = data.task_probs["z"].sel(z_task=1).values.astype(float)
    frequency = data.posterior["z"].mean(("chain", "draw")).values
    # Five standard errors, and one draw for probabilities where they tell little.
    assert (np.abs(frequency - p) <= 5 * np.sqrt(p * (1 - p) / n) + 1 / n).all()


def test_draws_follow_the_generator(stream: tuple[Tensor, Tensor]) -> None:
    x, _ = stream
    result = OneStepGradient()(per_step, x)
    before = torch.get_rng_state()
    first, again = to_inference_data(result), to_inference_data(result)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.posterior.identical(again.posterior)
    assert first.attrs["draws_seed"] == 0
    other = to_inference_data(result, generator=torch.Generator().manual_seed(7))
    assert other.attrs["draws_seed"] == 7
    assert not other.posterior.identical(first.posterior)
    assert "posterior" not in groups_of(to_inference_data(result, num_draws=0))


def test_netcdf_brings_back_everything(stream: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    data = full(*stream)
    save_inference_data(data, tmp_path / "new" / "posterior.nc")
    found = az.from_netcdf(tmp_path / "new" / "posterior.nc")
    assert groups_of(found).keys() == groups_of(data).keys()
    for group in groups_of(data):
        assert found[group].identical(data[group]), group
    assert found.attrs == data.attrs
    assert json.loads(found.attrs["settings"]) == OneStepGradient()(per_step, stream[0]).settings
    assert json.loads(found.attrs["config"]) == {"K": 2, "mu": [0.2]}
    assert (found.attrs["seed"], found.attrs["flag"], found.attrs["nothing"]) == (3, "true", "null")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["posterior.nc"]


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(self: Path, content: bytes) -> None:
        self.write_text("half")
        raise KeyboardInterrupt

    path = tmp_path / "posterior.nc"
    path.write_text("old")
    monkeypatch.setattr(Path, "write_bytes", stopped)
    with pytest.raises(KeyboardInterrupt):
        save_inference_data(inference_data({}, {}), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_provenance(stream: tuple[Tensor, Tensor]) -> None:
    result = OneStepGradient()(per_step, stream[0])
    attrs = to_inference_data(result).attrs
    assert attrs["method"] == result.method == "one step"
    assert (attrs["passes_forward"], attrs["passes_backward"]) == (1, 1)
    assert attrs["inference_library"] == "gbi_pyro"
    # The package's metadata may leave out the build, which torch.__version__ names.
    assert attrs["torch_version"].split("+")[0] == torch.__version__.split("+")[0]
    for name in ("inference_library", "pyro_ppl", "arviz", "numpy"):
        assert attrs[f"{name}_version"]
    strange = {"call": max, "tensor": torch.ones(2), "number": np.float64(0.5)}
    attrs = to_inference_data(result, attributes=strange).attrs
    assert (attrs["call"], attrs["tensor"], attrs["number"]) == ('"max"', "[1.0, 1.0]", 0.5)


def test_sites_without_plates_and_plates_of_size_one() -> None:
    data = to_inference_data(Enumeration()(no_plate, torch.tensor(0.3)), num_draws=5)
    assert data.posterior["z"].dims == ("chain", "draw")
    assert data.task_probs["z"].dims == ("z_task",)
    assert data.log_likelihood["log_evidence"].dims == ("chain", "draw")
    data = full(torch.tensor([[0.4]]), torch.tensor([[1]]))
    assert data.posterior["z"].shape == (1, 100, 1, 1)
    assert dict(data.task_probs["z"].sizes) == {"sequence": 1, "time": 1, "z_task": 2}
    log_probs = torch.full((2, 4, 3), 1 / 3).log()
    site = TaskSite("z", log_probs, (None, Plate("time", 4, 4)))
    data = to_inference_data(TaskPosterior({"z": log_probs}, {"z": site}, "example"))
    assert data.task_probs["z"].dims == ("z_dim_0", "time", "z_task")
    assert data.task_probs["z_task"].values.tolist() == [0, 1, 2]


def test_several_sites_keep_their_own_dimensions(stream: tuple[Tensor, Tensor]) -> None:
    x, z = stream
    data = to_inference_data(Enumeration()(two_sites, x), observed={"x": x}, labels={"z": z})
    # A task per sequence has no time: its dimension of size 1 there is no plate's.
    assert data.task_probs["context"].dims == ("sequence", "context_task")
    assert data.posterior["context"].dims == ("chain", "draw", "sequence")
    assert data.log_likelihood["x"].dims == ("chain", "draw", "sequence")
    assert data.task_probs["z"].dims == ("sequence", "time", "z_task")
    assert data.observed_data["x"].dims == ("sequence", "time")
    assert set(data.constant_data.data_vars) == {"z"}


def test_dimensions_of_data_are_named_by_plates_or_by_hand(stream: tuple[Tensor, Tensor]) -> None:
    x, _ = stream
    result = OneStepGradient()(per_step, x)
    pixels = {"image": torch.zeros(3, 7, 2), "odd": torch.zeros(3, 5), "one": torch.tensor(1.0)}
    data = to_inference_data(result, observed=pixels)
    assert data.observed_data["image"].dims == ("sequence", "time", "image_dim_2")
    assert data.observed_data["odd"].dims == ("sequence", "odd_dim_1")
    assert data.observed_data["one"].dims == ()
    data = to_inference_data(result, observed={"odd": torch.zeros(3, 5)}, dims={"odd": ["a", "b"]})
    assert data.observed_data["odd"].dims == ("a", "b")


def test_arviz_reads_it(stream: tuple[Tensor, Tensor], generator: torch.Generator) -> None:
    x, z = stream
    evidence = Enumeration()(per_step, x).log_evidence
    draws = evidence + 0.05 * torch.randn(1000, 3, 7, generator=generator)
    data = full(x, z, log_evidence=draws)
    summary = az.summary(data, kind="stats")
    assert len(summary) == 21
    np.testing.assert_allclose(
        summary["mean"].to_numpy().reshape(3, 7),
        data.posterior["z"].mean(("chain", "draw")),
        atol=6e-4,
    )
    found = loo(data)
    assert found.elpd_i.shape == (3, 7)
    assert found.elpd == pytest.approx(evidence.sum().item(), abs=0.2)


# ArviZ 0.23 calls matplotlib 3.11 in a way that 3.13 will refuse.
@pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping")
def test_arviz_plots_it(stream: tuple[Tensor, Tensor]) -> None:
    plt.switch_backend("Agg")
    az.plot_trace(full(*stream), var_names=["z"], coords={"sequence": 0, "time": [0, 1]})
    assert len(plt.gcf().axes) == 2
    plt.close("all")


def test_loo_of_fixed_weights_is_the_log_score(stream: tuple[Tensor, Tensor]) -> None:
    result = Enumeration()(per_step, stream[0])
    data = to_inference_data(result)
    score = Score(result.log_evidence, "held-out").total
    if makes_trees():  # there are no draws of the weights to weigh
        with pytest.raises(ValueError, match="All tail values are the same"):
            az.loo(data)
    else:
        with pytest.warns(UserWarning, match="Pareto"):
            found = loo(data)
        assert found.elpd == pytest.approx(score, rel=1e-5)
        assert found.p == pytest.approx(0, abs=1e-4)
    with pytest.raises(
        ValueError, match=r"the same for each draw.*Score\(log_evidence, 'held-out'\)"
    ):
        leave_one_out(data)


def test_the_log_likelihood_is_called_like_the_only_data(stream: tuple[Tensor, Tensor]) -> None:
    """So that ArviZ finds both by one name."""
    x, _ = stream
    result = Enumeration()(per_step, x)
    for options, name in (
        ({}, "log_evidence"),
        ({"observed": {"x": x}}, "x"),
        ({"observed": {"x": x, "y": x}}, "log_evidence"),
        ({"model": per_step, "args": (x,)}, "x"),
        ({"model": per_step, "args": (x,), "observed": {"age": x}}, "x"),
    ):
        data = to_inference_data(result, **options)
        assert list(data.log_likelihood.data_vars) == [name]

    def two(x: Tensor) -> None:
        with pyro.plate("trial", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer={"task": True})
            for name in ("first", "second"):
                pyro.sample(name, dist.Normal(z @ MEANS, 0.3), obs=x)

    data = to_inference_data(Enumeration()(two, x[0]), two, (x[0],))
    assert list(data.log_likelihood.data_vars) == ["log_evidence"]


def test_custom_groups_come_without_a_warning(stream: tuple[Tensor, Tensor]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        full(*stream)


def test_gradients_do_not_follow(stream: tuple[Tensor, Tensor]) -> None:
    x = stream[0].clone().requires_grad_()
    to_inference_data(OneStepGradient()(per_step, stream[0]), observed={"x": x})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_draws": -1}, ValueError, "num_draws should be 0 or more; got -1"),
        ({"task_names": {"z": ["a"]}}, ValueError, r"'z'\] should be 2 different names"),
        ({"task_names": {"z": ["a", "a"]}}, ValueError, r"should be 2 different names.*'a', 'a'"),
        ({"task_names": {"y": ["a", "b"]}}, TaskSiteError, r"task_names\['y'\].*'z'"),
        ({"labels": {"y": torch.zeros(3, 7).long()}}, TaskSiteError, "'y'.*'z'"),
        ({"labels": {"z": torch.zeros(3, 7)}}, ValueError, r"labels\['z'\].*argmax"),
        ({"labels": {"z": torch.zeros(3).long()}}, ValueError, r"shape \(3, 7\).*got \(3,\)"),
        ({"log_evidence": torch.zeros(5, 4)}, ValueError, r"log_evidence .*\(3, 7\).*got \(4,\)"),
        ({"log_evidence": torch.tensor(0.0)}, ValueError, "draws of the weights first"),
        ({"predictions": {"x": torch.tensor(0.0)}}, ValueError, r"predictions\['x'\].*draws"),
        ({"observed": {"x": torch.zeros(3)}, "dims": {"x": "ab"}}, ValueError, r"dims\['x'\]"),
        ({"attributes": {"method": "mine"}}, ValueError, r"attributes .*\['method'\]"),
    ],
)
def test_invalid_arguments_are_named(
    stream: tuple[Tensor, Tensor], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    result = OneStepGradient()(per_step, stream[0])
    with pytest.raises(error, match=message):
        to_inference_data(result, **options)


def test_exact_posterior_of_other_data_is_refused(stream: tuple[Tensor, Tensor]) -> None:
    x, _ = stream
    result = OneStepGradient()(per_step, x)
    with pytest.raises(ValueError, match=r"exact .*\(3, 7, 2\) at site 'z'.*got \(2, 7, 2\)"):
        to_inference_data(result, exact=Enumeration()(per_step, x[:2]))


def test_a_plate_must_not_be_called_draw() -> None:
    log_probs = torch.full((2, 3), 1 / 3).log()
    site = TaskSite("z", log_probs, (Plate("draw", 2, 2),))
    with pytest.raises(ValueError, match="a plate should not be called draw"):
        to_inference_data(TaskPosterior({"z": log_probs}, {"z": site}, "example"))


def test_importing_the_export_does_not_import_arviz() -> None:
    code = "import sys, gbi_pyro.export.inference_data as e; sys.exit('arviz' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
