import itertools

import pytest
import torch
from pyro_models import normal, random_log_prior
from torch import Tensor

from gbi_pyro import hmm_posterior
from gbi_pyro.inference import Counts, TaskChain, TaskPrior, log_pairwise

F64 = torch.float64


def paths(chain: TaskChain, evidence: Tensor) -> tuple[Tensor, Tensor]:
    """All K^T paths, ``(paths, T)``, and their log p(z, x), by brute force."""
    T, K = evidence.shape
    z = torch.tensor(list(itertools.product(range(K), repeat=T)))
    score = chain.log_initial.double()[z[:, 0]] + evidence[torch.arange(T), z].sum(-1)
    return z, score + chain.log_transition.double()[z[:, :-1], z[:, 1:]].sum(-1)


def random_chain(generator: torch.Generator, K: int) -> TaskChain:
    return TaskChain(random_log_prior(generator, K), random_log_prior(generator, K, K))


@pytest.mark.parametrize(("K", "T"), [(2, 1), (2, 5), (3, 4)])
def test_the_chain_agrees_with_all_its_paths(K: int, T: int, generator: torch.Generator) -> None:
    chain, evidence = random_chain(generator, K), normal(generator, T, K) * 2
    z, score = paths(chain, evidence)
    p = score.softmax(0)
    found = chain.explain(evidence)
    one_hot = torch.nn.functional.one_hot(z, K).double()
    torch.testing.assert_close(found.log_probs.exp(), (p[:, None, None] * one_hot).sum(0))
    torch.testing.assert_close(found.log_evidence, score.logsumexp(0))
    torch.testing.assert_close(found.entropy, torch.special.entr(p).sum())
    pairs = torch.einsum("p,pti,ptj->ij", p, one_hot[:, :-1], one_hot[:, 1:])
    torch.testing.assert_close(found.counts.transition, pairs)
    torch.testing.assert_close(found.counts.initial, found.log_probs[0].exp())
    log_prior = score - evidence[torch.arange(T), z].sum(-1)
    torch.testing.assert_close(chain.expected(found.counts), (p * log_prior).sum())


def test_pairs_have_the_steps_as_marginals(generator: torch.Generator) -> None:
    chain, evidence = random_chain(generator, 3), normal(generator, 2, 30, 3)
    found = hmm_posterior(chain.log_initial, chain.log_transition, evidence)
    pairs = log_pairwise(found, chain.log_transition)
    assert pairs.shape == (2, 29, 3, 3)
    smoothed = found.log_smoothed
    torch.testing.assert_close(pairs.logsumexp(-1), smoothed[:, :-1])
    torch.testing.assert_close(pairs.logsumexp(-2), smoothed[:, 1:])


def test_pairs_of_a_task_that_never_occurs_are_zero(generator: torch.Generator) -> None:
    chain = TaskChain.sticky(3, hazard=0.2).without([1])
    found = hmm_posterior(chain.log_initial, chain.log_transition, normal(generator, 6, 3))
    pairs = log_pairwise(found, chain.log_transition).exp()
    assert bool(pairs.isfinite().all())
    assert pairs[:, 1].sum() == pairs[..., 1].sum() == 0
    torch.testing.assert_close(pairs.sum((-1, -2)), torch.ones(5, dtype=pairs.dtype))


@pytest.mark.parametrize("make", [TaskPrior.uniform, lambda K: TaskChain.sticky(K, hazard=0.1)])
def test_the_bound_touches_the_evidence_at_the_exact_posterior(
    make: object, generator: torch.Generator
) -> None:
    """E_q log p(x, z) + H(q) = log p(x): the identity behind EM."""
    prior = make(3)  # type: ignore[operator]
    evidence = normal(generator, 2, 8, 3)
    found = prior.explain(evidence)
    q = found.log_probs.exp()
    bound = (q * evidence).sum() + prior.expected(found.counts) + found.entropy
    torch.testing.assert_close(bound, found.log_evidence.sum())


def test_independent_tasks_follow_bayes_rule(generator: torch.Generator) -> None:
    prior, evidence = TaskPrior(random_log_prior(generator, 4)), normal(generator, 5, 4)
    found = prior.explain(evidence)
    torch.testing.assert_close(found.log_probs, (evidence + prior.log_probs).log_softmax(-1))
    torch.testing.assert_close(found.counts.initial, found.log_probs.exp().sum(0))


def perturbed(log_probs: Tensor, generator: torch.Generator) -> Tensor:
    return (log_probs + 0.1 * normal(generator, *log_probs.shape)).log_softmax(-1)


def test_the_update_of_a_prior_is_the_most_probable_one(generator: torch.Generator) -> None:
    """No prior near it has a larger expected log probability and log density together."""
    counts = Counts(normal(generator, 3).exp(), normal(generator, 3, 3).exp())
    uniform = torch.full((3,), 1 / 3, dtype=F64).log()
    best = TaskPrior(uniform, learn=True, pseudo_count=2.0).updated(counts)
    for _ in range(20):
        other = TaskPrior(perturbed(best.log_probs, generator), pseudo_count=2.0)
        worse = other.expected(counts) + other.log_density
        assert worse < best.expected(counts) + best.log_density


@pytest.mark.parametrize("learn", ["hazard", "full"])
def test_the_update_of_a_chain_is_the_most_probable_one(
    learn: str, generator: torch.Generator
) -> None:
    counts = Counts(normal(generator, 3).exp(), normal(generator, 3, 3).exp())
    options = {"learn_transition": learn, "stay": 5.0, "switch": 1.0, "learn_initial": True}
    start = TaskChain.sticky(3, hazard=0.3, **options)
    start = TaskChain(start.log_initial.double(), start.log_transition.double(), **options)
    best = start.updated(counts)
    torch.testing.assert_close(best.log_initial.exp(), counts.initial / counts.initial.sum())
    reached = best.expected(counts) + best.log_density
    for i in range(20):
        if learn == "full":
            transition = perturbed(best.log_transition, generator)
        else:
            hazard = best.hazard * (1 + 0.05 * (i - 9.5))
            transition = TaskChain.sticky(3, hazard=hazard).log_transition.double()
        other = TaskChain(best.log_initial, transition, **options)  # type: ignore[arg-type]
        assert other.expected(counts) + other.log_density < reached


def test_without_pseudo_counts_the_hazard_is_the_share_of_switches() -> None:
    z = torch.nn.functional.one_hot(torch.tensor([[0, 0, 1, 1, 1, 2, 2, 2, 2, 0]]), 3).double()
    chain = TaskChain.sticky(3, hazard=0.5, learn_transition="hazard")
    assert chain.updated(chain.counts(z)).hazard == pytest.approx(3 / 9)


def test_counts_of_known_tasks_are_counted() -> None:
    z = torch.nn.functional.one_hot(torch.tensor([[0, 0, 1], [1, 0, 0]]), 2).double()
    counts = TaskChain.sticky(2, hazard=0.5).counts(z)
    assert counts.initial.tolist() == [1, 1]
    assert counts.transition.tolist() == [[2, 1], [1, 0]]
    assert TaskPrior.uniform(2).counts(z).initial.tolist() == [4, 2]


def test_a_row_that_was_never_left_stays_as_it_was() -> None:
    chain = TaskChain.sticky(3, hazard=0.3, learn_transition="full")
    counts = Counts(torch.ones(3), torch.tensor([[8.0, 1.0, 1.0], [0.0] * 3, [0.0, 5.0, 5.0]]))
    found = chain.updated(counts).log_transition.exp()
    torch.testing.assert_close(found[0], torch.tensor([0.8, 0.1, 0.1], dtype=F64))
    torch.testing.assert_close(found[1], chain.log_transition[1].exp())


@pytest.mark.parametrize("learn", ["nothing", "hazard", "full"])
def test_a_forbidden_task_stays_forbidden(learn: str, generator: torch.Generator) -> None:
    chain = TaskChain.sticky(4, hazard=0.2, learn_transition=learn, stay=3.0, switch=1.0)
    chain = chain.without([2])
    assert chain.hazard == pytest.approx(0.2)  # the others are left as often as before
    for _ in range(3):
        found = chain.explain(normal(generator, 20, 4))
        assert found.log_probs.exp()[:, 2].sum() == 0
        chain = chain.updated(found.counts)
        assert chain.allowed.tolist() == [True, True, False, True]
        torch.testing.assert_close(chain.log_transition.exp().sum(-1), torch.ones(4, dtype=F64))


def test_a_single_task_is_a_chain_too(generator: torch.Generator) -> None:
    evidence = normal(generator, 6, 2)
    for chain in (TaskChain.sticky(2, hazard=0.1).without([1]), TaskChain.sticky(1, hazard=0.1)):
        found = chain.explain(evidence[:, : chain.num_tasks])
        torch.testing.assert_close(found.log_evidence, evidence[:, 0].sum())
        assert found.entropy.abs() < 1e-12


def test_counts_of_batches_are_remembered_less_and_less() -> None:
    one = Counts(torch.ones(2), torch.ones(2, 2))
    total = one
    for _ in range(200):
        total = total.discounted(0.1, one)
    torch.testing.assert_close(total.initial, torch.full((2,), 10.0))
    torch.testing.assert_close(total.discounted(1.0, one).transition, torch.ones(2, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TaskPrior(torch.ones(2)), "log_probs must hold log probabilities"),
        (lambda: TaskPrior(torch.zeros(2, 1)), "with 1 dimension"),
        (lambda: TaskPrior.uniform(2, pseudo_count=-1.0), "pseudo_count must be a pseudo-count"),
        (lambda: TaskChain.sticky(2, hazard=1.5), "0 < hazard < 1"),
        (lambda: TaskChain.sticky(2, hazard=0.1, stay=-1.0), "stay must be a pseudo-count"),
        (lambda: TaskChain.sticky(2, 0.1, learn_transition="rows"), "learn_transition must be"),
        (lambda: TaskChain(torch.zeros(1), torch.zeros(2, 2)), "log_transition must hold"),
        (lambda: TaskChain(torch.zeros(1), torch.full((2, 2), 0.5).log()), r"expected \(1, 1\)"),
        (lambda: TaskPrior.uniform(2).without([0, 1]), "no task is left"),
        (
            lambda: TaskPrior.uniform(2).explain(torch.full((3, 2), -torch.inf)),
            r"no task can have made the data of element \(0,\)",
        ),
    ],
)
def test_invalid_priors_are_errors(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("args", [(2, "a"), (2.5, 0.1), ("3", 0.1), (2, None)])
def test_a_sticky_chain_of_what_is_no_number_is_an_error_in_words(args: tuple[object, ...]) -> None:
    with pytest.raises(TypeError, match="takes num_tasks, an integer, and hazard, a number, got"):
        TaskChain.sticky(*args)  # type: ignore[arg-type]
