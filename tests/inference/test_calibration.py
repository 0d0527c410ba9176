import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from gbi_pyro import (
    Calibration,
    Enumeration,
    OneStepGradient,
    TaskPosterior,
    TaskSiteError,
    calibrate,
)
from gbi_pyro.sites import TaskSite

F64 = torch.float64
MEANS = torch.linspace(0.0, 1.0, 5, dtype=F64)


def per_sequence(
    means: Tensor, sigma: float, log_prior: Tensor | None = None
) -> Callable[..., Any]:
    """One task for a whole sequence of n observations, x of shape (sequences, n)."""
    logits = torch.zeros_like(means) if log_prior is None else log_prior

    def model(x: Tensor) -> None:
        sequences, steps = x.shape
        with pyro.plate("sequence", sequences, dim=-2):
            z = pyro.sample("z", dist.OneHotCategorical(logits=logits), infer={"task": True})
            with pyro.plate("time", steps, dim=-1):
                pyro.sample("x", dist.Normal(z @ means, sigma), obs=x)

    return model


def draw(sequences: int, steps: int, sigma: float, generator: torch.Generator) -> Tensor:
    z = torch.randint(5, (sequences, 1), generator=generator)
    return MEANS[z] + sigma * torch.randn(sequences, steps, generator=generator, dtype=F64)


def kl(exact: TaskPosterior, other: TaskPosterior) -> float:
    """Mean KL(exact || other) over elements, in nats."""
    p = exact.logits()
    return float((p.exp() * (p - other.logits())).sum(-1).mean())


def posterior(log_probs: Tensor, n: float = 1.0, name: str = "z", **settings: Any) -> TaskPosterior:
    prior = torch.zeros_like(log_probs).log_softmax(-1)
    site = TaskSite(name, prior, (None,) * (log_probs.ndim - 1))
    counts = {name: torch.full(log_probs.shape[:-1], n, dtype=F64)}
    return TaskPosterior(
        {name: log_probs}, {name: site}, "by hand", settings, num_observations=counts
    )


# What the fit finds


@pytest.mark.parametrize("sigma", [0.1, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_calibration_makes_the_one_step_posterior_exact(
    sigma: float, dtype: torch.dtype, generator: torch.Generator
) -> None:
    """The bar: KL(exact || calibrated) <= 1e-6 on data that the fit has not seen."""
    model = per_sequence(MEANS.to(dtype), sigma)
    fit, judge = (draw(500, 1, sigma, generator).to(dtype) for _ in range(2))
    calibration = calibrate(OneStepGradient()(model, fit), Enumeration()(model, fit))
    exact = Enumeration()(model, judge)
    assert kl(exact, OneStepGradient()(model, judge)) > 0.05  # the bias that is to be corrected
    calibrated = OneStepGradient(calibration=calibration)(model, judge)
    assert kl(exact, calibrated) <= 1e-6
    assert calibrated.method == "one step, calibrated"


@pytest.mark.parametrize(("sigma", "predicted"), [(0.1, 3.0), (0.3, 0.14)])
def test_the_kl_of_the_plain_one_step_is_the_predicted_one(
    sigma: float, predicted: float, generator: torch.Generator
) -> None:
    """The bias is 3.0 and .14 nats, within rounding and five standard errors."""
    model, x = per_sequence(MEANS, sigma), draw(4000, 1, sigma, generator)
    p, q = Enumeration()(model, x).logits(), OneStepGradient()(model, x).logits()
    each = (p.exp() * (p - q)).sum(-1)
    standard_error = float(each.std()) / math.sqrt(len(x))
    rounding = {0.1: 0.05, 0.3: 0.005}[sigma]
    assert abs(float(each.mean()) - predicted) <= rounding + 5 * standard_error


@pytest.mark.parametrize("log_prior", [None, torch.tensor([0.4, 0.1, 0.2, 0.05, 0.25]).log()])
def test_offsets_are_the_squared_distances_from_the_middle(
    log_prior: Tensor | None, generator: torch.Generator
) -> None:
    """b_k = |mu_k - mu_bar|^2 / 2 sigma^2 up to a constant, T = 1, whatever the prior."""
    sigma = 0.2
    model = per_sequence(MEANS, sigma, None if log_prior is None else log_prior.double())
    x = draw(500, 1, sigma, generator)
    calibration = calibrate(OneStepGradient()(model, x), Enumeration()(model, x))
    bias = (MEANS - MEANS.mean()) ** 2 / (2 * sigma**2)
    torch.testing.assert_close(calibration.offsets, bias - bias.mean(), rtol=0, atol=1e-5)
    assert calibration.temperature == pytest.approx(1.0, abs=1e-6)
    assert float(calibration.offsets.sum()) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("K", [2, 3, 20])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 40.0])
def test_a_known_temperature_and_known_offsets_are_recovered(
    K: int, temperature: float, generator: torch.Generator
) -> None:
    exact = torch.randn(300, K, generator=generator, dtype=F64).log_softmax(-1)
    offsets = torch.randn(K, generator=generator, dtype=F64)
    offsets = temperature * (offsets - offsets.mean())
    n = 1 + torch.arange(300, dtype=F64) % 4
    scores = temperature * exact + n.unsqueeze(-1) * offsets
    cheap = replace(posterior(scores.log_softmax(-1)), num_observations={"z": n})
    calibration = calibrate(cheap, posterior(exact))
    assert calibration.temperature == pytest.approx(temperature, rel=1e-6)
    torch.testing.assert_close(calibration.offsets, offsets, rtol=1e-5, atol=1e-6 * temperature)


def test_no_other_temperature_and_offsets_fit_better(generator: torch.Generator) -> None:
    """The problem is convex, so the fit beats others near and far. No fit is exact here."""
    cheap = posterior(2 * torch.randn(200, 4, generator=generator, dtype=F64))
    noise = torch.randn(200, 4, generator=generator, dtype=F64)
    exact = posterior((cheap.logits() / 3 + noise).log_softmax(-1))
    fitted = calibrate(cheap, exact)

    def loss(c: Calibration) -> float:
        n = cheap.num_observations["z"]
        return kl(exact, posterior(c(cheap.logits(), n)))

    best = loss(fitted)
    assert best > 0.05
    for spread in (1e-4, 1e-2, 1.0):
        for _ in range(50):
            factor, shift = torch.randn(5, generator=generator, dtype=F64).split([1, 4])
            other = Calibration(
                fitted.temperature * math.exp(spread * float(factor)),
                fitted.offsets + spread * (shift - shift.mean()),
            )
            assert loss(other) >= best - 1e-12


@pytest.mark.parametrize(("fitted_at", "used_at"), [(1, 4), (4, 1), (3, 7)])
def test_offsets_grow_with_the_number_of_observations(
    fitted_at: int, used_at: int, generator: torch.Generator
) -> None:
    """The bias is a constant per observation, so a fit at one length is exact at any other."""
    sigma = 0.3
    model = per_sequence(MEANS, sigma)
    x = draw(500, fitted_at, sigma, generator)
    calibration = calibrate(OneStepGradient()(model, x), Enumeration()(model, x))
    x = draw(200, used_at, sigma, generator)
    calibrated = OneStepGradient(calibration=calibration)(model, x)
    assert kl(Enumeration()(model, x), calibrated) <= 1e-6


def test_each_of_several_sites_takes_its_own_calibration(generator: torch.Generator) -> None:
    def model(x: Tensor, y: Tensor) -> None:
        with pyro.plate("sequence", len(x)):
            for name, data, means in (("a", x, MEANS), ("b", y, MEANS[:3])):
                prior = dist.OneHotCategorical(logits=torch.zeros_like(means))
                z = pyro.sample(name, prior, infer={"task": True})
                pyro.sample(f"{name}_data", dist.Normal(z @ means, 0.2), obs=data)

    data = draw(2, 300, 0.2, generator)
    one, exact = OneStepGradient()(model, *data), Enumeration()(model, *data)
    both = tuple(calibrate(one, exact, site=s) for s in ("a", "b"))
    # Each element of "a" explains its own x, and y lies in the same plate: 2 observations.
    calibrated = OneStepGradient(calibration=both)(model, *data)
    for site in ("a", "b"):
        difference = calibrated.logits(site).exp() - exact.logits(site).exp()
        assert difference.abs().max() < 1e-6
    with pytest.raises(TaskSiteError):
        calibrate(one, exact)  # which of the two?


# Files


def test_a_saved_calibration_is_read_back_equal(tmp_path: Path) -> None:
    calibration = Calibration(1.0 / 3.0, torch.tensor([0.1, -0.3, 0.2], dtype=F64) / 7, "task")
    path = tmp_path / "deep" / "calibration.json"
    calibration.save(path)
    loaded = Calibration.load(path)
    assert loaded == calibration
    assert hash(loaded) == hash(calibration)
    assert torch.equal(loaded.offsets, calibration.offsets)
    assert set(json.loads(path.read_text())) == {*("site", "temperature", "offsets", "sha256")}
    assert [p.name for p in path.parent.iterdir()] == ["calibration.json"]


@pytest.mark.parametrize("change", [('"z"', '"y"'), ("1.5", "1.25"), ("-0.5", "-0.25"), ("a", "b")])
def test_an_altered_calibration_is_refused(tmp_path: Path, change: tuple[str, str]) -> None:
    path = tmp_path / "calibration.json"
    Calibration(1.5, torch.tensor([0.5, -0.5], dtype=F64)).save(path)
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(ValueError, match=r"calibration\.json is not a calibration"):
        Calibration.load(path)


def test_calibrations_that_differ_are_not_equal() -> None:
    one = Calibration(1.0, torch.tensor([0.5, -0.5]))
    assert one == Calibration(1.0, torch.tensor([0.5, -0.5]))
    assert one != Calibration(1.0, torch.tensor([0.4, -0.4]))
    assert one != Calibration(1.0, torch.tensor([0.5, -0.5]), "other")
    assert one != "one"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"\xff\xfe\x00",
        b"[1, 2]",
        b"3",
        b'{"site": "z", "temperature": 1.0}',
        b'{"site": "z", "temperature": null, "offsets": [0.0, 0.0]}',
        b'{"site": "z", "temperature": "warm", "offsets": [0.0, 0.0]}',
        b'{"site": "z", "temperature": 1.0, "offsets": ["a", "b"]}',
        b'{"site": "z", "temperature": 1.0, "offsets": [NaN, 0.0]}',
        b'{"site": "z", "temperature": -1.0, "offsets": [0.0, 0.0]}',
        b'{"site": "z", "temperature": Infinity, "offsets": [0.0, 0.0]}',
    ],
)
def test_a_broken_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.json is not a calibration: expected JSON with"):
        Calibration.load(path)


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Calibration.load(tmp_path / "none.json")


# Errors


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_is_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="must be positive and finite"):
        Calibration(temperature, torch.zeros(2))


@pytest.mark.parametrize("offsets", [torch.zeros(2, 2), torch.tensor([0.0, math.inf])])
def test_offsets_are_a_finite_vector(offsets: Tensor) -> None:
    with pytest.raises(ValueError, match="must be K finite numbers"):
        Calibration(1.0, offsets)


def test_a_calibration_for_other_tasks_is_refused(generator: torch.Generator) -> None:
    calibration = Calibration(1.0, torch.zeros(3))
    with pytest.raises(ValueError, match="fitted on 3 tasks and is asked for 5"):
        OneStepGradient(calibration=calibration)(
            per_sequence(MEANS, 0.1), draw(4, 1, 0.1, generator)
        )


def test_posteriors_have_to_belong_together(generator: torch.Generator) -> None:
    scores = torch.randn(6, 3, generator=generator, dtype=F64).log_softmax(-1)
    good = posterior(scores)
    with pytest.raises(ValueError, match="run both on the same data"):
        calibrate(good, posterior(scores[:4]))
    with pytest.raises(TaskSiteError, match="'z' is not a task site"):
        calibrate(good, posterior(scores, name="other"))
    with pytest.raises(ValueError, match="calibrated already"):
        calibrate(posterior(scores, calibration=[{"temperature": 1.0}]), good)
    with pytest.raises(ValueError, match="forbidden task"):
        calibrate(posterior(scores.masked_fill(scores < scores.mean(), -math.inf)), good)
    with pytest.raises(ValueError, match="no positive temperature fits"):
        calibrate(posterior(-scores), good)


# Several posteriors at once


def test_one_calibration_serves_every_number_of_observations(generator: torch.Generator) -> None:
    model, lengths = per_sequence(MEANS, 0.3), (1, 2, 5, 10)
    fit = {n: draw(200, n, 0.3, generator) for n in lengths}
    calibration = calibrate(
        [OneStepGradient()(model, x) for x in fit.values()],
        [Enumeration()(model, x) for x in fit.values()],
    )
    for n in (*lengths, 20):  # 20: a number that it was not fitted on
        x = draw(200, n, 0.3, generator)
        q = OneStepGradient(calibration=calibration)(model, x)
        assert kl(Enumeration()(model, x), q) <= 1e-6


def test_several_posteriors_fitted_together_weigh_by_their_elements(
    generator: torch.Generator,
) -> None:
    g, p = torch.randn(2, 30, 4, generator=generator, dtype=F64).log_softmax(-1)
    parts = [posterior(g[:10]), posterior(g[10:])], [posterior(p[:10]), posterior(p[10:])]
    together, whole = calibrate(*parts), calibrate(posterior(g), posterior(p))
    assert together.temperature == pytest.approx(whole.temperature, rel=1e-9)
    torch.testing.assert_close(together.offsets, whole.offsets, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("exact", [[], [1, 2]])
def test_as_many_exact_posteriors_as_cheap_ones(exact: list[int]) -> None:
    one = posterior(torch.zeros(3, 2, dtype=F64).log_softmax(-1))
    with pytest.raises(ValueError, match=f"got 1 and {len(exact)}"):
        calibrate([one], [one for _ in exact])
