"""The compiled semi-Markov recursion against the one in log space, and its gradients."""

import math

import pytest
import torch
from torch import Tensor

from gbi_pyro.inference import hsmm_posterior
from gbi_pyro.inference._kernels import block_fast as fast
from gbi_pyro.inference._kernels import chain_log_space as log_space

F64 = torch.float64


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64, generator=generator)


def chain(
    generator: torch.Generator,
    K: int,
    T: int,
    D: int,
    batch: tuple[int, ...] = (),
    *,
    moves: bool = False,
    clear: float = 3.0,
) -> list[Tensor]:
    transition = (2 * normal(generator, T - 1 if moves else 1, K, K)).log_softmax(-1)
    return [
        normal(generator, K).log_softmax(-1),
        transition,
        clear * normal(generator, *batch, T, K),
        (2 * normal(generator, K, D)).log_softmax(-1),
    ]


def in_log_space(args: list[Tensor]) -> tuple[Tensor, ...]:
    found = log_space.solve(*[a.clamp_min(log_space.LOG_ZERO) for a in args])
    return (*found[:4], found.step_log_evidence.sum(-1))


def assert_equal(args: list[Tensor]) -> None:
    solved = fast.solve(*args)
    assert solved is not None
    for mine, want in zip(solved[0], in_log_space(args), strict=True):
        torch.testing.assert_close(mine, want, atol=1e-10, rtol=1e-10)
    clamped = [a.clamp_min(log_space.LOG_ZERO) for a in args]
    assert torch.equal(fast.best_path(*args), log_space.best_path(*clamped))


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize(
    ("K", "T", "D", "batch"),
    [
        (2, 1, 3, ()),
        (2, 2, 1, ()),
        (3, 40, 1, (2,)),
        (1, 7, 4, (2, 3)),
        (3, 50, 6, (4,)),
        (2, 30, 50, ()),
        (4, 300, 60, ()),
    ],
)
def test_it_equals_log_space(
    K: int, T: int, D: int, batch: tuple[int, ...], moves: bool, generator: torch.Generator
) -> None:
    assert_equal(chain(generator, K, T, D, batch, moves=moves and T > 1))


@pytest.mark.parametrize("clear", [10.0, 30.0])
def test_scales_of_clear_data_are_moved_and_nothing_is_lost(
    clear: float, generator: torch.Generator
) -> None:
    """Blocks of a task that the data exclude get far smaller than float64 can say."""
    args = chain(generator, 3, 400, 80, clear=clear)
    args[2] -= clear * torch.nn.functional.one_hot(torch.arange(400) // 100 % 3, 3).roll(1, -1)
    assert_equal(args)


def test_gaps_forbidden_tasks_and_steps(generator: torch.Generator) -> None:
    initial, transition, emission, duration = chain(generator, 4, 60, 7)
    transition = transition.tril().masked_fill(transition.tril() == 0, -math.inf).log_softmax(-1)
    emission[::9, 1] = -math.inf
    emission[20:30, 2] = -math.inf
    duration[1, ::2] = -math.inf
    duration[2, 3:] = -math.inf
    assert_equal([initial, transition, emission, duration.log_softmax(-1)])


def test_arguments_of_several_batches(generator: torch.Generator) -> None:
    initial, transition, emission, duration = chain(generator, 3, 20, 5, (2, 3))
    initial = (initial + normal(generator, 2, 1, 3)).log_softmax(-1)
    transition = (transition + normal(generator, 3, 1, 3, 3)).log_softmax(-1)
    duration = (duration + normal(generator, 2, 3, 3, 5)).log_softmax(-1)
    assert_equal([initial, transition, emission, duration])
    assert_equal([initial, transition, emission[0, 0], duration])


@pytest.mark.parametrize("what", ["long blocks against the data", "impossible data", "a spike"])
def test_what_gets_too_small_goes_to_log_space(what: str, generator: torch.Generator) -> None:
    initial, transition, emission, duration = chain(generator, 2, 60, 30)
    if what == "long blocks against the data":  # every block lasts 30 steps: no way out in between
        duration = torch.full((2, 30), -math.inf, dtype=F64).index_fill(1, torch.tensor(29), 0.0)
        emission[:, 1] -= 60
    elif what == "a spike":
        emission[20] = torch.tensor([0.0, -800.0])
    else:
        emission[3] = -math.inf
    args = [initial, transition, emission, duration]
    assert fast.solve(*args) is None
    if what == "impossible data":
        with pytest.raises(ValueError, match="possible under the chain"):
            hsmm_posterior(initial, transition[0], emission, duration)
        return
    found = hsmm_posterior(initial, transition[0], emission, duration)
    torch.testing.assert_close(found.log_smoothed, in_log_space(args)[2])


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("D", [1, 4, 30])
def test_the_gradient_of_the_evidence_is_that_of_log_space(
    moves: bool, shared: bool, D: int, generator: torch.Generator
) -> None:
    args = chain(generator, 3, 20, D, (4,), moves=moves)
    if not shared:
        args[1] = (args[1] + normal(generator, 4, *args[1].shape)).log_softmax(-1)
        args[3] = (args[3] + normal(generator, 4, *args[3].shape)).log_softmax(-1)
    weight = normal(generator, 4)
    leaves = [a.clone().requires_grad_() for a in args]
    solved = fast.solve(*leaves)
    assert solved is not None
    mine = torch.autograd.grad((weight * solved[0][4]).sum(), leaves)
    again = [a.clone().requires_grad_() for a in args]
    want = torch.autograd.grad((weight * in_log_space(again)[4]).sum(), again)
    for a, b in zip(mine, want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


def test_gradients_of_the_rest_and_second_ones(generator: torch.Generator) -> None:
    args = [a.requires_grad_() for a in chain(generator, 2, 5, 3, (2,))]

    def output(which: int, *args: Tensor) -> Tensor:
        solved = fast.solve(*args)
        assert solved is not None
        return solved[0][which]

    assert torch.autograd.gradcheck(lambda *a: output(4, *a), args)
    assert torch.autograd.gradgradcheck(lambda *a: output(4, *a), args)
    assert torch.autograd.gradcheck(lambda *a: output(2, *a), args)
