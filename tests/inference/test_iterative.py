import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from gbi_pyro import (
    Enumeration,
    IterativeGradient,
    OneStepGradient,
    TaskSiteError,
    relaxed_log_joint,
)
from gbi_pyro.logjoint import Passes
from gbi_pyro.models import SequenceLSTM

Model = Callable[..., Any]
F64 = torch.float64


def affine_head(means: Tensor, sigma: float, log_prior: Tensor) -> Model:
    """A Gaussian whose log likelihood is linear in q: E_k log p(x | k)."""

    def model(x: Tensor) -> None:
        with pyro.plate("sequence", len(x)):
            prior = dist.OneHotCategorical(logits=log_prior)
            z = pyro.sample("z", prior, infer={"task": True})
            m = z @ means
            pyro.sample("x", dist.Normal(m, sigma), obs=x)
            pyro.factor("variance", -(z @ means**2 - m**2) / (2 * sigma**2))

    return model


def gaussian(means: Tensor, sigma: float, log_prior: Tensor) -> Model:
    """A Gaussian with mean q . mu; ``means`` is (K,) or, for vectors x, (K, D)."""

    def model(x: Tensor) -> None:
        with pyro.plate("sequence", len(x)):
            prior = dist.OneHotCategorical(logits=log_prior)
            z = pyro.sample("z", prior, infer={"task": True})
            noise = dist.Normal(z @ means, sigma)
            pyro.sample("x", noise.to_event(1) if means.ndim == 2 else noise, obs=x)

    return model


MEANS = torch.tensor([0.2, 0.5, 0.9], dtype=F64)
LOG_PRIOR = torch.tensor([0.5, 0.2, 0.3], dtype=F64).log()
X = torch.linspace(0.0, 1.2, 7, dtype=F64)
AFFINE = affine_head(MEANS, 0.4, LOG_PRIOR)
CURVED = gaussian(MEANS, 0.4, LOG_PRIOR)


def objective(model: Model, q: Tensor, x: Tensor, temperature: float) -> float:
    """f_T(q), written out: l(q) + T H(q)."""
    total = relaxed_log_joint(model, {"z": q}, x).total
    return float(total + temperature * torch.special.entr(q).sum())


@pytest.mark.parametrize("model", [AFFINE, CURVED])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_first_mirror_step_at_rate_one_over_alpha_is_the_one_step_gradient(
    model: Model, temperature: float
) -> None:
    mirror = IterativeGradient(num_steps=1, rate=1 / temperature, temperature=temperature)(model, X)
    one = OneStepGradient(temperature=temperature)(model, X)
    torch.testing.assert_close(mirror.logits(), one.logits(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("optim", "rate", "num_steps", "tolerance"),
    # Mirror: log q is a geometric series with ratio 1 - rate, here (1/2)^60. SGD in the logits: the
    # slowest rate is that of the least probable task. Adam's own momentum forgets in 1000 steps.
    [("mirror", 0.5, 60, 1e-12), ("sgd", 2.0, 400, 1e-6), ("adam", 0.05, 600, 1e-5)],
)
def test_converges_to_the_exact_posterior_where_the_log_joint_is_affine(
    optim: Any, rate: float, num_steps: int, tolerance: float
) -> None:
    exact = Enumeration()(AFFINE, X).probs()
    found = IterativeGradient(num_steps, rate=rate, optim=optim)(AFFINE, X).probs()
    torch.testing.assert_close(found, exact, rtol=0, atol=tolerance)


def test_mirror_converges_to_the_tempered_posterior() -> None:
    exact = Enumeration(temperature=2.0)(AFFINE, X).logits()
    found = IterativeGradient(80, rate=0.25, temperature=2.0)(AFFINE, X).logits()  # ratio 1/2
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("model", [AFFINE, CURVED])
@pytest.mark.parametrize(("optim", "rate"), [("mirror", 0.2), ("sgd", 0.05), ("adam", 0.01)])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_small_steps_never_lower_the_objective(
    model: Model, optim: Any, rate: float, temperature: float
) -> None:
    infer = IterativeGradient(40, rate=rate, optim=optim, temperature=temperature, keep_path=True)
    path = infer(model, X).path["z"]
    values = torch.tensor([objective(model, q, X, temperature) for q in path])
    assert (values.diff() >= -1e-9).all()
    assert values[-1] > values[0]


def test_the_maximiser_on_the_simplex_has_equal_slopes() -> None:
    """Stationarity with the constraint: dl/dq_k - temperature log q_k is the same for all k."""
    posterior = IterativeGradient(400, rate=0.2, temperature=1.0)(CURVED, X)
    q = posterior.probs().requires_grad_()
    (slope,) = torch.autograd.grad(relaxed_log_joint(CURVED, {"z": q}, X).total, q)
    slope = slope - posterior.logits()
    assert (slope.amax(-1) - slope.amin(-1)).max() < 1e-9


@pytest.mark.parametrize(
    ("optim", "regularizer"),
    [("mirror", "entropy"), ("sgd", "entropy"), ("sgd", "l2"), ("adam", "entropy"), ("adam", "l2")],
)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_results_are_normalised(optim: Any, regularizer: Any, dtype: torch.dtype) -> None:
    model = gaussian(MEANS.to(dtype), 0.1, LOG_PRIOR.to(dtype))
    infer = IterativeGradient(20, rate=0.3, optim=optim, regularizer=regularizer, keep_path=True)
    posterior = infer(model, X.to(dtype))
    eps = torch.finfo(dtype).eps
    assert posterior.logits().dtype == dtype
    assert posterior.logits().logsumexp(-1).abs().max() <= 20 * eps
    assert (posterior.path["z"].sum(-1) - 1).abs().max() <= 20 * eps
    assert (posterior.path["z"] >= 0).all()


# Free space


def test_free_space_finds_the_unconstrained_maximiser_outside_the_hull() -> None:
    """mu . Z = x is solved from u along mu: Z = u + (x - mu_bar) mu / |mu|^2. A uniform prior is
    constant on the simplex, so it must not pull."""
    means, u = torch.tensor([0.2, 0.8], dtype=F64), torch.full((2,), 0.5, dtype=F64)
    x = torch.tensor([-0.2, 0.5, 1.4], dtype=F64)
    model = gaussian(means, 0.1, torch.zeros(2, dtype=F64))
    rate = 0.5 * 0.1**2 / float(means @ means)  # halves the error at every step
    infer = IterativeGradient(60, rate=rate, optim="sgd", temperature=0.0, space="free")
    posterior = infer(model, x)
    expected = u + ((x - means.mean()) / (means @ means)).unsqueeze(-1) * means
    torch.testing.assert_close(posterior.point(), expected, rtol=0, atol=1e-12)
    assert posterior.point().max() > 1
    assert posterior.point().min() < 0


def test_free_space_with_vector_means_projects_onto_their_span(
    generator: torch.Generator,
) -> None:
    means = torch.randn(3, 2, generator=generator, dtype=F64)
    x = 3 * torch.randn(5, 2, generator=generator, dtype=F64)
    sigma = 0.7
    model = gaussian(means, sigma, torch.zeros(3, dtype=F64))
    rate = sigma**2 / float(torch.linalg.matrix_norm(means, 2) ** 2)
    infer = IterativeGradient(2000, rate=rate, optim="sgd", temperature=0.0, space="free")
    expected = 1 / 3 + (x - means.mean(0)) @ torch.linalg.pinv(means)
    torch.testing.assert_close(infer(model, x).point(), expected, rtol=0, atol=1e-9)


def test_the_free_l2_maximiser_is_ridge_regression() -> None:
    """-(x - mu.Z)^2 / 2s^2 + Z.(log pi - mean) - T |Z - u|^2 / 2 is quadratic: solve it."""
    temperature, sigma = 0.5, 0.4
    infer = IterativeGradient(
        500, rate=0.1, optim="sgd", temperature=temperature, regularizer="l2", space="free"
    )
    pull = LOG_PRIOR - LOG_PRIOR.mean()
    curvature = torch.outer(MEANS, MEANS) / sigma**2 + temperature * torch.eye(3, dtype=F64)
    right = X.unsqueeze(-1) * MEANS / sigma**2 + pull + temperature / 3
    expected = torch.linalg.solve(curvature, right.mT).mT
    found = infer(gaussian(MEANS, sigma, LOG_PRIOR), X)
    torch.testing.assert_close(found.point(), expected, rtol=0, atol=1e-9)


def test_probs_of_free_values_are_the_nearest_point_of_the_simplex() -> None:
    """Nearest: (Z - p) . (e_k - p) <= 0 for every corner (variational inequality)."""
    model = gaussian(torch.eye(4, dtype=F64), 0.5, torch.zeros(4, dtype=F64))
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    infer = IterativeGradient(30, rate=0.1, optim="sgd", temperature=0.0, space="free")
    posterior = infer(model, x)
    z, p = posterior.point(), posterior.probs()
    assert (p.sum(-1) - 1).abs().max() < 1e-14
    assert p.min() >= 0
    towards = ((z - p).unsqueeze(-2) * (torch.eye(4) - p.unsqueeze(-2))).sum(-1)
    assert towards.max() < 1e-12
    assert (p.gt(0).sum(-1) < 4).any()  # some lie on an edge


# The L2 penalty on the logits is the entropy near the middle only


def regulariser_slope(regularizer: Any, logits: Tensor) -> Tensor:
    """The gradient of a regulariser in the logits, from one step with it and one without."""
    model = gaussian(torch.eye(logits.shape[-1], dtype=F64), 1e3, torch.zeros(10, dtype=F64))
    x, rate = torch.zeros_like(logits), 1e-3
    start = {"z": logits.softmax(-1)}
    with_it, without = (
        IterativeGradient(
            1, rate=rate, optim="sgd", temperature=temperature, regularizer=regularizer, start=start
        )(model, x).logits()
        for temperature in (1.0, 0.0)
    )
    difference = (with_it - without) / rate
    return difference - difference.mean(-1, keepdim=True)


@pytest.mark.parametrize("regularizer", ["entropy", "l2"])
def test_regulariser_slopes_are_the_derivatives_of_their_formulas(regularizer: Any) -> None:
    y = torch.randn(6, 10, generator=torch.Generator().manual_seed(1), dtype=F64)
    leaf = y.clone().requires_grad_()
    centred = leaf - leaf.mean(-1, keepdim=True)
    value = {
        "entropy": lambda: torch.special.entr(leaf.softmax(-1)),
        "l2": lambda: -(centred**2) / (2 * 10),
    }[regularizer]()
    (expected,) = torch.autograd.grad(value.sum(), leaf)
    # Differences of log probabilities of order 3 over a rate of 1e-3: 1e-15 * 3 / 1e-3.
    torch.testing.assert_close(regulariser_slope(regularizer, y), expected, rtol=0, atol=1e-11)


def test_entropy_and_l2_slopes_agree_near_the_middle_only(generator: torch.Generator) -> None:
    """Mean cosines for K = 10 over random logits that sum to zero, of four norms.

    The quoted values are measurements of unknown size; one unit of their last digit is granted.
    """
    directions = torch.randn(4000, 10, generator=generator, dtype=F64)
    directions = directions - directions.mean(-1, keepdim=True)
    directions = directions / directions.norm(dim=-1, keepdim=True)
    for norm, quoted, digit in [
        (0.1, 0.999, 1e-3),
        (1.0, 0.95, 1e-2),
        (5.0, 0.52, 1e-2),
        (20.0, 0.17, 1e-2),
    ]:
        slopes = [regulariser_slope(r, norm * directions) for r in ("entropy", "l2")]
        cosine = torch.cosine_similarity(*slopes, dim=-1)
        standard_error = float(cosine.std()) / math.sqrt(len(cosine))
        assert abs(float(cosine.mean()) - quoted) <= digit + 5 * standard_error


# Warm start and path


@pytest.mark.parametrize(
    "options",
    [
        {"optim": "mirror", "rate": 0.1},
        {"optim": "sgd", "rate": 0.3},
        {"optim": "sgd", "rate": 0.3, "regularizer": "l2"},
        {"optim": "sgd", "rate": 0.02, "regularizer": "l2", "space": "free"},
    ],
)
def test_a_warm_start_continues_exactly(options: dict[str, Any]) -> None:
    half = IterativeGradient(7, **options)(CURVED, X)
    rest = IterativeGradient(5, **options, start=half)(CURVED, X)
    by_value = IterativeGradient(5, **options, start={"z": half.point()})(CURVED, X)
    whole = IterativeGradient(12, **options)(CURVED, X)
    for continued in (rest, by_value):
        torch.testing.assert_close(continued.point(), whole.point(), rtol=0, atol=1e-13)
        assert continued.settings["warm_start"]
    assert not whole.settings["warm_start"]


def test_mirror_finds_its_way_back_from_the_wrong_corner() -> None:
    """log q forgets its start at the rate (1 - rate)^n; -36 is the log of float64's rounding."""
    exact = Enumeration()(AFFINE, X).logits()
    wrong = {"z": torch.eye(3, dtype=F64)[0].expand(len(X), 3)}
    found = IterativeGradient(60, rate=0.5, start=wrong)(AFFINE, X).logits()
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("optim", ["sgd", "adam"])
def test_a_start_at_a_corner_makes_no_nan(optim: Any) -> None:
    corner = {"z": torch.eye(3, dtype=F64)[0].expand(len(X), 3)}
    found = IterativeGradient(20, rate=0.5, optim=optim, start=corner)(AFFINE, X)
    assert found.logits().isfinite().all()


@pytest.mark.parametrize("space", ["simplex", "free"])
def test_path_begins_at_the_start_and_ends_at_the_result(space: Any) -> None:
    start = torch.tensor([0.2, 0.3, 0.5], dtype=F64).expand(len(X), 3)
    infer = IterativeGradient(
        6,
        rate=0.05,
        optim="sgd",
        regularizer="l2",
        space=space,
        start={"z": start},
        keep_path=True,
    )
    posterior = infer(CURVED, X)
    path = posterior.path["z"]
    assert path.shape == (7, len(X), 3)
    torch.testing.assert_close(path[0], start, rtol=0, atol=1e-15)
    torch.testing.assert_close(path[-1], posterior.point(), rtol=0, atol=1e-15)
    shorter = IterativeGradient(
        3, rate=0.05, optim="sgd", regularizer="l2", space=space, start={"z": start}
    )(CURVED, X)
    torch.testing.assert_close(path[3], shorter.point(), rtol=0, atol=1e-15)
    assert not shorter.path


# Forbidden tasks


OPTIONS = [
    {"optim": "mirror", "rate": 0.2},
    {"optim": "sgd", "rate": 0.3},
    {"optim": "adam", "rate": 0.1},
    {"optim": "sgd", "rate": 0.3, "regularizer": "l2"},
    {"optim": "adam", "rate": 0.1, "regularizer": "l2"},
    {"optim": "sgd", "rate": 0.05, "regularizer": "l2", "space": "free"},
    {"optim": "adam", "rate": 0.05, "regularizer": "l2", "space": "free"},
    {"optim": "sgd", "rate": 0.05, "temperature": 0.0, "space": "free"},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_forbidden_task_is_as_if_it_were_not_there(options: dict[str, Any]) -> None:
    """Same means and prior without the third task: every step is the same."""
    means = torch.tensor([0.2, 0.9, 0.5], dtype=F64)
    prior = torch.tensor([0.3, 0.7, 0.0], dtype=F64)
    with_it = IterativeGradient(15, **options, keep_path=True)(gaussian(means, 0.4, prior.log()), X)
    without = IterativeGradient(15, **options, keep_path=True)(
        gaussian(means[:2], 0.4, prior[:2].log()), X
    )
    assert (with_it.path["z"][..., 2] == 0).all()
    assert (with_it.probs()[..., 2] == 0).all()
    torch.testing.assert_close(with_it.path["z"][..., :2], without.path["z"], rtol=0, atol=1e-12)
    torch.testing.assert_close(with_it.probs()[..., :2], without.probs(), rtol=0, atol=1e-12)


# Options and compute


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps must be at least 1"),
        ({"rate": 0.0}, "rate must be positive"),
        ({"rate": math.nan}, "rate must be positive"),
        ({"temperature": -1.0}, "temperature must not be negative"),
        ({"temperature": math.nan}, "temperature must not be negative"),
        ({"optim": "newton"}, "optim must be one of"),
        ({"regularizer": "l1"}, "regularizer must be one of"),
        ({"space": "sphere"}, "space must be one of"),
        ({"optim": "mirror", "regularizer": "l2"}, "take optim='sgd' or 'adam'"),
        ({"optim": "mirror", "space": "free", "temperature": 0.0}, "take optim='sgd' or 'adam'"),
        ({"optim": "sgd", "space": "free"}, "entropy is not defined off the simplex"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IterativeGradient(**options)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"y": torch.zeros(7, 3)}, "'y' is not a task site"),
        ({"z": torch.zeros(3)}, r"expected \(7, 3\)"),
        ({"z": torch.ones(7, 3)}, "off the simplex"),
        ({"z": torch.full((7, 3), math.nan)}, "off the simplex"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(start: dict[str, Tensor], message: str) -> None:
    with pytest.raises(TaskSiteError, match=message):
        IterativeGradient(start=start)(CURVED, X)


@pytest.mark.parametrize("optim", ["mirror", "sgd", "adam"])
def test_n_steps_cost_n_passes_each_way(optim: Any) -> None:
    assert IterativeGradient(9, rate=0.1, optim=optim)(CURVED, X).passes == Passes(9, 9)


@pytest.mark.parametrize(
    "options", [{"optim": "mirror"}, {"optim": "adam", "space": "free", "temperature": 0.0}]
)
def test_weights_are_constants(options: dict[str, Any], generator: torch.Generator) -> None:
    network = SequenceLSTM(2, 8, generator=generator)
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    IterativeGradient(3, rate=0.1, **options)(network, torch.randn(2, 5, generator=generator))
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
        assert parameter.requires_grad
