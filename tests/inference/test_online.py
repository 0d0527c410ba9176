import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from gbi_pyro import OnlineGradient
from gbi_pyro.inference import OnlineRun
from gbi_pyro.models import SequenceLSTM, SequenceLSTMStack

F64 = torch.float64


class AffineToy:
    """p(x_t) = Normal(z . mu, sigma): a network without a state, whose gradient is known."""

    def __init__(self, means: Tensor, sigma: float) -> None:
        self.means, self.sigma = means, sigma

    def initial_state(self, *batch_shape: int) -> None:
        return None

    def step(self, previous: Tensor, z: Any, state: None) -> tuple[dist.Normal, None]:
        return dist.Normal(z @ self.means, self.sigma), None


class Echo:
    """p(x_t) = Normal(a x_t-1 + s + z . mu, sigma), s <- s / 2 + z_1: the past matters twice."""

    a, sigma, means = 0.6, 0.5, torch.tensor([0.3, -0.4], dtype=F64)

    def initial_state(self, *batch_shape: int) -> Tensor:
        return torch.zeros(batch_shape, dtype=F64)

    def step(self, previous: Tensor, z: Any, state: Tensor) -> tuple[dist.Normal, Tensor]:
        mean = self.a * previous + state + z @ self.means
        return dist.Normal(mean, self.sigma), state / 2 + z[..., 0]


TOY = AffineToy(torch.tensor([0.2, 0.8], dtype=F64), 0.1)
MIDDLE = torch.full((2,), 0.5, dtype=F64)


@pytest.fixture
def network(generator: torch.Generator) -> SequenceLSTM:
    return SequenceLSTM(2, 16, generator=generator, initial_sigma=0.3).double()


def equal(a: OnlineRun, b: OnlineRun, tolerance: float) -> None:
    for name in ("mean", "log_prob", "values", "gradients"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=tolerance)


@pytest.mark.parametrize("space", ["free", "simplex"])
def test_a_small_case_by_hand(space: Any) -> None:
    """Three steps with horizon 2, every window rebuilt from the definition and differentiated."""
    x, rate = torch.tensor([0.4, -0.2, 0.9], dtype=F64), 0.1
    net, start = Echo(), torch.tensor([0.7, 0.3], dtype=F64)
    run = OnlineGradient(rate=rate, horizon=2, space=space)(net, x, start)

    def log_lik(y: Tensor, steps: list[int], s: Tensor) -> Tensor:
        z = y.softmax(-1) if space == "simplex" else y
        total = torch.zeros((), dtype=F64)
        for t in steps:
            mean = 0.6 * (x[t - 1] if t else 0.0) + s + z @ net.means
            total = (
                total
                - (x[t] - mean) ** 2 / (2 * 0.5**2)
                - math.log(0.5)
                - 0.5 * math.log(2 * math.pi)
            )
            s = s / 2 + z[0]
        return total

    y = start.log() if space == "simplex" else start
    s = [torch.zeros((), dtype=F64)]  # carried with the task of each step
    for t in range(3):
        z = y.softmax(-1) if space == "simplex" else y
        torch.testing.assert_close(run.values[t], z)
        torch.testing.assert_close(run.log_prob[t], log_lik(y, [t], s[t]))
        window = [i for i in (t - 1, t) if i >= 0]
        gradient = torch.autograd.functional.jacobian(lambda v, w=window: log_lik(v, w, s[w[0]]), y)
        torch.testing.assert_close(run.gradients[t], gradient)
        s.append(s[t] / 2 + z[0])
        y = y + rate * gradient


def test_one_step_of_the_affine_toy() -> None:
    """d log N(x; z.mu, s) / dz = (x - z.mu) mu / s^2."""
    x = torch.tensor([0.9], dtype=F64)
    run = OnlineGradient(horizon=1)(TOY, x, MIDDLE)
    assert run.mean.item() == pytest.approx(0.5)
    torch.testing.assert_close(run.gradients[0], (0.9 - 0.5) * TOY.means / 0.1**2)


@pytest.mark.parametrize("space", ["free", "simplex"])
@pytest.mark.parametrize("horizon", [1, 3])
def test_nothing_after_t_moves_the_task_at_t(
    network: SequenceLSTM, space: Any, horizon: int, generator: torch.Generator
) -> None:
    """Mean and task at t are made before x_t is seen."""
    x = torch.randn(3, 10, generator=generator, dtype=F64)
    later = x.clone()
    later[:, 6:] += 1.0
    infer = OnlineGradient(rate=0.05, horizon=horizon, space=space)
    before, after = (infer(network, d, network.uniform(3)) for d in (x, later))
    assert torch.equal(before.mean[:, :7], after.mean[:, :7])
    assert torch.equal(before.values[:, :7], after.values[:, :7])
    assert torch.equal(before.gradients[:, :6], after.gradients[:, :6])
    assert torch.equal(before.log_prob[:, :6], after.log_prob[:, :6])
    assert (before.values[:, 7] != after.values[:, 7]).any(-1).all()


def test_it_adapts_to_a_mean_outside_the_hull() -> None:
    """z.mu -> x geometrically, ratio 1 - rate h |mu|^2 / s^2, along mu from the start."""
    x = torch.full((3, 200), 0.0, dtype=F64) + torch.tensor([[-0.2], [0.5], [1.2]], dtype=F64)
    run = OnlineGradient(rate=0.001, horizon=3)(TOY, x, MIDDLE.expand(3, 2))
    expected = 0.5 + (x[:, 0] - 0.5).unsqueeze(-1) * TOY.means / (TOY.means @ TOY.means)
    torch.testing.assert_close(run.values[:, -1], expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(run.mean[:, -1], x[:, -1], rtol=0, atol=1e-10)
    assert run.values[2, -1].max() > 1
    assert run.values[0, -1].min() < 0
    ratio = 1 - 0.001 * 3 * float(TOY.means @ TOY.means) / 0.1**2
    error = (run.mean - x)[0, 3:20]  # from the third step on the window is full
    torch.testing.assert_close(error[1:] / error[:-1], torch.full((16,), ratio, dtype=F64))


def test_on_the_simplex_it_stays_in_the_hull() -> None:
    x = torch.full((1, 300), 1.2, dtype=F64)
    run = OnlineGradient(rate=0.05, space="simplex")(TOY, x, MIDDLE.expand(1, 2))
    torch.testing.assert_close(run.values.sum(-1), torch.ones(1, 300, dtype=F64))
    assert run.values.min() >= 0
    assert 0.75 < run.mean[0, -1] <= 0.8 + 1e-12  # the nearest that a mixture can do


@pytest.mark.parametrize("space", ["free", "simplex"])
@pytest.mark.parametrize("num_tasks", [2, 4])
def test_a_stack_of_networks_is_one_after_another(
    num_tasks: int, space: Any, generator: torch.Generator
) -> None:
    networks = [SequenceLSTM(num_tasks, 16, generator=generator) for _ in range(3)]
    x = torch.randn(3, 4, 25, generator=generator)
    start = torch.full((3, 4, num_tasks), 1 / num_tasks)
    infer = OnlineGradient(rate=0.02, space=space)
    together = infer(SequenceLSTMStack(networks), x, start)
    apart = [infer(n, x[i], start[i]) for i, n in enumerate(networks)]
    for name in ("mean", "log_prob", "values"):
        expected = torch.stack([getattr(run, name) for run in apart])
        torch.testing.assert_close(getattr(together, name), expected, rtol=0, atol=1e-5)


def test_streams_do_not_influence_each_other(
    network: SequenceLSTM, generator: torch.Generator
) -> None:
    """A batch is its streams one by one, and a single stream needs no batch dimension."""
    x = torch.randn(3, 8, generator=generator, dtype=F64)
    run = OnlineGradient()(network, x, network.uniform(3))
    for i in range(3):
        alone = OnlineGradient()(network, x[i], network.uniform())
        assert alone.mean.shape == (8,)
        assert alone.values.shape == (8, 2)
        rows = OnlineRun(run.mean[i], run.log_prob[i], run.values[i], run.gradients[i], run.passes)
        equal(alone, rows, 1e-12)


def test_predictions_with_a_task_that_hardly_moves_are_those_of_the_network(
    network: SequenceLSTM, generator: torch.Generator
) -> None:
    x = torch.randn(2, 9, generator=generator, dtype=F64)
    run = OnlineGradient(rate=1e-12)(network, x, network.uniform(2))
    means = network.mean(x, network.uniform(2, 9))
    torch.testing.assert_close(run.mean, means, rtol=0, atol=1e-9)


def test_weights_and_start_stay_as_they_are(
    network: SequenceLSTM, generator: torch.Generator
) -> None:
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    start = network.uniform(2)
    x = torch.randn(2, 5, generator=generator, dtype=F64)
    with torch.no_grad():
        run = OnlineGradient()(network, x, start)
    assert torch.equal(start, network.uniform(2))
    assert not any(v.requires_grad for v in run[:4])
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None


def test_compute_is_counted() -> None:
    """T predictions, windows of 1, 2, 3, 3, 3 steps, and a backward pass after each."""
    run = OnlineGradient(horizon=3)(TOY, torch.zeros(5, dtype=F64), MIDDLE)
    assert (run.passes.forward, run.passes.backward) == (5 + 1 + 2 + 3 + 3 + 3, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.0}, "rate must be positive"),
        ({"rate": math.nan}, "rate must be positive"),
        ({"horizon": 0}, "horizon must be at least 1"),
        ({"space": "sphere"}, "space must be 'free' or 'simplex'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OnlineGradient(**options)


@pytest.mark.parametrize(
    ("x", "start", "space", "message"),
    [
        (
            torch.zeros(3, 4),
            torch.zeros(2, 2),
            "free",
            r"start has shape \(2, 2\), expected \(3,\)",
        ),
        (torch.zeros(3, 4), torch.zeros(2), "free", "one task for each stream"),
        (torch.tensor([0.0, math.nan]), MIDDLE, "free", "stream has NaN or infinite"),
        (torch.zeros(2), torch.tensor([math.nan, 0.5]), "free", "start has NaN or infinite"),
        (torch.zeros(2), torch.tensor([1.0, 0.0]), "simplex", "start lies at the edge"),
        (torch.zeros(2), torch.tensor([1.5, -0.5]), "simplex", "start lies off the simplex"),
        (torch.zeros(2), torch.tensor([1.0, 1.0]), "simplex", "start lies off the simplex"),
        (torch.zeros(3, 0), torch.ones(3, 2) / 2, "free", "stream has no step"),
        (torch.tensor(0.0), torch.ones(2) / 2, "free", "stream has no step"),
    ],
)
def test_invalid_streams_and_starts_are_refused(
    x: Tensor, start: Tensor, space: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        OnlineGradient(space=space)(TOY, x.double(), start.double())
