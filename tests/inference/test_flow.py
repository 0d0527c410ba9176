"""The gradient flow: closed forms, the derivative in the horizon, and what fitting it does."""

import math
from dataclasses import replace
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro_models import TASK, gaussian, normal, random_log_prior
from torch import Tensor

from gbi_pyro import Enumeration, OneStepGradient
from gbi_pyro.inference import Drawn, GradientFlow
from gbi_pyro.metrics import agreement
from gbi_pyro.problems import Problem

F64 = torch.float64
LINE = torch.linspace(0, 1, 5, dtype=F64)
flat = torch.zeros(5, dtype=F64)


def line(means: Tensor = LINE, sigma: float = 0.3) -> Problem:
    """x ~ N(mu_z, sigma)."""

    def draw(n: int, generator: torch.Generator) -> Drawn:
        z = torch.randint(len(means), (n,), generator=generator)
        return Drawn((means[z] + sigma * normal(generator, n),), {"z": z})

    log_prior = torch.zeros(len(means), dtype=F64)
    return Problem("line", partial(gaussian, means=means, sigma=sigma, log_prior=log_prior), draw)


def linear(scores: Tensor) -> None:
    """The log likelihood is linear in the point: z . scores."""
    with pyro.plate("case", len(scores)):
        prior = dist.OneHotCategorical(torch.ones_like(scores[0]))
        z = pyro.sample("z", prior, infer=TASK)
        pyro.factor("likelihood", (z * scores).sum(-1))


@pytest.mark.parametrize("horizon", [0.3, 1.0, 2.5])
def test_a_linear_likelihood_is_tempered(horizon: float, generator: torch.Generator) -> None:
    """The field is constant, y(T) = T (g + log pi), and at T = 1 exact."""
    scores = normal(generator, 6, 4)
    q = GradientFlow(horizon, steps_per_unit=4)(linear, scores)
    torch.testing.assert_close(q.logits(), (horizon * scores).log_softmax(-1), rtol=0, atol=1e-12)
    if horizon == 1:
        torch.testing.assert_close(q.logits(), Enumeration()(linear, scores).logits())


def test_a_quadratic_likelihood_of_two_tasks_has_a_closed_form(generator: torch.Generator) -> None:
    """With d = y_1 - y_0, d' = a - b sigmoid(d): separate the variables, by partial fractions.

    t(d) = d / a + b / (a (a - b)) (log|(a - b) e^d + a| - log|2 a - b|)
    """
    x, sigma, horizon = normal(generator, 8), 0.8, 0.7
    means, log_prior = (
        torch.tensor([0.1, 1.3], dtype=F64),
        torch.tensor([0.3, 0.7], dtype=F64).log(),
    )
    model = partial(gaussian, means=means, sigma=sigma, log_prior=log_prior)
    logits = GradientFlow(horizon, steps_per_unit=200)(model, x).logits()
    d = logits[:, 1] - logits[:, 0]
    gap = means[1] - means[0]
    a = gap * (x - means[0]) / sigma**2 + log_prior[1] - log_prior[0]
    b = gap**2 / sigma**2
    logs = ((a - b) * d.exp() + a).abs().log() - (2 * a - b).abs().log()
    time = d / a + b / (a * (a - b)) * logs
    torch.testing.assert_close(time, torch.full_like(x, horizon), rtol=0, atol=1e-8)


def test_one_euler_step_is_a_temperature(generator: torch.Generator) -> None:
    problem = line()
    (x,), _ = problem.draw(20, generator)
    flow = GradientFlow(0.4, method="euler")
    one = OneStepGradient(temperature=1 / 0.4)(problem.model, x)
    torch.testing.assert_close(flow(problem.model, x).logits(), one.logits())
    assert flow(problem.model, x).passes == one.passes


@pytest.mark.parametrize("method", ["rk4", "euler"])
@pytest.mark.parametrize("horizon", [0.5, 1.5])
def test_the_slope_in_the_horizon_is_that_of_differences(
    method: str, horizon: float, generator: torch.Generator
) -> None:
    problem = line()
    drawn = problem.draw(20, generator)
    exact, eps = problem.posterior(drawn), 1e-4

    def kl(at: float) -> float:
        flow = GradientFlow(at, method=method, steps_per_unit=30, check=False)  # type: ignore[arg-type]
        return flow.kl_gradient(exact, problem.model, *drawn.args).kl

    flow = GradientFlow(horizon, method=method, steps_per_unit=30)  # type: ignore[arg-type]
    found = flow.kl_gradient(exact, problem.model, *drawn.args)
    difference = (kl(horizon + eps) - kl(horizon - eps)) / (2 * eps)
    assert found.slope == pytest.approx(difference, abs=1e-6)
    estimate = flow(problem.model, *drawn.args)
    assert found.kl == pytest.approx(agreement(exact, estimate).kl, abs=1e-10)


def two(x: Tensor) -> None:
    """Two tasks that do not meet in any factor."""
    for name, centre in ("a", 0.0), ("b", 0.5):
        with pyro.plate(f"case_{name}", len(x)):
            z = pyro.sample(name, dist.OneHotCategorical(logits=flat), infer=TASK)
            pyro.sample(f"x_{name}", dist.Normal(z @ LINE + centre, 0.3), obs=x)


def test_sites_follow_their_own_gradients(generator: torch.Generator) -> None:
    x = normal(generator, 5)
    flow = GradientFlow(0.8, steps_per_unit=20)
    both, exact = flow(two, x), Enumeration()(two, x)
    alone = [partial(gaussian, means=LINE + c, sigma=0.3, log_prior=flat) for c in (0.0, 0.5)]
    kl, slope = 0.0, 0.0
    for name, model in zip("ab", alone, strict=True):
        torch.testing.assert_close(both.logits(name), flow(model, x).logits())
        one = flow.kl_gradient(Enumeration()(model, x), model, x)
        kl, slope = kl + one.kl, slope + one.slope
    assert flow.kl_gradient(exact, two, x) == pytest.approx((kl, slope), abs=1e-12)
    assert both.joint is None


def test_a_fitted_horizon_is_closer_on_fresh_data(generator: torch.Generator) -> None:
    """And no horizon nearby is better on the cases of the fit."""
    problem = line(sigma=0.6)
    start = GradientFlow(2.5, steps_per_unit=6, updates=20)
    fitted = start.fit(problem, generator)
    drawn = problem.draw(200, generator)
    exact = problem.posterior(drawn)
    before, after = (agreement(exact, f(problem.model, *drawn.args)).kl for f in (start, fitted))
    assert after < before
    cases = problem.draw(100, torch.Generator().manual_seed(0))
    exact = problem.posterior(cases)
    kl, *around = (
        replace(fitted, horizon=factor * fitted.horizon)
        .kl_gradient(exact, problem.model, *cases.args)
        .kl
        for factor in (1, 0.9, 1.1)
    )
    assert kl < min(around)
    assert (start.horizon, fitted.steps_per_unit) == (2.5, 6)


def test_the_fitted_euler_step_of_two_tasks_is_exact(generator: torch.Generator) -> None:
    """One step of size 1 is the exact posterior there."""
    problem = line(torch.tensor([0.2, 0.8], dtype=F64))
    fitted = GradientFlow(0.5, method="euler").fit(problem, generator)
    assert fitted.horizon == pytest.approx(1, abs=1e-3)


def test_a_simulator_without_an_exact_posterior_is_enumerated(generator: torch.Generator) -> None:
    class Plain:
        model = staticmethod(line().model)
        draw = staticmethod(line().draw)

    options = {"method": "euler", "updates": 3}
    fitted = GradientFlow(**options).fit(Plain(), generator)  # type: ignore[arg-type]
    other = GradientFlow(**options).fit(line(), torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    assert fitted.horizon == pytest.approx(other.horizon, rel=1e-12)


@pytest.mark.parametrize("method", ["rk4", "euler"])
def test_elements_without_data_get_the_prior(method: str, generator: torch.Generator) -> None:
    log_prior = random_log_prior(generator, 5)

    def masked(x: Tensor) -> None:
        with poutine.mask(mask=torch.tensor([True, False])):
            gaussian(x, LINE, 0.5, log_prior)

    flow, x = GradientFlow(0.5, method=method), normal(generator, 2)  # type: ignore[arg-type]
    found = flow(masked, x)
    torch.testing.assert_close(found.logits()[1], log_prior)
    assert not torch.allclose(found.logits()[0], log_prior, atol=1e-3)
    alone = flow.kl_gradient(
        Enumeration()(gaussian, x[:1], LINE, 0.5, log_prior), gaussian, x[:1], LINE, 0.5, log_prior
    )
    both = flow.kl_gradient(Enumeration()(masked, x), masked, x)
    assert both == pytest.approx((alone.kl / 2, alone.slope / 2))


@pytest.mark.parametrize("method", ["rk4", "euler"])
def test_a_forbidden_task_changes_nothing(method: str, generator: torch.Generator) -> None:
    x, flow = normal(generator, 5), GradientFlow(0.5, method=method)  # type: ignore[arg-type]
    prior = torch.tensor([0.25, 0.0, 0.35, 0.4, 0.0], dtype=F64)
    keep = prior > 0
    found = flow(gaussian, x, LINE, 0.5, prior.log())
    without = flow(gaussian, x, LINE[keep], 0.5, prior[keep].log())
    torch.testing.assert_close(found.logits()[:, keep], without.logits())
    assert bool(found.logits()[:, ~keep].isneginf().all())
    exact = Enumeration()(gaussian, x, LINE, 0.5, prior.log())
    assert math.isfinite(flow.kl_gradient(exact, gaussian, x, LINE, 0.5, prior.log()).slope)


def test_passes_are_counted(generator: torch.Generator) -> None:
    problem = line(sigma=1.0)
    posterior = GradientFlow(0.5, steps_per_unit=8)(problem.model, normal(generator, 3))
    assert posterior.passes == (16, 16, 7)
    unchecked = GradientFlow(0.5, steps_per_unit=8, check=False)
    assert unchecked(problem.model, normal(generator, 3)).passes == (16, 16, 0)


def test_steps_that_are_too_long_are_refused(generator: torch.Generator) -> None:
    problem = line(sigma=0.1)
    (x,), _ = problem.draw(20, generator)
    assert GradientFlow(0.3, steps_per_unit=200)(problem.model, x).logits().isfinite().all()
    with pytest.raises(ValueError, match=r"half as many steps change .* raise steps_per_unit = 8"):
        GradientFlow(steps_per_unit=8)(problem.model, x)


def test_a_flow_that_becomes_infinite_is_refused() -> None:
    scores = torch.tensor([[1e38, -1e38, 0.0]])
    with pytest.raises(ValueError, match="logits of task site 'z' become infinite"):
        GradientFlow(10, steps_per_unit=1)(linear, scores)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"horizon": 0.0}, ValueError, "horizon must be positive and finite"),
        ({"horizon": math.inf}, ValueError, "horizon must be positive and finite"),
        ({"horizon": "long"}, TypeError, "horizon of GradientFlow should be a number"),
        ({"method": "heun"}, ValueError, "method must be 'rk4' or 'euler'"),
        ({"steps_per_unit": 0}, ValueError, "steps_per_unit must be at least 1"),
        ({"updates": -1}, ValueError, "updates must be at least 0"),
        ({"cases": 0}, ValueError, "cases must be at least 1"),
        ({"rate": -1.0}, ValueError, "rate must be positive"),
    ],
)
def test_options_are_checked(
    options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        GradientFlow(**options)  # type: ignore[arg-type]
