"""Marginals with draws of their sites in ArviZ: against the chain by hand, draw by draw."""

import itertools
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, Predictive
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from gbi_pyro import TaskChain, TaskPrior, TaskSiteError, hmm_posterior, to_inference_data
from gbi_pyro._arviz import groups_of, inference_data
from gbi_pyro.export import GivenDraws, marginal_draws, save_inference_data
from gbi_pyro.inference import HMMPosterior, Marginal, log_pairwise, marginalize

F64 = torch.float64
TASK = {"task": True}
LENGTHS = torch.tensor([6, 4, 5])
REAL = torch.arange(6) < LENGTHS.unsqueeze(-1)
HALF = torch.tensor([0.5, 0.5], dtype=F64)


def rows(hazard: Tensor) -> Tensor:
    return torch.stack([torch.stack([1 - hazard, hazard]), torch.stack([hazard, 1 - hazard])])


def switching(x: Tensor) -> TaskChain:
    hazard = pyro.sample("hazard", dist.Beta(x.new_tensor(2.0), 8.0))
    return TaskChain("uniform", rows(hazard).log())


def sessions(x: Tensor) -> None:
    """Two means and a scale for all, a shift for each session."""
    means = pyro.sample("means", dist.Normal(x.new_zeros(2), 2.0).to_event(1))
    with pyro.plate("session", len(x), dim=-2):
        shift = pyro.sample("shift", dist.Normal(x.new_zeros(()), 0.3))
        with pyro.plate("time", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.OneHotCategorical(HALF), infer=TASK)
            pyro.sample("x", dist.Normal(z @ means + shift, 1.0), obs=x)


def time_first(x: Tensor) -> None:
    """The same with the axes exchanged: x is (T, N)."""
    means = pyro.sample("means", dist.Normal(x.new_zeros(2), 2.0).to_event(1))
    with pyro.plate("session", x.shape[1], dim=-1):
        shift = pyro.sample("shift", dist.Normal(x.new_zeros(()), 0.3))
        with pyro.plate("time", len(x), dim=-2):
            z = pyro.sample("z", dist.OneHotCategorical(HALF), infer=TASK)
            pyro.sample("x", dist.Normal(z @ means + shift, 1.0), obs=x)


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    return torch.randn(3, 6, generator=generator, dtype=F64)


@pytest.fixture
def draws(generator: torch.Generator) -> dict[str, Tensor]:
    normal = torch.randn(8, 6, generator=generator, dtype=F64)
    return {
        "means": normal[:, :2],
        "hazard": 0.3 * normal[:, 2].sigmoid(),
        "shift": 0.3 * normal[:, 3:, None],
    }


def by_hand(x: Tensor, draws: dict[str, Tensor], s: int) -> list[HMMPosterior]:
    """Each session's chain at draw s, over its real steps."""
    transition = rows(draws["hazard"][s]).log()
    chains = []
    for n, length in enumerate(LENGTHS):
        loc = draws["means"][s] + draws["shift"][s, n]
        emission = dist.Normal(loc, 1.0).log_prob(x[n, :length, None])
        chains.append(hmm_posterior(HALF.log(), transition, emission))
    return chains


def as_mcmc(draws: dict[str, Tensor], chains: int) -> MCMC:
    """A finished run that holds these draws."""
    mcmc = MCMC(NUTS(sessions), num_samples=1, num_chains=1)
    mcmc._samples = {n: v.unflatten(0, (chains, -1)) for n, v in draws.items()}
    mcmc.num_chains, mcmc._diagnostics = chains, [{"divergences": [1]}, {"divergences": []}]
    return mcmc


@pytest.mark.parametrize("axes", ["session first", "time first"])
def test_every_group_agrees_with_the_chain_by_hand(
    axes: str, x: Tensor, draws: dict[str, Tensor]
) -> None:
    marginal, data, values = marginalize(sessions, switching, LENGTHS), x, draws
    if axes == "time first":
        marginal, data = marginalize(time_first, switching, LENGTHS), x.T
        values = {**draws, "shift": draws["shift"].squeeze(-1)}
    names = {"z": ["low", "high"]}
    exported = to_inference_data(
        as_mcmc(values, 2), marginal, (data,), task_names=names, num_draws=4
    )
    order = ("chain", "draw", "session", "time", ...)
    found = inference_data(
        {
            name: group.transpose(*order, missing_dims="ignore")
            for name, group in groups_of(exported).items()
        },
        exported.attrs,
    )
    sample, steps = {"chain": 2, "draw": 4}, {"session": 3, "time": 6}
    expected = {
        "posterior": {
            "means": {**sample, "means_dim_0": 2},
            "hazard": sample,
            "shift": {**sample, "session": 3},
        },
        "sample_stats": {"diverging": sample},
        "task_probs": {"z": {**steps, "z_task": 2}},
        "task_draws": {"z": {"chain": 2, "draw": 2, **steps}},
        "log_likelihood": {"x": {**sample, "session": 3}},
        "log_likelihood_by_step": {"x": {**sample, **steps}},
        "posterior_predictive": {"x": {"chain": 2, "draw": 2, **steps}},
        "observed_data": {"x": steps},
    }
    assert groups_of(found).keys() == set(expected)
    for group, variables in expected.items():
        sizes = {name: dict(v.sizes) for name, v in found[group].data_vars.items()}
        sizes.get("shift", {}).pop("shift_dim_1", None)  # of size 1, before the plate over time
        assert sizes == variables, group
    smoothed = np.zeros((3, 6, 2))
    for s in range(8):
        at = {"chain": s // 4, "draw": s % 4}
        likelihood = found.log_likelihood["x"].isel(at)
        by_step = found.log_likelihood_by_step["x"].isel(at)
        for n, chain in enumerate(by_hand(x, draws, s)):
            assert likelihood[n] == pytest.approx(chain.log_evidence.item())
            np.testing.assert_allclose(by_step[n, : LENGTHS[n]], chain.step_log_evidence)
            smoothed[n, : LENGTHS[n]] += chain.log_smoothed.exp().numpy() / 8
    np.testing.assert_array_equal(found.log_likelihood_by_step["x"][0, 0].isnull(), ~REAL)
    probs = found.task_probs["z"]
    np.testing.assert_array_equal(probs[..., 0].isnull(), ~REAL)
    np.testing.assert_allclose(probs.values[REAL], smoothed[REAL])
    assert probs["z_task"].values.tolist() == ["low", "high"]
    drawn = found.task_draws["z"]
    assert drawn["draw"].values.tolist() == [0, 2]  # numbers of the draws they belong to
    np.testing.assert_array_equal(drawn[0, 0] == -1, ~REAL)
    np.testing.assert_array_equal(found.observed_data["x"], x)
    assert found.attrs["method"] == "marginal, smoothed, averaged over draws"
    assert found.attrs["passes_forward"] == 8 * 2


def test_paths_are_drawn_jointly_given_each_draw(generator: torch.Generator) -> None:
    """Their pairs have the average of the pairwise posteriors, 4 standard errors away at most."""
    N, x = 400, torch.randn(5, generator=generator, dtype=F64)  # the same data in each session
    draws = {
        "means": torch.tensor([[-0.5, 0.5], [-2.0, 0.2]], dtype=F64),
        "hazard": torch.tensor([0.05, 0.3], dtype=F64),
        "shift": torch.zeros(2, N, 1, dtype=F64),
    }
    marginal = marginalize(sessions, switching)
    found = to_inference_data(draws, marginal, (x.expand(N, 5),), generator=generator)
    z = torch.as_tensor(found.task_draws["z"].values)[0]
    for s in range(2):
        A = rows(draws["hazard"][s]).log()
        emission = dist.Normal(draws["means"][s], 1.0).log_prob(x[:, None])
        pairs = log_pairwise(hmm_posterior(HALF.log(), A, emission), A).exp()
        for i, j in itertools.product(range(2), repeat=2):
            share = ((z[s, :, :-1] == i) & (z[s, :, 1:] == j)).double().mean(0)
            error = (pairs[:, i, j] * (1 - pairs[:, i, j]) / N).sqrt()
            assert ((share - pairs[:, i, j]).abs() < 4 * error).all()


@pytest.mark.parametrize("prior", [None, TaskPrior(torch.tensor([0.2, 0.8], dtype=F64).log())])
def test_without_a_chain_it_is_what_enumeration_gives(
    prior: TaskPrior | None, x: Tensor, draws: dict[str, Tensor]
) -> None:
    weights = HALF if prior is None else prior.log_probs.exp()

    def model(x: Tensor) -> None:
        means = pyro.sample("means", dist.Normal(x.new_zeros(2), 2.0).to_event(1))
        with pyro.plate("trial", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(weights), infer=TASK)
            pyro.sample("x", dist.Normal(z @ means, 1.0), obs=x)

    own = {"means": draws["means"]}
    expected = to_inference_data(own, model, (x[0],))
    found = to_inference_data(own, marginalize(model, prior), (x[0],), num_draws=3)
    np.testing.assert_allclose(found.log_likelihood["x"], expected.log_likelihood["x"])
    np.testing.assert_allclose(found.task_probs["z"], expected.task_probs["z"])
    assert found.log_likelihood["x"].dims == ("chain", "draw", "trial")
    assert found.task_draws["z"].sizes == {"chain": 1, "draw": 3, "trial": 6}
    assert "log_likelihood_by_step" not in groups_of(found)


def test_draws_of_an_svi_guide_may_hold_tasks_and_data(x: Tensor) -> None:
    marginal = marginalize(sessions, switching, LENGTHS)
    pyro.set_rng_seed(0)
    guide = AutoNormal(marginal)
    guide(x)
    drawn = Predictive(guide, num_samples=6)(x)
    assert drawn["hazard"].shape == (6, 1, 1)  # Pyro leaves dimensions for the plates
    drawn["x"], drawn["z"] = torch.zeros(6, 3, 6), torch.zeros(6, 3, 6, 2)
    found = to_inference_data(drawn, marginal, (x,), num_draws=0, by_step=False)
    assert set(found.posterior.data_vars) == {"means", "hazard", "shift"}
    left_out = {"task_draws", "posterior_predictive", "log_likelihood_by_step"}
    assert not left_out & groups_of(found).keys()
    values = {
        "means": drawn["means"].reshape(6, 2),
        "hazard": drawn["hazard"].flatten(),
        "shift": drawn["shift"].reshape(6, 3),
    }
    for s in range(6):
        expected = [chain.log_evidence.item() for chain in by_hand(x, values, s)]
        np.testing.assert_allclose(found.log_likelihood["x"][0, s].squeeze(), expected)


def test_predictions_are_of_sequences_not_seen_yet(generator: torch.Generator) -> None:
    """They switch with the hazard of their draw, whatever the data: 4 standard errors at most."""
    N = 400
    draws = {
        "means": torch.tensor([[-5.0, 5.0], [-5.0, 5.0]], dtype=F64),
        "hazard": torch.tensor([0.1, 0.4], dtype=F64),
        "shift": torch.full((2, N, 1), 20.0, dtype=F64),
    }
    marginal, x = marginalize(sessions, switching), torch.full((N, 5), 15.0, dtype=F64)
    found = to_inference_data(draws, marginal, (x,), generator=generator)
    drawn = torch.as_tensor(found.posterior_predictive["x"].values)[0]
    assert ((drawn - 20).abs() - 5).abs().max() < 6  # five standard deviations of noise, and more
    switches = ((drawn > 20).int().diff(dim=-1) != 0).double().mean((1, 2))
    hazard = draws["hazard"]
    assert ((switches - hazard).abs() < 4 * (hazard * (1 - hazard) / (4 * N)).sqrt()).all()
    given = {"x": torch.zeros(2, N, 5)}
    found = to_inference_data(draws, marginal, (x,), predictions=given)
    assert not found.posterior_predictive["x"].values.any()


def test_what_was_drawn_for_each_step_is_given_and_not_scored(x: Tensor) -> None:
    def model(x: Tensor, of_task: bool = False) -> None:
        with pyro.plate("time", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(HALF), infer=TASK)
            w = pyro.sample("w", dist.Normal(z[..., 0] if of_task else x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(w + z[..., 1], 1.0), obs=x)

    w = torch.linspace(-1, 1, 12, dtype=F64).reshape(2, 6)
    chain = TaskChain.sticky(2, hazard=0.2)
    found = to_inference_data({"w": w}, marginalize(model, chain), (x[0],))
    for s in range(2):
        emission = dist.Normal(w[s, :, None] + torch.eye(2)[1], 1.0).log_prob(x[0, :, None])
        expected = chain.posterior(emission).log_evidence.item()
        assert found.log_likelihood["x"][0, s] == pytest.approx(expected)
    with pytest.raises(TaskSiteError, match="'w' is latent and depends on the task"):
        to_inference_data({"w": w}, marginalize(model, chain), (x[0], True))


def test_it_leaves_nothing_behind_and_repeats_itself(x: Tensor, draws: dict[str, Tensor]) -> None:
    marginal, before = marginalize(sessions, switching, LENGTHS), torch.get_rng_state()
    one, two = (to_inference_data(draws, marginal, (x,)) for _ in range(2))
    for group in groups_of(one):
        assert one[group].identical(two[group]), group
    assert torch.equal(torch.get_rng_state(), before)
    assert not dict(pyro.get_param_store())


def test_arviz_stores_summarises_and_compares_it(
    x: Tensor, draws: dict[str, Tensor], tmp_path: Path
) -> None:
    marginal = marginalize(sessions, switching, LENGTHS)
    data = to_inference_data(as_mcmc(draws, 2), marginal, (x,))
    save_inference_data(data, tmp_path / "marginal.nc")
    found = az.from_netcdf(tmp_path / "marginal.nc")
    assert groups_of(found).keys() == groups_of(data).keys()
    for group in groups_of(data):
        assert found[group].identical(data[group]), group
    table = az.summary(data, kind="diagnostics")
    assert {"hazard", "means[0]", "means[1]"} <= set(table.index)
    assert {"r_hat", "ess_bulk"} <= set(table.columns)


def test_a_posterior_of_the_marginal_draws_data_under_its_paths(
    x: Tensor, draws: dict[str, Tensor]
) -> None:
    at = marginalize(sessions, switching, LENGTHS).condition({n: v[0] for n, v in draws.items()})
    data = to_inference_data(at.infer(x), at, (x,), num_draws=5)
    assert data.posterior_predictive["x"].sizes == {"chain": 1, "draw": 5, "session": 3, "time": 6}
    np.testing.assert_array_equal(data.observed_data["x"], x)


def outside(x: Tensor) -> None:
    sessions(x)
    pyro.sample("elsewhere", dist.Normal(0.0, 1.0), obs=torch.tensor(0.3))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"result": {}}, ValueError, "same number of draws.*no site"),
        (
            {"result": {"means": torch.zeros(2, 2, dtype=F64)}},
            ValueError,
            r"each latent site of the marginal, \['hazard', 'means', 'shift'\]; got \['means'\]",
        ),
        (
            {"result": {"means": torch.zeros(2, 3, dtype=F64)}},
            TaskSiteError,
            r"'means' have shape \(3,\) each; expected \(2,\)",
        ),
        ({"model": marginalize(outside, switching)}, TaskSiteError, r"data of \['elsewhere'\]"),
        ({"num_draws": -1}, ValueError, "num_draws should be 0 or more; got -1"),
        ({"exact": "x"}, ValueError, "exact should be left out: only a task posterior"),
        ({"model": sessions, "by_step": True}, ValueError, "by_step should be left out"),
    ],
)
def test_what_does_not_fit_is_named(
    change: dict[str, Any],
    error: type[Exception],
    message: str,
    x: Tensor,
    draws: dict[str, Tensor],
) -> None:
    options = {"result": draws, "model": marginalize(sessions, switching), "args": (x,), **change}
    with pytest.raises(error, match=message):
        to_inference_data(**options)


def test_a_marginal_enumerates_by_itself(x: Tensor, draws: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"a marginal does itself: give the draws alone"):
        to_inference_data(GivenDraws(draws), marginalize(sessions, switching), (x,))

    fixed: Marginal = marginalize(
        poutine.condition(sessions, data={n: v[0] for n, v in draws.items()}),
        TaskChain.sticky(2, hazard=0.1),
    )
    with pytest.raises(ValueError, match=r"of which it has none; got .*marginal\.infer"):
        to_inference_data(draws, fixed, (x,))


def test_probabilities_are_summed_and_not_kept(x: Tensor, draws: dict[str, Tensor]) -> None:
    """What is kept has no number for each draw, step and task."""
    marginal = marginalize(sessions, switching, LENGTHS)
    found = marginal_draws(marginal, draws, (x,), num_tasks_drawn=2, by_step=False)
    assert found.by_step is None
    assert found.log_likelihood.shape == (1, 8, 3)
    mean = torch.tensor([[c.log_evidence for c in by_hand(x, draws, s)] for s in range(8)]).exp()
    torch.testing.assert_close(found.log_predictive_density, mean.mean(0).log().double())
    assert found.average.probs().shape == (3, 6, 2)
    assert (found.tasks.shape, found.chosen.tolist()) == ((1, 2, 3, 6), [0, 4])
