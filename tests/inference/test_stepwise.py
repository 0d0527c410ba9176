from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from gbi_pyro import Enumeration, OneStepGradient, TaskSiteError, clamp_tasks, stepwise
from gbi_pyro.logjoint import Passes
from gbi_pyro.models import LSTMState, SequenceLSTM

F64 = torch.float64


@pytest.fixture
def network(generator: torch.Generator) -> SequenceLSTM:
    """Large weights, so that the past counts."""
    network = SequenceLSTM(3, 6, generator=generator, initial_sigma=0.3).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    return network


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    return torch.randn(2, 6, generator=generator, dtype=F64)


def simplex(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=F64).softmax(-1)


def step_by_step(
    network: SequenceLSTM, x: Tensor, z: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Means, h and c before each step, by `step` alone: (sequence, time[, H])."""
    state, previous = network.initial_state(len(x)), torch.zeros_like(x[:, 0])
    means, h, c = [], [], []
    for t in range(x.shape[1]):
        h.append(state.h)
        c.append(state.c)
        predicted, state = network.step(previous, None if z is None else z[:, t], state)
        means.append(predicted.mean)
        previous = x[:, t]
    return torch.stack(means, 1), torch.stack(h, 1), torch.stack(c, 1)


@pytest.mark.parametrize("given", [True, False])
def test_carried_states_are_those_of_a_step_by_step_run(
    network: SequenceLSTM, x: Tensor, generator: torch.Generator, given: bool
) -> None:
    z = simplex(generator, 2, 6, 3) if given else network.uniform(2, 6)
    states = network.carried_states(x, z) if given else network.carried_states(x)
    _, h, c = step_by_step(network, x, z)
    torch.testing.assert_close(states.h, h, rtol=0, atol=1e-12)
    torch.testing.assert_close(states.c, c, rtol=0, atol=1e-12)


def test_carried_states_of_the_plain_network(generator: torch.Generator, x: Tensor) -> None:
    network = SequenceLSTM(None, 6, generator=generator).double()
    states = network.carried_states(x)
    means, h, c = step_by_step(network, x, None)
    torch.testing.assert_close((states.h, states.c), (h, c), rtol=0, atol=1e-12)
    torch.testing.assert_close(network(x, states=states), means, rtol=0, atol=1e-12)


@pytest.mark.parametrize("T", [1, 2, 3, 10, 37, 64])
def test_a_recurrence_in_blocks_is_that_of_single_steps(T: int, generator: torch.Generator) -> None:
    network = SequenceLSTM(3, 5, generator=generator).double()
    x = torch.randn(2, T, generator=generator, dtype=F64)
    states = network.carried_states(x)
    _, h, c = step_by_step(network, x, network.uniform(2, T))
    torch.testing.assert_close((states.h, states.c), (h, c), rtol=0, atol=1e-13)


def test_weights_that_learn_have_their_gradient_from_carried_states(
    network: SequenceLSTM, x: Tensor
) -> None:
    """Of a step from a state that is given, whether or not the product with it was kept."""
    states, z = network.carried_states(x), network.uniform(2, 6)
    weights = list(network.lstm.parameters())
    kept, plain = (
        torch.autograd.grad(network.advance(x, z, state)[0].sum(), weights)
        for state in (states, LSTMState(states.h, states.c))
    )
    torch.testing.assert_close(kept, plain, rtol=0, atol=1e-12)


def test_carried_under_the_same_tasks_the_cut_network_is_the_network(
    network: SequenceLSTM, x: Tensor, generator: torch.Generator
) -> None:
    z = simplex(generator, 2, 6, 3)
    cut = clamp_tasks(stepwise(network, x, tasks={"z": z}), {"z": z})
    torch.testing.assert_close(cut(), network.mean(x, z), rtol=0, atol=1e-12)


def test_a_step_of_the_cut_network_sees_its_own_task_only(
    network: SequenceLSTM, x: Tensor, generator: torch.Generator
) -> None:
    """p(x_t | x_<t, z_t): another task at step 2 moves the mean of step 2 and no other."""
    model = stepwise(network, x)
    z = simplex(generator, 2, 6, 3)
    other = z.clone()
    other[:, 2] = simplex(generator, 2, 3)
    changed = clamp_tasks(model, {"z": z})() != clamp_tasks(model, {"z": other})()
    assert changed.any(0).tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("options", [{}, {"order": 2}])
def test_evidence_of_the_past_does_not_see_the_future(
    network: SequenceLSTM, x: Tensor, options: dict[str, Any]
) -> None:
    """The uncut network's gradient at t sees x after t through the carried state."""
    later = x.clone()
    later[:, 4:] += 1.0
    infer = OneStepGradient(**options)
    cut = [
        infer(
            stepwise(network, d),
        ).logits()
        for d in (x, later)
    ]
    assert torch.equal(cut[0][:, :4], cut[1][:, :4])
    assert not torch.isclose(cut[0][:, 4:], cut[1][:, 4:]).all(-1).any()
    uncut = [infer(network, d).logits() for d in (x, later)]
    assert (uncut[0][:, :4] - uncut[1][:, :4]).abs().max() > 1e-3


def test_at_the_last_step_there_is_no_future_to_see(network: SequenceLSTM, x: Tensor) -> None:
    cut, uncut = OneStepGradient()(stepwise(network, x)), OneStepGradient()(network, x)
    torch.testing.assert_close(cut.logits()[:, -1], uncut.logits()[:, -1], rtol=0, atol=1e-12)


def test_enumeration_refuses_the_uncut_network_and_is_exact_on_the_cut_one(
    network: SequenceLSTM, x: Tensor
) -> None:
    with pytest.raises(TaskSiteError, match="influence each other"):
        Enumeration()(network, x)
    states = network.carried_states(x)
    log_joint = (
        torch.stack(
            [
                network.step(
                    torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1),
                    torch.eye(3, dtype=F64)[k].expand(2, 6, 3),
                    states,
                )[0].log_prob(x)
                for k in range(3)
            ],
            -1,
        )
        - torch.tensor(3.0, dtype=F64).log()
    )
    for chunk_size in (None, 2):
        exact = Enumeration(chunk_size=chunk_size)(stepwise(network, x))
        torch.testing.assert_close(exact.logits(), log_joint.log_softmax(-1), rtol=0, atol=1e-12)
        evidence = exact.log_evidence
        assert evidence is not None
        torch.testing.assert_close(evidence, log_joint.logsumexp(-1), rtol=0, atol=1e-12)


def test_second_order_uses_the_hessian_of_each_step(network: SequenceLSTM, x: Tensor) -> None:
    """s_k = g.(e_k - u) + (e_k - u)' C (e_k - u) / 2, with g and C by torch's functional API."""
    model, u = stepwise(network, x), torch.full((3,), 1 / 3, dtype=F64)
    states = network.carried_states(x)
    previous = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
    scores = torch.zeros(2, 6, 3, dtype=F64)
    for b in range(2):
        for t in range(6):
            state = LSTMState(states.h[b, t], states.c[b, t])

            def log_lik(q: Tensor, b: int = b, t: int = t, s: LSTMState = state) -> Tensor:
                return network.step(previous[b, t], q, s)[0].log_prob(x[b, t])

            g = torch.autograd.functional.jacobian(log_lik, u)
            hessian = torch.autograd.functional.hessian(log_lik, u)
            for k in range(3):
                d = torch.eye(3, dtype=F64)[k] - u
                scores[b, t, k] = g @ d + 0.5 * d @ hessian @ d
    second = OneStepGradient(order=2)(model)
    torch.testing.assert_close(second.logits(), scores.log_softmax(-1), rtol=0, atol=1e-10)
    assert second.passes == Passes(forward=2, backward=3)  # states, run; gradient, K - 1 products


def test_carrying_the_states_is_counted(network: SequenceLSTM, x: Tensor) -> None:
    model = stepwise(network, x)
    assert OneStepGradient()(model).passes == Passes(forward=2, backward=1)
    assert Enumeration()(model).passes == Passes(forward=1 + 3, check=3 + 1)
    assert Enumeration(check=False)(model).passes == Passes(forward=1 + 3)


def test_known_tasks_stay_observed(network: SequenceLSTM, x: Tensor) -> None:
    labels = torch.eye(3, dtype=F64)[torch.zeros(2, 6, dtype=torch.long)]
    with pytest.raises(TaskSiteError, match="no task site to infer"):
        OneStepGradient()(stepwise(network, x, labels))


def test_nothing_is_left_behind(network: SequenceLSTM, x: Tensor) -> None:
    before = torch.get_rng_state()
    OneStepGradient()(stepwise(network, x))
    assert torch.equal(before, torch.get_rng_state())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert not pyro.get_param_store().keys()


def test_a_model_that_carries_no_state_is_refused() -> None:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2) / 2), infer={"task": True})
        pyro.sample("x", dist.Normal(z[0], 1.0), obs=x)

    with pytest.raises(TypeError, match="function has no carried_states"):
        stepwise(model, torch.tensor(0.0))
