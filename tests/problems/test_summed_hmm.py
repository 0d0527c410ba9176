"""The hidden Markov law with its states summed out, against all paths and all sequences."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from gbi_pyro.inference.hmm import hmm_log_evidence
from gbi_pyro.problems import MetaHMM, SummedHMM, meta_hmm

F64 = torch.float64
HALF = torch.full((2,), 0.5)


def random_law(generator: torch.Generator, *batch: int, S: int = 3, O: int = 4) -> list[Tensor]:  # noqa: E741
    shapes = (S,), (S, S), (S, O)
    return [
        torch.randn(*batch, *shape, generator=generator, dtype=F64).softmax(-1) for shape in shapes
    ]


def by_paths(start: Tensor, A: Tensor, B: Tensor, x: Tensor) -> Tensor:
    """log p(x_1..T), each path of hidden states with its own probability."""
    T, S = len(x), len(start)
    paths = torch.cartesian_prod(*[torch.arange(S)] * T)
    log_p = start.log()[paths[:, 0]] + B.log()[paths, x].sum(-1)
    return (log_p + A.log()[paths[:, :-1], paths[:, 1:]].sum(-1)).logsumexp(0)


def test_it_is_the_sum_over_all_paths_of_states(generator: torch.Generator) -> None:
    law = random_law(generator)
    x = torch.randint(4, (6, 5), generator=generator)
    expected = torch.stack([by_paths(*law, row) for row in x])
    torch.testing.assert_close(SummedHMM(*law, 5).log_prob(x), expected, rtol=0, atol=1e-12)


def test_all_sequences_together_have_probability_one(generator: torch.Generator) -> None:
    law = SummedHMM(*random_law(generator, 2), 5)
    x = torch.tensor(list(itertools.product(range(4), repeat=5)))
    total = law.log_prob(x.unsqueeze(1)).logsumexp(0)
    torch.testing.assert_close(total, torch.zeros(2, dtype=F64), rtol=0, atol=1e-12)


def test_leading_dimensions_broadcast(generator: torch.Generator) -> None:
    start, A, _ = random_law(generator, 2)
    *_, B = random_law(generator, 3, 1)
    law, x = SummedHMM(start, A, B, 7), torch.randint(4, (2, 7), generator=generator)
    seen = B.expand(3, 2, 3, 4).gather(-1, x.unsqueeze(-2).expand(3, 2, 3, 7)).mT
    expected = hmm_log_evidence(start.log(), A.log(), seen.log())
    torch.testing.assert_close(law.log_prob(x), expected, rtol=0, atol=1e-12)
    wide = law.expand((5, 3, 2))
    assert (wide.batch_shape, wide.event_shape) == ((5, 3, 2), (7,))
    assert torch.equal(wide.log_prob(x), law.log_prob(x).expand(5, 3, 2))


def test_it_has_first_and_second_derivatives(generator: torch.Generator) -> None:
    start, *tables = random_law(generator, S=2, O=2)
    x = torch.tensor([0, 1, 1, 0])

    def score(A: Tensor, B: Tensor) -> Tensor:
        return SummedHMM(start, A / A.sum(-1, keepdim=True), B, 4, validate_args=False).log_prob(x)

    inputs = tuple(t.requires_grad_() for t in tables)
    assert torch.autograd.gradcheck(score, inputs)
    assert torch.autograd.gradgradcheck(score, inputs)


def test_an_impossible_sequence_has_log_probability_minus_infinity_and_no_nan_gradient() -> None:
    A = torch.eye(2).requires_grad_()
    law = SummedHMM(torch.tensor([1.0, 0.0]), A, torch.eye(2), 3)
    scores = law.log_prob(torch.tensor([[0, 0, 0], [0, 1, 1], [1, 1, 0]]))
    assert scores.tolist() == [0.0, -math.inf, -math.inf]
    (gradient,) = torch.autograd.grad(scores.sum(), A)
    assert bool(gradient.isfinite().all())


def test_draws_follow_the_law(generator: torch.Generator) -> None:
    """Frequencies of all sequences of three symbols, within five standard errors."""
    law, n = SummedHMM(*random_law(generator, S=2, O=2), 3), 20_000
    state = torch.get_rng_state()
    torch.manual_seed(0)
    drawn = law.sample((n,))
    torch.set_rng_state(state)
    ids = (drawn * torch.tensor([4, 2, 1])).sum(-1)
    p = law.log_prob(torch.tensor(list(itertools.product(range(2), repeat=3)))).exp()
    error = torch.bincount(ids, minlength=8) / n - p
    assert bool((error.abs() <= 5 * (p * (1 - p) / n).sqrt()).all())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"transition should be \(\.\.\., 2, 2\)"):
        SummedHMM(HALF, torch.eye(3), torch.eye(2), 2)
    with pytest.raises(ValueError, match="duration should be a number of steps"):
        SummedHMM(HALF, torch.eye(2), torch.eye(2), 0)
    with pytest.raises(ValueError, match="Expected parameter transition"):
        SummedHMM(HALF, torch.ones(2, 2), torch.eye(2), 2)
    with pytest.raises(ValueError, match="Expected value argument"):
        SummedHMM(HALF, torch.eye(2), torch.eye(2), 2).log_prob(torch.tensor([0, 2]))


def test_the_posterior_of_metahmm_is_that_of_all_paths(generator: torch.Generator) -> None:
    """Tables by indexing, and 10^5 paths for each of 24 combinations."""
    problem = meta_hmm(0, length=5, dtype=F64)
    drawn = problem.draw(2, generator)
    model: MetaHMM = problem.model
    scores = []
    for c, d, f, e in itertools.product(range(3), range(2), range(2), range(2)):
        A = model.base[c, d, 0] + model.family[0, f, d]
        B = model.emission[0, e, 0]
        A, B = (0.6 * M / M.sum(-1, keepdim=True) + 0.4 / M.shape[-1] for M in (A, B))
        start = torch.full((10,), 0.1, dtype=F64)
        scores.append(torch.stack([by_paths(start, A, B, x) for x in drawn.args[0]]))
    expected = torch.stack(scores, -1).log_softmax(-1)
    found = problem.posterior(drawn).table().flat
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_metahmm_moves_along_cycles() -> None:
    """A base visits every state, direction 1 goes back, a speed takes larger steps."""
    model = meta_hmm(3, length=5, bases=2, speeds=3, shifts=2, emissions=2).model
    base = model.base
    assert torch.equal(base[:, 0].sum(-2), torch.ones(2, 3, 10))
    assert torch.equal(base[:, 1, 0], base[:, 0, 0].mT)
    assert torch.equal(base[:, 0, 1], base[:, 0, 0] @ base[:, 0, 0])
    reached = sum(base[0, 0, 0].matrix_power(k) for k in range(1, 11))
    assert torch.equal(reached, torch.ones(10, 10))
    size = model.family[:, :, 0].sum((-2, -1))
    assert bool(((size >= 3) & (size <= 5)).all())
    emitted = model.emission[:, 0, 0].sum(-1)
    assert torch.equal(emitted.sum(0), torch.full((10,), 2.0))
    assert torch.equal(model.emission[:, :, 1, 1:], model.emission[:, :, 0, :-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length should be at least 1"),
        ({"length": 5, "bases": 0}, "bases should be at least 1"),
        ({"length": 5, "num_states": 4}, "num_states should be at least 5"),
        ({"length": 5, "num_symbols": 1}, "num_symbols should be at least 2"),
    ],
)
def test_metahmm_needs_something_of_everything(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        meta_hmm(0, **options)
