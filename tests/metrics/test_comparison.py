import math
from typing import Any

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro_models import TASK
from torch import Tensor

from gbi_pyro import Enumeration, to_inference_data
from gbi_pyro.export import GivenDraws
from gbi_pyro.metrics import Score, compare_models, leave_one_out

PRIOR = torch.tensor([0.3, 0.7], dtype=torch.float64)


def model(x: Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(x.new_tensor(0.0), 1.0))
    with pyro.plate("trial", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(PRIOR), infer=TASK)
        pyro.sample("x", dist.Normal(shift + z[..., 1], 0.5), obs=x)


@pytest.fixture
def exported(generator: torch.Generator) -> az.InferenceData:
    x = torch.randn(30, generator=generator, dtype=torch.float64)
    shift = 0.1 * torch.randn(400, generator=generator, dtype=torch.float64)
    return to_inference_data(GivenDraws({"shift": shift}, chunk_size=400), model, (x,))


def test_leave_one_out_is_arviz_own(exported: az.InferenceData) -> None:
    score, found = leave_one_out(exported), az.loo(exported, pointwise=True)
    assert score.total == pytest.approx(found.elpd_loo, abs=1e-9)
    assert score.worst_k_hat == pytest.approx(found.pareto_k.max().item())
    assert score.criterion == "leave-one-out"


# ArviZ 0.23 calls pandas 3 in a way that 4 will refuse.
@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame")
def test_differences_and_their_errors_are_arviz_own(exported: az.InferenceData) -> None:
    worse = exported.copy()
    noise = np.random.default_rng(0).normal(0.3, 0.2, 30)
    worse.log_likelihood["log_evidence"] = worse.log_likelihood["log_evidence"] - noise
    table = compare_models({"worse": leave_one_out(worse), "better": leave_one_out(exported)})
    expected = az.compare({"worse": worse, "better": exported})
    first, second = table.records()
    assert (first["model"], second["model"]) == ("better", "worse")
    assert first["difference"] == 0
    assert second["difference"] == pytest.approx(-expected.loc["worse", "elpd_diff"])
    # ArviZ divides by N, not by N - 1.
    assert second["standard error"] == pytest.approx(
        expected.loc["worse", "dse"] * math.sqrt(30 / 29)
    )
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
    without: Any = az.InferenceData(posterior=data.posterior)
    with pytest.raises(ValueError, match="got none"):
        leave_one_out(without)
