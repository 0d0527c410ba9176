"""The compiled recursion against the one in log space, and its gradients."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gbi_pyro.inference import hmm_log_evidence, hmm_posterior
from gbi_pyro.inference._kernels import chain_fast as fast
from gbi_pyro.inference._kernels import chain_log_space as log_space

F64 = torch.float64


def chain(
    generator: torch.Generator, K: int, T: int, batch: tuple[int, ...] = (), *, moves: bool = False
) -> list[Tensor]:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=F64, generator=generator)

    steps = T - 1 if moves else 1
    transition = (2 * normal(steps, K, K)).log_softmax(-1)
    return [normal(K).log_softmax(-1), transition, 3 * normal(*batch, T, K)]


def in_log_space(args: list[Tensor]) -> tuple[Tensor, ...]:
    found = log_space.solve(*args, torch.zeros(len(args[0]), 1, dtype=F64))
    return (*found[:4], found.step_log_evidence.sum(-1))


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize(
    ("K", "T", "batch"), [(2, 1, ()), (2, 2, ()), (3, 50, (4,)), (1, 7, (2, 3)), (10, 300, ())]
)
def test_it_equals_log_space(
    K: int, T: int, batch: tuple[int, ...], moves: bool, generator: torch.Generator
) -> None:
    args = chain(generator, K, T, batch, moves=moves and T > 1)
    found = fast.solve(*args)
    assert found is not None
    for mine, want in zip(found, in_log_space(args), strict=True):
        torch.testing.assert_close(mine, want, atol=1e-10, rtol=1e-10)
    expected = log_space.best_path(*args, torch.zeros(K, 1, dtype=F64))
    assert torch.equal(fast.best_path(*args), expected)


def test_forbidden_tasks_are_zeros_and_no_underflow(generator: torch.Generator) -> None:
    initial, transition, emission = chain(generator, 4, 60)
    transition = transition.tril().masked_fill(transition.tril() == 0, -math.inf).log_softmax(-1)
    emission[::3, 1] = -math.inf
    args = [x.clamp_min(log_space.LOG_ZERO) for x in (initial, transition, emission)]
    found = fast.solve(*args)
    assert found is not None
    for mine, want in zip(found, in_log_space(args), strict=True):
        torch.testing.assert_close(mine, want, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("what", ["a spike", "a long way from left to right", "impossible data"])
def test_what_gets_too_small_goes_to_log_space(what: str, generator: torch.Generator) -> None:
    initial, transition, emission = chain(generator, 3, 40)
    if what == "a spike":
        emission[20] = torch.tensor([0.0, -800.0, -2000.0])
    elif what == "a long way from left to right":
        tiny = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1e-300, 0.0, 1.0]], dtype=F64)
        transition, emission = tiny.log()[None].clamp_min(log_space.LOG_ZERO), 30 * emission
    else:
        emission[3] = log_space.LOG_ZERO
    assert fast.solve(initial, transition, emission) is None
    if what == "impossible data":
        with pytest.raises(ValueError, match="possible under the chain"):
            hmm_posterior(initial, transition[0], emission)
        return
    found = hmm_posterior(initial, transition[0], emission)
    want = in_log_space([initial, transition, emission])
    torch.testing.assert_close(found.log_smoothed, want[2])


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_the_gradient_of_the_evidence_is_that_of_log_space(
    moves: bool, shared: bool, generator: torch.Generator
) -> None:
    args = chain(generator, 3, 20, (4,), moves=moves)
    if not shared:
        args[1] = args[1] + 0.3 * torch.randn(4, *args[1].shape, dtype=F64, generator=generator)
        args[1] = args[1].log_softmax(-1)
    leaves = [a.clone().requires_grad_() for a in args]
    weight = torch.randn(4, dtype=F64, generator=generator)
    found = fast.solve(*leaves)
    assert found is not None
    mine = torch.autograd.grad((weight * found[4]).sum(), leaves)
    again = [a.clone().requires_grad_() for a in args]
    want = torch.autograd.grad((weight * in_log_space(again)[4]).sum(), again)
    for a, b in zip(mine, want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


def test_gradients_of_the_rest_and_second_ones(generator: torch.Generator) -> None:
    args = [a.requires_grad_() for a in chain(generator, 2, 5, (2,))]

    def evidence(*args: Tensor) -> Tensor:
        found = fast.solve(*args)
        assert found is not None
        return found[4]

    def smoothed(*args: Tensor) -> Tensor:
        found = fast.solve(*args)
        assert found is not None
        return found[2]

    assert torch.autograd.gradcheck(evidence, args)
    assert torch.autograd.gradgradcheck(evidence, args)
    assert torch.autograd.gradcheck(smoothed, args)


def test_a_transition_of_each_step_agrees_with_every_path(generator: torch.Generator) -> None:
    initial, transition, emission = chain(generator, 2, 4, moves=True)
    z = torch.cartesian_prod(*[torch.arange(2)] * 4)
    steps = torch.arange(3)
    log_joint = (
        initial[z[:, 0]]
        + transition[steps, z[:, :-1], z[:, 1:]].sum(-1)
        + emission[torch.arange(4), z].sum(-1)
    )
    found = hmm_posterior(initial, transition, emission, per_step=True)
    torch.testing.assert_close(found.log_evidence, log_joint.logsumexp(0))
    share = (log_joint.softmax(0)[:, None] * z).sum(0)
    torch.testing.assert_close(found.log_smoothed[:, 1].exp(), share)
    assert torch.equal(found.viterbi, z[log_joint.argmax()])
    torch.testing.assert_close(found.step_log_evidence.sum(), found.log_evidence)


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("K", "T", "batch"), [(2, 2, ()), (3, 9, (4,)), (5, 2, (2, 3))])
def test_the_evidence_alone_and_its_gradient(
    K: int, T: int, batch: tuple[int, ...], shared: bool, moves: bool, generator: torch.Generator
) -> None:
    args = chain(generator, K, T, batch, moves=moves and T > 1)
    if not shared:
        args[:2] = [
            (a + torch.randn(batch + a.shape, dtype=F64, generator=generator)).log_softmax(-1)
            for a in args[:2]
        ]
    if not (moves and T > 1):
        args[1] = args[1].squeeze(-3)
    weight = torch.randn(batch, dtype=F64, generator=generator)
    per_step = moves and T > 1

    def gradients(evidence: Callable[..., Tensor], *, again: bool = False) -> list[Tensor]:
        leaves = [a.clone().requires_grad_() for a in args]
        total = (weight * evidence(*leaves, per_step=per_step)).sum()
        first = torch.autograd.grad(total, leaves, create_graph=again)
        if not again:
            return [total.detach(), *first]
        return list(torch.autograd.grad(sum(g.square().sum() for g in first), leaves))

    def through_posterior(*leaves: Tensor, per_step: bool) -> Tensor:
        return hmm_posterior(*leaves, per_step=per_step, viterbi=False).log_evidence

    for again in (False, True):
        mine = gradients(hmm_log_evidence, again=again)
        for found, want in zip(mine, gradients(through_posterior, again=again), strict=True):
            torch.testing.assert_close(found, want, atol=1e-10, rtol=1e-10)


def test_the_evidence_alone_of_a_spike_goes_to_log_space() -> None:
    emission = torch.tensor([[0.0, -900.0], [-900.0, 0.0], [0.0, -900.0]], dtype=F64)
    half = torch.full((2,), 0.5, dtype=F64).log()
    stay = torch.tensor([[1.0, 1e-300], [1e-300, 1.0]], dtype=F64).log()
    expected = hmm_posterior(half, stay, emission).log_evidence
    torch.testing.assert_close(hmm_log_evidence(half, stay, emission), expected)
    forbidden = torch.full((3, 2), -torch.inf, dtype=F64)
    with pytest.raises(ValueError, match="possible under the chain"):
        hmm_log_evidence(half, stay, forbidden)


def test_one_chain_that_underflows_does_not_hurt_the_others(generator: torch.Generator) -> None:
    initial, transition, emission = chain(generator, 2, 5, (3,))
    transition = transition.expand(3, 1, 2, 2).clone()
    transition[1] = torch.tensor([[0.0, -800.0], [-800.0, 0.0]], dtype=F64)
    emission[1] = torch.tensor([[0.0, -900.0], [-900.0, 0.0]] * 2 + [[0.0, -900.0]], dtype=F64)
    found = fast.counts(initial, transition, emission)
    assert found is not None
    for b in range(3):
        args = [a.clone().requires_grad_() for a in (initial, transition[b], emission[b])]
        evidence = in_log_space(args)[-1]
        _, pairs, tasks = torch.autograd.grad(evidence, args)
        for mine, want in zip(found, (evidence.detach(), tasks, pairs), strict=True):
            torch.testing.assert_close(mine[b], want, atol=1e-9, rtol=1e-9)
    emission[1] = -torch.inf
    with pytest.raises(ValueError, match="possible under the chain"):
        hmm_log_evidence(initial, transition.squeeze(1), emission)
