import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_versions import compare, from_arrays, loo
from pyro_models import TASK
from torch import Tensor

from gbi_pyro import Enumeration, TaskChain, to_inference_data
from gbi_pyro._arviz import groups_of, inference_data, relative_efficiency
from gbi_pyro.export import GivenDraws
from gbi_pyro.inference import Marginal, marginalize
from gbi_pyro.metrics import Score, compare_models, leave_one_out, one_step_ahead
from gbi_pyro.metrics._pareto import pareto_smoothed

PRIOR = torch.tensor([0.3, 0.7], dtype=torch.float64)


def model(x: Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(x.new_tensor(0.0), 1.0))
    with pyro.plate("trial", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(PRIOR), infer=TASK)
        pyro.sample("x", dist.Normal(shift + z[..., 1], 0.5), obs=x)


@pytest.fixture
def exported(generator: torch.Generator) -> Any:
    x = torch.randn(30, generator=generator, dtype=torch.float64)
    shift = 0.1 * torch.randn(400, generator=generator, dtype=torch.float64)
    return to_inference_data(GivenDraws({"shift": shift}, chunk_size=400), model, (x,))


def test_leave_one_out_is_arviz_own(exported: Any) -> None:
    score, found = leave_one_out(exported), loo(exported)
    np.testing.assert_allclose(score.pointwise, found.elpd_i, rtol=0, atol=1e-9)
    assert score.total == pytest.approx(found.elpd, abs=1e-9)
    assert score.worst_k_hat == pytest.approx(found.k_hat.max())
    assert score.criterion == "leave-one-out"


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")
def test_chains_count_by_their_effective_draws(generator: torch.Generator) -> None:
    """Of chains that hardly move the tail is longer, in ArviZ and here."""
    x = torch.randn(30, generator=generator, dtype=torch.float64)
    blocks = torch.randn(4, 5, generator=generator, dtype=torch.float64).repeat_interleave(20, 1)
    shift = 0.05 * blocks + 0.01 * torch.randn(4, 100, generator=generator, dtype=torch.float64)
    each = dist.Normal(shift[..., None], 0.5).log_prob(x).numpy()
    data = from_arrays(posterior={"shift": shift.numpy()}, log_likelihood={"x": each})
    efficiency = relative_efficiency(data)
    assert efficiency < 0.5  # so that the tail is the upper fifth, instead of 3 sqrt(400) = 60
    score, found = leave_one_out(data), loo(data)
    np.testing.assert_allclose(score.pointwise, found.elpd_i, rtol=0, atol=1e-9)
    assert score.worst_k_hat == pytest.approx(found.k_hat.max())
    one_chain = pareto_smoothed(-torch.as_tensor(each).flatten(0, 1).T)[1].max()
    assert score.worst_k_hat != pytest.approx(one_chain.item(), abs=1e-3)


# ArviZ 0.23 calls pandas 3 in a way that 4 will refuse.
@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame")
def test_differences_and_their_errors_are_arviz_own(exported: Any) -> None:
    worse = exported.copy()
    noise = np.random.default_rng(0).normal(0.3, 0.2, 30)
    worse.log_likelihood["x"] = worse.log_likelihood["x"] - noise
    table = compare_models({"worse": leave_one_out(worse), "better": leave_one_out(exported)})
    expected = compare({"worse": worse, "better": exported})
    first, second = table.records()
    assert (first["model"], second["model"]) == ("better", "worse")
    assert first["difference"] == 0
    assert second["difference"] == pytest.approx(expected["worse"].value)
    # ArviZ divides by N, not by N - 1.
    assert second["standard error"] == pytest.approx(expected["worse"].error * math.sqrt(30 / 29))
    assert second["probability"] is None


def test_a_bayes_factor_is_the_difference_of_log_evidence() -> None:
    """Two fixed models of the same data, priors equal: p(M | x) by Bayes."""
    x = torch.tensor([0.2, 0.9, 1.1]).double()
    evidence = {}
    for mean in (0.0, 0.5):
        given = pyro.condition(model, {"shift": torch.tensor(mean).double()})
        evidence[str(mean)] = Enumeration()(given, x).log_evidence.sum().reshape(1)
    table = compare_models({n: Score(e, "log evidence") for n, e in evidence.items()})
    p = torch.cat(list(evidence.values())).softmax(0)
    found = {row["model"]: row for row in table.records()}
    for i, name in enumerate(evidence):
        assert found[name]["probability"] == pytest.approx(p[i].item())
    lost = min(row["difference"] for row in found.values())
    assert lost == pytest.approx(-abs(evidence["0.0"] - evidence["0.5"]).item())
    assert all(row["standard error"] is None for row in found.values())


def test_the_standard_error_is_that_of_the_sum_of_paired_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 5000, generator=generator, dtype=torch.float64)
    shared = 10 * torch.randn(5000, generator=generator, dtype=torch.float64)
    table = compare_models({"a": Score(a + shared, "held-out"), "b": Score(b + shared, "held-out")})
    # Var(sum of N differences of unit normals) = 2 N, known to 1 % from 5000.
    assert table.records()[1]["standard error"] == pytest.approx(math.sqrt(2 * 5000), rel=0.05)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "at least one model"),
        (
            {"a": Score(torch.zeros(2), "held-out"), "b": Score(torch.zeros(2), "prequential")},
            "same criterion",
        ),
        (
            {"a": Score(torch.zeros(2), "held-out"), "b": Score(torch.zeros(3), "held-out")},
            "same elements",
        ),
    ],
)
def test_what_cannot_be_compared_is_named(scores: dict[str, Score], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_models(scores)


@pytest.mark.parametrize("values", [torch.zeros(0), torch.tensor([0.0, -torch.inf])])
def test_scores_are_finite(values: Tensor) -> None:
    with pytest.raises(ValueError, match="finite scores of at least one element"):
        Score(values, "held-out")


def test_fixed_weights_have_no_leave_one_out() -> None:
    given = pyro.condition(model, {"shift": torch.tensor(0.0).double()})
    data = to_inference_data(Enumeration()(given, torch.zeros(3).double()))
    with pytest.raises(ValueError, match="the same for each draw"):
        leave_one_out(data)
    groups = groups_of(data)
    without = inference_data({"posterior": groups["posterior"]}, {})
    with pytest.raises(ValueError, match="got none"):
        leave_one_out(without)
    likelihood = groups["log_likelihood"]
    likelihood["y"] = likelihood["log_evidence"]
    with pytest.raises(ValueError, match="got 'log_evidence', 'y'"):
        leave_one_out(inference_data({**groups, "log_likelihood": likelihood}, {}))


LEVELS = torch.linspace(-1.0, 4.0, 41, dtype=torch.float64)


def switching() -> Marginal:
    """Two tasks, means 0 and an unknown level; sequences of 20 steps."""

    def sequences(x: Tensor) -> None:
        level = pyro.sample("level", dist.Normal(x.new_tensor(0.0), 10.0))
        with pyro.plate("sequence", len(x), dim=-2), pyro.plate("time", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.OneHotCategorical(PRIOR), infer=TASK)
            pyro.sample("x", dist.Normal(z[..., 1] * level, 0.7), obs=x)

    return marginalize(sequences, TaskChain.sticky(2, hazard=0.2))


def drawn_sequences(N: int, T: int, generator: torch.Generator) -> Tensor:
    switches = torch.rand(N, T, generator=generator) < 0.2
    noise = torch.randn(N, T, generator=generator, dtype=torch.float64)
    return 1.5 * (switches.cumsum(-1) % 2) + 0.7 * noise


class OnGrid:
    """The exact posterior where each of LEVELS is as probable a priori, and draws from it."""

    def __init__(self, x: Tensor, S: int, generator: torch.Generator) -> None:
        every = to_inference_data({"level": LEVELS}, switching(), (x,), num_draws=0)
        steps = every.log_likelihood_by_step["x"].values[0]
        # log p(x_nt | x_n1..t-1, level), (G, N, T)
        self.steps = torch.as_tensor(steps).reshape(len(LEVELS), *x.shape)
        self.weights = self.steps.sum((1, 2)).softmax(0)
        ids = torch.multinomial(self.weights, S, replacement=True, generator=generator)
        self.data = every.isel(draw=ids.numpy())


def error_of_reweighting(log_ratio: Tensor, weights: Tensor, S: int) -> Tensor:
    """The standard error of log (1 / mean_s r_s), r the ratios at draws with these weights."""
    ratio = (log_ratio - log_ratio.amax(0)).exp()
    mean = weights @ ratio
    return ((weights @ ratio**2) / mean**2 - 1).sqrt() / S**0.5


def test_sequences_are_left_out_whole(generator: torch.Generator) -> None:
    """log p(x_n | all other sequences), exactly, on the grid."""
    S, x = 1000, drawn_sequences(8, 20, generator)
    grid = OnGrid(x, S, generator)
    each = grid.steps.sum(-1)
    others = (each.sum(1, keepdim=True) - each).log_softmax(0)
    score = leave_one_out(grid.data)
    error = error_of_reweighting(-each, grid.weights, S)
    assert ((score.pointwise - (others + each).logsumexp(0)).abs() < 4 * error).all()
    assert score.worst_k_hat is not None
    assert score.worst_k_hat < 0.7


def test_a_series_is_predicted_one_step_ahead(generator: torch.Generator) -> None:
    """log p(x_t | x_1..t-1), exactly, on the grid; its sum is a difference of log evidence."""
    S, first, x = 1000, 20, drawn_sequences(1, 40, generator)
    grid = OnGrid(x, S, generator)
    steps = grid.steps[:, 0]
    past = steps.cumsum(-1).roll(1, -1)[:, first:].log_softmax(0)
    exact = (past + steps[:, first:]).logsumexp(0)
    score = one_step_ahead(grid.data, first)
    future = -steps.flip(-1).cumsum(-1).flip(-1)[:, first:]
    error = error_of_reweighting(future, grid.weights, S)
    assert ((score.pointwise - exact).abs() < 4 * error).all()
    assert score.worst_k_hat is not None
    assert score.worst_k_hat < 0.7
    evidence = steps.sum(-1).logsumexp(0) - steps[:, :first].sum(-1).logsumexp(0)
    assert exact.sum().item() == pytest.approx(evidence.item())
    assert one_step_ahead(grid.data, 2).worst_k_hat > score.worst_k_hat  # more is taken away


def test_sequences_side_by_side_are_predicted_together(generator: torch.Generator) -> None:
    x, S = drawn_sequences(3, 12, generator), 1000
    grid = OnGrid(x, S, generator)
    steps = grid.steps.sum(1)
    exact = steps.sum(-1).logsumexp(0) - steps[:, :8].sum(-1).logsumexp(0)
    score = one_step_ahead(grid.data, 8)
    assert score.pointwise.shape == (4,)
    future = -steps.flip(-1).cumsum(-1).flip(-1)[:, 8:]
    error = error_of_reweighting(future, grid.weights, S).sum()
    assert abs(score.total - exact.item()) < 4 * error


# ArviZ 0.23 calls pandas 3 in a way that 4 will refuse.
@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame")
def test_marginals_are_compared_by_sequences(generator: torch.Generator) -> None:
    x, S = drawn_sequences(8, 20, generator), 100
    level = 1.5 + 0.05 * torch.randn(S, generator=generator, dtype=torch.float64)
    data = {
        name: to_inference_data({"level": scale * level}, switching(), (x,))
        for name, scale in {"two levels": 1.0, "nearly one": 0.1}.items()
    }
    table = compare_models({name: leave_one_out(found) for name, found in data.items()})
    expected = compare(data)
    assert [row["model"] for row in table.records()] == list(expected)
    assert table.records()[1]["difference"] == pytest.approx(expected["nearly one"].value)
    assert table.records()[1]["elements"] == 8


def test_steps_of_a_chain_are_no_elements_to_be_left_out(generator: torch.Generator) -> None:
    x = drawn_sequences(1, 10, generator)
    draws = {"level": torch.randn(5, generator=generator, dtype=torch.float64)}
    data = to_inference_data(draws, switching(), (x,), num_draws=0)
    with pytest.raises(ValueError, match=r"got a single element.*one_step_ahead"):
        leave_one_out(data)
    by_step = data.copy()
    by_step.log_likelihood["x"] = data.log_likelihood_by_step["x"]
    with pytest.raises(ValueError, match=r"got the steps 'time' of a chain"):
        leave_one_out(by_step)
    for first in (0, 10):
        with pytest.raises(ValueError, match=f"first should be 1 to 9, .*; got {first}"):
            one_step_ahead(data, first)


def test_what_has_no_steps_is_not_predicted_one_step_ahead(exported: Any) -> None:
    with pytest.raises(ValueError, match=r"log_likelihood_by_step, got .*marginal with a chain"):
        one_step_ahead(exported, 3)
