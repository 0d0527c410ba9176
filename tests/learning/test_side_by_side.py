"""Many parameter values in one run: equal to checked runs one by one, or not taken."""

from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from torch import Tensor, nn

from gbi_pyro.inference import LearnedChain, TaskChain, TaskPrior, marginalize
from gbi_pyro.inference._tape import Tape
from gbi_pyro.learning import fit_marginal
from gbi_pyro.learning._closed_form import ClosedForm
from gbi_pyro.learning._lbfgs import minimize
from gbi_pyro.learning._log_joint import LogJoint

F64 = torch.float64
TASK = {"task": True}
K, S, T = 3, 4, 12


def even() -> dist.OneHotCategorical:
    return dist.OneHotCategorical(torch.ones(K, dtype=F64))


def sequences(x: Tensor) -> None:
    means = pyro.param("means", torch.tensor([-1.0, 0.0, 2.0], dtype=F64))
    scale = pyro.param("scale", torch.tensor(0.7, dtype=F64), constraint=constraints.positive)
    with pyro.plate("session", S, dim=-2), pyro.plate("time", T, dim=-1):
        z = pyro.sample("z", even(), infer=TASK)
        pyro.sample("x", dist.Normal(z @ means, scale), obs=x)


def masked(x: Tensor) -> None:
    means = pyro.param("means", torch.tensor([-1.0, 0.0, 2.0], dtype=F64))
    with pyro.plate("session", S, dim=-2), pyro.plate("time", T, dim=-1):
        z = pyro.sample("z", even(), infer=TASK)
        with poutine.mask(mask=x < 1.5):
            pyro.sample("x", dist.Normal(z @ means, 0.5), obs=x.masked_fill(x >= 1.5, torch.nan))


def pooled(x: Tensor) -> None:
    centre = pyro.sample("centre", dist.Normal(torch.zeros((), dtype=F64), 1.0))
    gap = pyro.param("gap", torch.tensor(1.0, dtype=F64), constraint=constraints.positive)
    with pyro.plate("session", S, dim=-2):
        shift = pyro.sample("shift", dist.Normal(centre, torch.ones((S, 1), dtype=F64)))
        with pyro.plate("time", T, dim=-1):
            z = pyro.sample("z", even(), infer=TASK)
            pyro.sample("x", dist.Normal(shift + gap * z[..., 0], 0.5), obs=x)
    pyro.sample("checked", dist.Normal(centre, 1.0), obs=torch.tensor(0.3, dtype=F64))


def part(x: Tensor) -> None:
    means = pyro.param("means", torch.tensor([-1.0, 0.0, 2.0], dtype=F64))
    with pyro.plate("trial", 40, subsample=torch.arange(0, 40, 10)):
        z = pyro.sample("z", even(), infer=TASK)
        pyro.sample("x", dist.Normal(z @ means, 0.5), obs=x[:, 0])


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(K, 5, dtype=F64)
        self.out = nn.Linear(5, 1, dtype=F64)

    def forward(self, x: Tensor) -> None:
        pyro.module("network", self)
        with pyro.plate("session", S, dim=-2), pyro.plate("time", T, dim=-1):
            z = pyro.sample("z", even(), infer=TASK)
            pyro.sample("x", dist.Normal(self.out(self.layer(z).tanh())[..., 0], 0.5), obs=x)


def driven(x: Tensor) -> Tensor:
    return x.cumsum(-1).unsqueeze(-1)


def learned_prior(x: Tensor) -> TaskPrior:
    p = pyro.param("p", torch.full((K,), 1 / K, dtype=F64), constraint=constraints.simplex)
    return TaskPrior(p.log())


def durations(x: Tensor) -> TaskChain:
    law = pyro.param("law", torch.full((K, 4), 0.25, dtype=F64), constraint=constraints.simplex)
    swap = (1 - torch.eye(K, dtype=F64)) / (K - 1)
    return TaskChain("uniform", swap.log(), log_duration=law.log())


CASES = {
    "chain": (sequences, LearnedChain(K), None),
    "stationary chain": (sequences, LearnedChain(K, initial="stationary"), None),
    "driven chain": (sequences, LearnedChain(K, inputs=driven), None),
    "driven by the step entered": (sequences, LearnedChain(K, inputs=driven, of="entered"), None),
    "lengths": (sequences, LearnedChain(K), torch.tensor([[12], [5], [1], [7]])),
    "blocks": (sequences, durations, None),
    "fixed chain": (sequences, TaskChain.sticky(K, 0.1), None),
    "no chain": (sequences, None, None),
    "learned prior": (sequences, learned_prior, None),
    "masked, NaN below": (masked, LearnedChain(K), None),
    "latent sites and data outside": (pooled, LearnedChain(K), None),
    "a subsample": (part, None, None),
    "network": (Network, LearnedChain(K), None),
}


@pytest.mark.parametrize("name", CASES)
def test_many_values_in_one_run_are_what_checked_runs_say(
    name: str, generator: torch.Generator
) -> None:
    model, prior, lengths = CASES[name]
    if isinstance(model, type):
        model = model()
    if lengths is not None:
        lengths = lengths[:, 0]
    x = torch.randn((S, T), generator=generator, dtype=F64)
    log_joint = LogJoint.of(marginalize(model, prior, lengths), (x,))
    noise = torch.randn((5, len(log_joint.here)), generator=generator, dtype=F64).numpy()
    points = log_joint.here + 0.3 * noise
    log_joint.vectorise(points[0], 2)
    assert log_joint.vectorised is not None
    assert log_joint.vectorised.replays
    found, gradients = log_joint(points)
    for point, value, gradient in zip(points, found, gradients, strict=True):
        expected, slope = log_joint.alone(point)
        np.testing.assert_allclose(value, expected, rtol=1e-10)
        np.testing.assert_allclose(gradient, slope, rtol=1e-8, atol=1e-8)


def branching(x: Tensor) -> None:
    mean = pyro.param("means", torch.zeros((), dtype=F64))
    sign = 1.0 if mean > 0 else -1.0
    with pyro.plate("time", len(x)):
        z = pyro.sample("z", even(), infer=TASK)
        pyro.sample("x", dist.Normal(sign * mean * z[..., 0], 0.5), obs=x)


def writing(x: Tensor) -> None:
    means = torch.zeros(K, dtype=F64)
    means[0] = pyro.param("mean", torch.ones((), dtype=F64))
    with pyro.plate("time", len(x)):
        z = pyro.sample("z", even(), infer=TASK)
        pyro.sample("x", dist.Normal(z @ means, 0.5), obs=x)


def cut(x: Tensor) -> None:
    mean = pyro.param("mean", torch.ones((), dtype=F64))
    with torch.no_grad():
        shift = mean * 2
    with pyro.plate("time", len(x)):
        z = pyro.sample("z", even(), infer=TASK)
        pyro.sample("x", dist.Normal((mean + shift) * z[..., 0], 0.5), obs=x)


@pytest.mark.parametrize("model", [branching, writing, cut])
def test_models_that_cannot_be_run_so_are_run_one_by_one(
    model: Callable[..., None], generator: torch.Generator
) -> None:
    x = torch.randn(T, generator=generator, dtype=F64)
    log_joint = LogJoint.of(marginalize(model, LearnedChain(K)), (x,))
    points = log_joint.here + np.linspace(-1, 1, 3)[:, None]
    log_joint.vectorise(points[0], 2)
    assert log_joint.vectorised is None or not log_joint.vectorised.replays
    found, gradients = log_joint(points)
    for point, value, gradient in zip(points, found, gradients, strict=True):
        expected, slope = log_joint.alone(point)
        assert value == pytest.approx(expected, rel=1e-12)
        np.testing.assert_allclose(gradient, slope, rtol=1e-10, atol=1e-10)


def test_random_numbers_of_a_model_are_not_repeated(generator: torch.Generator) -> None:
    def model(x: Tensor) -> None:
        mean = pyro.param("mean", torch.zeros((), dtype=F64))
        with pyro.plate("time", len(x)):
            z = pyro.sample("z", even(), infer=TASK)
            noise = torch.randn(len(x), dtype=F64)
            pyro.sample("x", dist.Normal(mean * z[..., 0] + noise, 0.5), obs=x)

    marginal = marginalize(model, LearnedChain(K), check=False)
    log_joint = LogJoint.of(marginal, (torch.randn(T, generator=generator, dtype=F64),))
    log_joint.vectorise(log_joint.here, 2)
    assert log_joint.vectorised is None


def test_one_impossible_start_does_not_hurt_the_others() -> None:
    x = torch.tensor([0.5, 0.7, 0.2, 0.4], dtype=F64)

    def model(x: Tensor) -> None:
        top = pyro.param("top", torch.ones(2, dtype=F64), constraint=constraints.positive)
        with pyro.plate("time", len(x)):
            two = dist.OneHotCategorical(torch.ones(2, dtype=F64))
            z = pyro.sample("z", two, infer=TASK)
            pyro.sample("x", dist.Exponential(z @ top), obs=x)
            pyro.factor("below", torch.where(x < z @ top, 0.0, -torch.inf))

    log_joint = LogJoint.of(marginalize(model, TaskChain.sticky(2, 0.1)), (x,))
    points = np.array([[0.0, 0.0], [-2.0, -2.0], [1.0, 0.5]])
    log_joint.vectorise(points[0], 2)
    assert log_joint.vectorised is not None
    values, gradients = log_joint(points)
    assert np.isneginf(values[1])
    assert (gradients[1] == 0).all()
    for i in (0, 2):
        assert values[i] == pytest.approx(log_joint.alone(points[i])[0], rel=1e-12)


def test_a_tape_refuses_to_repeat_what_writes_into_tensors() -> None:
    def writes(x: Tensor) -> tuple[Tensor]:
        table = torch.zeros(2)
        table[0] = x.sum()
        return (table,)

    with pytest.raises(RuntimeError, match="writes into a tensor"):
        Tape(writes, torch.ones(3))

    def writes_later(x: Tensor) -> tuple[Tensor]:
        constant = torch.ones(3)
        y = x * constant
        constant += 1
        return (y,)

    with pytest.raises(RuntimeError, match="writes into a tensor"):
        Tape(writes_later, torch.ones(3))


def test_a_tape_repeats_what_writes_into_its_own_results() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2
        first = y[:1]
        y.add_(x, alpha=3)  # seen through the view as well
        return y.exp().mul_(2), first + 1

    tape = Tape(function, torch.ones(3))
    x = torch.tensor([0.5, -1.0, 2.0])
    for _ in range(2):
        for found, expected in zip(tape(x), function(x), strict=True):
            torch.testing.assert_close(found, expected)

    def writes_into_the_input(x: Tensor) -> tuple[Tensor]:
        x.view(-1).add_(1)
        return (x * 2,)

    with pytest.raises(RuntimeError, match="writes into a tensor"):
        Tape(writes_into_the_input, torch.ones(3))


def test_a_tape_has_gradients_and_lists_of_tensors() -> None:
    def function(x: Tensor) -> list[Tensor]:
        both = torch.cat([x.exp(), torch.stack([x, 2 * x]).sum(0, keepdim=True)[0]])
        return [both, x.max(0).values, torch.ones(2)]

    tape = Tape(function, torch.zeros(3, dtype=F64))
    x = torch.tensor([0.5, -1.0, 2.0], dtype=F64, requires_grad=True)
    for found, expected in zip(tape(x), function(x), strict=True):
        torch.testing.assert_close(found, expected)
        if expected.requires_grad:
            (slope,) = torch.autograd.grad(found.square().sum(), x)
            (right,) = torch.autograd.grad(expected.square().sum(), x)
            torch.testing.assert_close(slope, right)


def test_the_minimiser_finds_the_minimum_from_every_start() -> None:
    def rosenbrock(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = points.T
        value = (1 - x) ** 2 + 100 * (y - x**2) ** 2
        slope = np.stack([-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)], -1)
        return value, slope

    starts = np.random.default_rng(0).normal(size=(30, 2))
    found = minimize(rosenbrock, starts, tolerance=1e-8, max_iter=200)
    np.testing.assert_allclose(found.points, 1.0, atol=1e-6)
    alone = minimize(rosenbrock, starts[:1], tolerance=1e-8, max_iter=200)
    np.testing.assert_allclose(found.points[0], alone.points[0], rtol=1e-12)
    early = minimize(rosenbrock, starts, tolerance=1e-8, max_iter=3)
    assert set(early.why) == {"3 steps"}


def test_the_minimiser_stays_away_from_where_there_is_no_value() -> None:
    def barrier(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inside = (points > 0).all(-1)
        safe = np.where(points > 0, points, 1.0)
        value = np.where(inside, (safe - np.log(safe)).sum(-1), np.inf)
        return value, np.where(inside[:, None], 1 - 1 / safe, 0.0)

    starts = np.array([[10.0, 0.1], [-1.0, 2.0]])
    found = minimize(barrier, starts, tolerance=1e-8, max_iter=100)
    np.testing.assert_allclose(found.points[0], 1.0, atol=1e-6)
    assert found.why[1] == "no finite value at the start"
    assert np.isinf(found.values[1])


def test_the_fit_says_what_it_would_one_by_one(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn((S, T), generator=generator, dtype=F64)
    x[:, 4:8] += 4
    marginal = marginalize(sequences, LearnedChain(K))
    monkeypatch.setattr(ClosedForm, "read", lambda log_joint, near: None)
    together = fit_marginal(marginal, x, starts=3)
    pyro.clear_param_store()
    monkeypatch.setattr(LogJoint, "vectorise", lambda self, near, size: None)
    alone = fit_marginal(marginal, x, starts=3)
    torch.testing.assert_close(together.objectives, alone.objectives, atol=1e-4, rtol=0)
