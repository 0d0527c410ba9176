import math
from collections.abc import Callable

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor

from gbi_pyro import (
    AutoTaskGuide,
    Enumeration,
    TaskSiteError,
    clamped_loss,
    find_task_sites,
    relaxed_log_joint,
    stepwise,
)
from gbi_pyro.data import SwitchingStream
from gbi_pyro.models import LSTMState, SequenceLSTM, SequenceLSTMStack

F64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def simplex(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=F64).softmax(-1)


def double(num_tasks: int | None = 3, log_prior: Tensor | None = None) -> SequenceLSTM:
    network = SequenceLSTM(num_tasks, 8, log_prior=log_prior, generator=seeded())
    return network.double()


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    return torch.randn(2, 7, generator=generator, dtype=F64)


# The network


def test_the_prediction_of_a_step_sees_earlier_steps_only(x: Tensor) -> None:
    network = double()
    means = torch.autograd.functional.jacobian(
        lambda d: network.mean(d, network.uniform(2, 7)), x
    )  # (sequence, time, sequence, time)
    for b in range(2):
        seen = means[b, :, b] != 0
        assert torch.equal(seen, torch.ones(7, 7).tril(-1).bool())
        assert (means[b, :, 1 - b] == 0).all()


def test_the_prediction_of_a_step_sees_tasks_up_to_it(
    x: Tensor, generator: torch.Generator
) -> None:
    network, z = double(), simplex(generator, 2, 7, 3)
    slopes = torch.autograd.functional.jacobian(lambda q: network.mean(x, q), z)
    for b in range(2):
        seen = (slopes[b, :, b] != 0).any(-1)
        assert torch.equal(seen, torch.ones(7, 7).tril().bool())


@pytest.mark.parametrize("num_tasks", [None, 2, 3, 6])
def test_the_whole_sequence_is_its_steps_chained(
    num_tasks: int | None, x: Tensor, generator: torch.Generator
) -> None:
    network = double(num_tasks)
    z = None if num_tasks is None else simplex(generator, 2, 7, num_tasks)
    state, previous, means = network.initial_state(2), torch.zeros(2, dtype=F64), []
    for t in range(7):
        predicted, state = network.step(previous, None if z is None else z[:, t], state)
        assert (predicted.scale == network.sigma).all()
        means.append(predicted.mean)
        previous = x[:, t]
    torch.testing.assert_close(network.mean(x, z), torch.stack(means, 1), rtol=0, atol=1e-12)


def test_one_step_of_one_stream_has_no_batch_dimension() -> None:
    network = double()
    predicted, state = network.step(
        torch.tensor(0.3, dtype=F64), network.uniform(), network.initial_state()
    )
    assert predicted.mean.shape == ()
    assert state.h.shape == state.c.shape == (8,)


def test_leading_dimensions_pass_through(x: Tensor, generator: torch.Generator) -> None:
    """A stack of points, and Pyro's (K, 1, 1, K), are the single ones one by one."""
    network, z = double(), simplex(generator, 4, 5, 2, 7, 3)
    means = network.mean(x, z)
    assert means.shape == (4, 5, 2, 7)
    torch.testing.assert_close(means[3, 2], network.mean(x, z[3, 2]), rtol=0, atol=1e-12)
    corners = torch.eye(3, dtype=F64)
    enumerated = network.mean(x, corners.reshape(3, 1, 1, 3))
    assert enumerated.shape == (3, 2, 7)
    for k in range(3):
        alone = network.mean(x, corners[k].expand(2, 7, 3))
        torch.testing.assert_close(enumerated[k], alone, rtol=0, atol=1e-12)


def test_pyro_enumerates_the_network_cut_between_its_steps(x: Tensor) -> None:
    model = stepwise(double(), x)
    exact = Enumeration()(model)
    assert exact.log_evidence is not None
    elbo = TraceEnum_ELBO(max_plate_nesting=2)
    with_guide = elbo.loss(model, config_enumerate(AutoTaskGuide(model, Enumeration())))
    without = elbo.loss(config_enumerate(model), lambda: None)
    for loss in (with_guide, without):
        assert -loss == pytest.approx(float(exact.log_evidence.sum()), abs=1e-9)


# The Pyro model


def test_the_log_joint_is_the_formula(x: Tensor, generator: torch.Generator) -> None:
    """sum_t log N(x_t; m_t, sigma) + q_t . log pi, the prior given up to a constant."""
    log_prior = torch.tensor([0.5, 0.2, 0.3], dtype=F64).log()
    network, q = double(3, log_prior + 2.0), simplex(generator, 2, 7, 3)
    joint = relaxed_log_joint(network, {"z": q}, x)
    sigma = network.log_sigma.exp()
    log_lik = (
        -0.5 * ((x - network.mean(x, q)) / sigma) ** 2 - sigma.log() - 0.5 * math.log(2 * math.pi)
    )
    torch.testing.assert_close(joint.likelihood, log_lik.sum())
    torch.testing.assert_close(joint.prior, (q * log_prior).sum())


@pytest.mark.parametrize("num_tasks", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_one_network_serves_every_number_of_tasks(num_tasks: int, dtype: torch.dtype) -> None:
    network = SequenceLSTM(num_tasks, 8, generator=seeded()).to(dtype)
    x = torch.zeros(2, 7, dtype=dtype)
    site = find_task_sites(network, x)["z"]
    assert (site.num_tasks, site.dims) == (num_tasks, ("sequence", "time"))
    assert site.log_prior.dtype == network(x).dtype == dtype
    log_uniform = torch.full((2, 7, num_tasks), -math.log(num_tasks), dtype=dtype)
    torch.testing.assert_close(site.log_prior, log_uniform)


def test_the_plain_network_has_no_task(x: Tensor) -> None:
    network = double(None)
    assert set(poutine.trace(network).get_trace(x).stochastic_nodes) <= {"sequence", "time"}
    with pytest.raises(TaskSiteError, match="no task site to infer"):
        find_task_sites(network, x)
    sigma = network.sigma
    expected = -torch.distributions.Normal(network.mean(x, None), sigma).log_prob(x).mean()
    torch.testing.assert_close(clamped_loss(network, x), expected)


def test_mixtures_are_legal_training_targets(x: Tensor, generator: torch.Generator) -> None:
    """The clamped loss scores q . log pi, where a categorical would score the argmax."""
    log_prior = torch.tensor([0.5, 0.2, 0.3], dtype=F64).log()
    network, q = double(3, log_prior), simplex(generator, 2, 7, 3)
    loss = clamped_loss(network, x, q)
    likelihood = torch.distributions.Normal(network.mean(x, q), network.sigma).log_prob(x)
    torch.testing.assert_close(loss, -(likelihood + q @ log_prior).mean())
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())


def test_weights_are_torch_parameters_not_pyro_ones(x: Tensor) -> None:
    double()(x)
    assert not pyro.get_param_store().keys()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SequenceLSTM(1), "num_tasks must be at least 2, or None"),
        (lambda: SequenceLSTM(3, log_prior=torch.zeros(2)), r"shape \(2,\), expected \(3,\)"),
        (lambda: SequenceLSTMStack([]), "one network or more"),
        (lambda: SequenceLSTMStack([SequenceLSTM(2), SequenceLSTM(3)]), "of the same shape"),
        (lambda: SequenceLSTMStack([SequenceLSTM(2, 8), SequenceLSTM(2, 9)]), "of the same shape"),
    ],
)
def test_invalid_networks_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# Initial weights


def test_initial_weights_come_from_the_generator_alone() -> None:
    before = torch.get_rng_state()
    first, same, other = (SequenceLSTM(3, 8, generator=seeded(s)) for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, same.get_parameter(name))
        assert torch.equal(parameter, other.get_parameter(name)) is (name == "log_sigma")


def test_initial_weights_are_uniform_within_the_bounds_of_torch() -> None:
    """1 / sqrt(fan in), H for the LSTM; the variance of a uniform is bound^2 / 3."""
    network = SequenceLSTM(3, 64, generator=seeded(), initial_sigma=0.25)
    fan = {"embed": 4, "lstm": 64, "head": 64}
    for name, parameter in network.named_parameters():
        if name == "log_sigma":
            assert parameter.exp().item() == pytest.approx(0.25)
            continue
        bound = fan[name.split(".")[0]] ** -0.5
        assert parameter.abs().max() <= bound
        # Fourth moment bound^4 / 5: the mean square has standard error bound^2 sqrt(4 / 45 n).
        error = 5 * bound**2 * math.sqrt(4 / 45 / parameter.numel())
        assert abs(float((parameter.detach() ** 2).mean()) - bound**2 / 3) <= error


# Stacks


def test_a_stack_is_its_members(x: Tensor, generator: torch.Generator) -> None:
    networks = [SequenceLSTM(3, 8, generator=generator).double() for _ in range(4)]
    for i, network in enumerate(networks):
        network.log_sigma.data.fill_(0.1 * i - 1)
    stack = SequenceLSTMStack(networks)
    z = simplex(generator, 4, 2, 3)
    previous = torch.randn(4, 2, generator=generator, dtype=F64)
    state = LSTMState(
        torch.randn(4, 2, 8, generator=generator, dtype=F64),
        torch.randn(4, 2, 8, generator=generator, dtype=F64),
    )
    predicted, after = stack.step(previous, z, state)
    for i, network in enumerate(networks):
        alone, then = network.step(previous[i], z[i], LSTMState(state.h[i], state.c[i]))
        torch.testing.assert_close(predicted.mean[i], alone.mean, rtol=0, atol=1e-12)
        torch.testing.assert_close(
            predicted.log_prob(previous)[i], alone.log_prob(previous[i]), rtol=0, atol=1e-12
        )
        torch.testing.assert_close((after.h[i], after.c[i]), tuple(then), rtol=0, atol=1e-12)
    assert not predicted.mean.requires_grad  # trained networks: weights are constants
    zero = stack.initial_state(4, 2)
    assert torch.equal(zero.h, torch.zeros(4, 2, 8, dtype=F64))


def test_a_stack_of_plain_networks(x: Tensor, generator: torch.Generator) -> None:
    networks = [SequenceLSTM(None, 8, generator=generator).double() for _ in range(2)]
    stack = SequenceLSTMStack(networks)
    previous = x[:, :3]
    predicted, _ = stack.step(previous, None, stack.initial_state(2, 3))
    for i, network in enumerate(networks):
        alone, _ = network.step(previous[i], None, network.initial_state(3))
        torch.testing.assert_close(predicted.mean[i], alone.mean, rtol=0, atol=1e-12)


# Training


def test_a_few_steps_of_training_reach_the_noise_floor() -> None:
    """60 Adam steps with the labels; judged on unseen streams against the noise that was drawn."""
    generator, stream = seeded(), SwitchingStream()
    network = SequenceLSTM(2, generator=generator)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        batch = stream.sample(32, 100, generator)
        loss = clamped_loss(network, batch.x, batch.one_hot(2))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    test = stream.sample(64, 100, generator)
    with torch.no_grad():
        error = (network.mean(test.x, test.one_hot(2)) - test.x).square().mean()
    floor = (torch.tensor(stream.means)[test.z] - test.x).square().mean()
    assert float(error / floor) < 1.10
    # The task engages it: the same network at the middle task is far off.
    with torch.no_grad():
        middling = (network.mean(test.x, network.uniform(64, 100)) - test.x).square().mean()
    assert float(middling / floor) > 2
