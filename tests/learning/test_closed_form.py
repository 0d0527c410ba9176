"""Steps of expectation maximisation in closed form: they climb, and end at an optimum."""

from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from torch import Tensor

from gbi_pyro.inference import LearnedChain, TaskChain, TaskPrior, marginalize
from gbi_pyro.learning import fit_marginal
from gbi_pyro.learning._closed_form import ClosedForm
from gbi_pyro.learning._lbfgs import minimize
from gbi_pyro.learning._log_joint import LogJoint

F64 = torch.float64
K, S, T = 2, 3, 40
POSITIVE, UNIT = constraints.positive, constraints.unit_interval


def param(name: str, value: object, support: object = constraints.real) -> Tensor:
    return pyro.param(name, torch.as_tensor(value, dtype=F64), constraint=support)


def gaussian(z: Tensor) -> dist.Distribution:
    return dist.Normal(z @ param("loc", [-1.0, 1.5]), z @ param("scale", [0.5, 0.9], POSITIVE))


def one_scale(z: Tensor) -> dist.Distribution:
    return dist.Normal(z @ param("loc", [-1.0, 1.5]), param("scale", 0.7, POSITIVE))


def loc_alone(z: Tensor) -> dist.Distribution:
    return dist.Normal(z @ param("loc", [-1.0, 1.5]), 0.8)


def scale_alone(z: Tensor) -> dist.Distribution:
    return dist.Normal(
        z @ torch.tensor([-1.0, 1.0], dtype=F64), z @ param("scale", [0.5, 0.9], POSITIVE)
    )


def plane(z: Tensor) -> dist.Distribution:
    loc = z @ param("loc", [[-1.0, 0.0], [1.5, 0.3]])
    return dist.Normal(loc, z @ param("scale", [[0.5, 0.6], [0.7, 0.9]], POSITIVE)).to_event(1)


def poisson(z: Tensor) -> dist.Distribution:
    return dist.Poisson(z @ param("rate", [1.0, 4.0], POSITIVE))


def exponential(z: Tensor) -> dist.Distribution:
    return dist.Exponential(z @ param("rate", [0.5, 2.0], POSITIVE))


def coin(z: Tensor) -> dist.Distribution:
    return dist.Bernoulli(z @ param("p", [0.2, 0.7], UNIT))


def letter(z: Tensor) -> dist.Distribution:
    rows = [[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]
    return dist.Categorical(z @ param("p", rows, constraints.simplex))


Law = Callable[[Tensor], dist.Distribution]
LAWS = [
    gaussian,
    one_scale,
    loc_alone,
    scale_alone,
    plane,
    poisson,
    exponential,
    coin,
    letter,
]


def data(law: Law, generator: torch.Generator) -> Tensor:
    z = torch.nn.functional.one_hot(torch.arange(S * T).reshape(S, T) // 8 % K, K).to(F64)
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(1000, (), generator=generator)))
        return law(z).sample()


def model_of(law: Law, *, hides: bool = False) -> Callable[[Tensor], None]:
    def model(x: Tensor) -> None:
        with pyro.plate("session", S, dim=-2), pyro.plate("time", T, dim=-1):
            prior = dist.OneHotCategorical(torch.tensor([0.4, 0.6], dtype=F64))
            z = pyro.sample("z", prior, infer={"task": True})
            shown = torch.arange(T) % 5 > 0 if hides else torch.tensor(True)
            with poutine.mask(mask=shown):
                pyro.sample("x", law(z), obs=x)

    return model


def read(log_joint: LogJoint) -> ClosedForm | None:
    near = log_joint.here + 0.01 * np.arange(1, 1 + len(log_joint.here))
    log_joint.vectorise(near, 2)
    return ClosedForm.read(log_joint, near)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("prior", ["chain", "fixed chain", "none", "lengths", "masked"])
def test_each_step_climbs_and_none_leaves_the_optimum(
    law: Law, prior: str, generator: torch.Generator
) -> None:
    x = data(law, generator)
    pyro.clear_param_store()
    priors = {"fixed chain": TaskChain.sticky(K, 0.1), "none": None}
    chain = priors.get(prior, LearnedChain(K, name="hidden"))
    lengths = torch.tensor([T, 25, 31]) if prior == "lengths" else None
    marginal = marginalize(model_of(law, hides=prior == "masked"), chain, lengths)
    log_joint = LogJoint.of(marginal, (x,))
    steps = read(log_joint)
    assert steps is not None
    points = np.stack([log_joint.here, log_joint.here + 0.1])
    for _ in range(10):
        before = log_joint(points)[0]
        found = steps._step(points)
        assert found is not None
        value, points = found
        np.testing.assert_allclose(value, before, rtol=1e-12)
        assert (log_joint(points)[0] >= before - 1e-9).all()

    def loss(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, gradients = log_joint(points)
        return -values, -gradients

    optimum = minimize(loss, points, tolerance=1e-6, max_iter=500)
    assert np.abs(optimum.gradients).max() < 1e-4
    found = steps._step(optimum.points)
    assert found is not None
    at, after = (log_joint.values(torch.from_numpy(p)) for p in (optimum.points, found[1]))
    for name in at:
        torch.testing.assert_close(after[name], at[name], atol=1e-4, rtol=1e-4)


def test_a_model_in_single_precision_is_read_as_well(generator: torch.Generator) -> None:
    x = torch.poisson(torch.tensor([2.0] * 20 + [9.0] * 20), generator=generator)

    def model(x: Tensor) -> None:
        rates = pyro.param("rates", torch.tensor([1.0, 5.0]), constraint=POSITIVE)
        with pyro.plate("time", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(K)), infer={"task": True})
            pyro.sample("x", dist.Poisson(z @ rates), obs=x)

    log_joint = LogJoint.of(marginalize(model, LearnedChain(K)), (x,))
    assert read(log_joint) is not None
    fit = fit_marginal(marginalize(model, LearnedChain(K)), x, starts=2, tolerance=1e-5)
    pyro.clear_param_store()
    with_doubles = fit_marginal(marginalize(model, LearnedChain(K)), x.double(), starts=2)
    assert fit.log_evidence == pytest.approx(with_doubles.log_evidence, abs=1e-3)


def transformed(x: Tensor) -> None:
    roots = param("roots", [1.0, 2.0])
    with pyro.plate("time", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(K, dtype=F64)), infer={"task": True})
        pyro.sample("x", dist.Normal(z @ roots**2, 1.0), obs=x)


def latent(x: Tensor) -> None:
    means = pyro.sample("means", dist.Normal(torch.zeros(K, dtype=F64), 1.0).to_event(1))
    with pyro.plate("time", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(K, dtype=F64)), infer={"task": True})
        pyro.sample("x", dist.Normal(z @ means, 1.0), obs=x)


def plain(x: Tensor) -> None:
    means = param("means", [-1.0, 1.0])
    with pyro.plate("time", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(K, dtype=F64)), infer={"task": True})
        pyro.sample("x", dist.Normal(z @ means, 1.0), obs=x)


def learned(x: Tensor) -> TaskPrior:
    return TaskPrior(param("p", [0.3, 0.7], constraints.simplex).log())


def test_models_without_closed_forms_are_left_to_the_minimiser(generator: torch.Generator) -> None:
    x = torch.randn(20, generator=generator, dtype=F64)
    driven = LearnedChain(K, inputs=lambda x: x.unsqueeze(-1))
    for model, prior in [
        (transformed, LearnedChain(K)),
        (latent, LearnedChain(K)),
        (plain, driven),
        (plain, LearnedChain(K, initial="stationary")),
        (plain, learned),
    ]:
        pyro.clear_param_store()
        assert read(LogJoint.of(marginalize(model, prior), (x,))) is None


def test_a_task_without_data_keeps_its_parameter() -> None:
    x = torch.tensor([0.1, -0.1, 0.0], dtype=F64)
    forbidden = TaskChain(torch.tensor([0.0, -torch.inf]), torch.tensor([[1.0, 0.0]] * 2).log())
    log_joint = LogJoint.of(marginalize(plain, forbidden), (x,))
    steps = read(log_joint)
    assert steps is not None
    (found,) = steps(log_joint.here[None], 1e-9)
    np.testing.assert_allclose(found, [0.0, 1.0], atol=1e-12)


def test_fits_end_as_without_closed_forms(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = data(gaussian, generator)
    pyro.clear_param_store()
    marginal = marginalize(model_of(gaussian), LearnedChain(K))
    with_steps = fit_marginal(marginal, x, starts=2)
    pyro.clear_param_store()
    monkeypatch.setattr(ClosedForm, "read", lambda log_joint, near: None)
    without = fit_marginal(marginal, x, starts=2)
    assert with_steps.log_evidence == pytest.approx(without.log_evidence, abs=1e-5)
    assert with_steps.converged
