"""A pairwise Markov random field is solved exactly: against the table of all combinations."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from gbi_pyro import TaskSiteError, hmm_posterior
from gbi_pyro.inference import PairwiseJoint
from gbi_pyro.inference.pairwise_joint import elimination_order
from gbi_pyro.joint import JointTable, combinations

F64 = torch.float64
GRAPHS = {
    "no edges": [],
    "chain": [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e")],
    "loop": [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("a", "e")],
    "star and a pair": [("c", "a"), ("c", "e"), ("b", "d")],
    "complete": [*itertools.combinations("abcde", 2)],
}
SIZES = {"a": 2, "b": 3, "c": 2, "d": 4, "e": 2}


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=F64)


def random_field(
    graph: str, generator: torch.Generator, batch: tuple[int, ...] = (3,)
) -> tuple[PairwiseJoint, JointTable]:
    """A field, and the table of its combinations."""
    unary = {n: normal(generator, *batch, K) for n, K in SIZES.items()}
    pairs = {(i, j): normal(generator, *batch, SIZES[i], SIZES[j]) for i, j in GRAPHS[graph]}
    ids = combinations(SIZES)
    scores = sum(unary[n][..., ids[n]] for n in SIZES)
    scores = scores + sum(v[..., ids[i], ids[j]] for (i, j), v in pairs.items())
    assert isinstance(scores, Tensor)
    return PairwiseJoint.of_field(unary, pairs), JointTable.of_scores(SIZES, scores)


@pytest.mark.parametrize("batch", [(), (3,), (2, 1, 2)])
@pytest.mark.parametrize("graph", GRAPHS)
def test_marginals_and_log_probabilities_are_those_of_the_table(
    graph: str, batch: tuple[int, ...], generator: torch.Generator
) -> None:
    field, table = random_field(graph, generator, batch)
    for name, log_q in table.marginals().items():
        torch.testing.assert_close(field.marginals()[name], log_q, rtol=0, atol=1e-12)
    ids = {
        n: k.reshape(-1, *[1] * len(batch)).expand(-1, *batch)
        for n, k in combinations(SIZES).items()
    }
    found = field.log_prob(ids).movedim(0, -1)
    torch.testing.assert_close(found, table.flat, rtol=0, atol=1e-12)


@pytest.mark.parametrize("graph", GRAPHS)
def test_conditionals_multiply_to_the_joint_and_each_follows_those_before(
    graph: str, generator: torch.Generator
) -> None:
    field, table = random_field(graph, generator)
    ordered = table.ordered(field.sites)
    ids = {n: torch.randint(K, (7, 3), generator=generator) for n, K in SIZES.items()}
    total = torch.zeros(7, 3, dtype=F64)
    for i, name in enumerate(field.sites):
        before = {n: ids[n] for n in field.sites[:i]}
        found = field.conditional(name, before)
        expected = ordered.conditional(name, before)
        torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-12)
        chosen = torch.nn.functional.one_hot(ids[name], SIZES[name]).double()
        total = total + found.log_prob(chosen)
    torch.testing.assert_close(total, field.log_prob(ids), rtol=0, atol=1e-12)


@pytest.mark.parametrize("graph", ["loop", "star and a pair"])
def test_draws_have_the_frequencies_of_the_joint(graph: str, generator: torch.Generator) -> None:
    """Pearson's statistic is chi-square, whose mean is df and whose variance is 2 df."""
    field, table = random_field(graph, generator, ())
    n, p = 50_000, table.flat.exp()
    drawn = field.sample(n, generator)
    at = torch.zeros(n, dtype=torch.long)
    for name, K in SIZES.items():
        at = at * K + drawn[name]
    counts = torch.bincount(at, minlength=len(p)).double()
    common = n * p >= 5
    expected = torch.cat([n * p[common], n * p[~common].sum()[None]])
    counts = torch.cat([counts[common], counts[~common].sum()[None]])
    statistic = ((counts - expected).square() / expected.clamp_min(1e-9)).sum().item()
    df = int(common.sum())
    assert statistic <= df + 5 * math.sqrt(2 * df)


def test_forbidden_tasks_and_pairs_have_probability_zero(generator: torch.Generator) -> None:
    unary = {n: normal(generator, 2, 3) for n in "abc"}
    unary["b"][0, 1] = -torch.inf
    pairs = {("a", "b"): normal(generator, 2, 3, 3), ("b", "c"): normal(generator, 2, 3, 3)}
    pairs["a", "b"][:, 0, :2] = -torch.inf
    pairs["b", "c"][:, 2, :] = -torch.inf  # so that no task of b goes with the first of a
    sizes = dict.fromkeys("abc", 3)
    ids = combinations(sizes)
    scores = sum(unary[n][..., ids[n]] for n in sizes)
    scores = scores + sum(v[..., ids[i], ids[j]] for (i, j), v in pairs.items())
    table = JointTable.of_scores(sizes, scores)
    field = PairwiseJoint.of_field(unary, pairs)
    for name, log_q in table.marginals().items():
        torch.testing.assert_close(field.marginals()[name].exp(), log_q.exp(), rtol=0, atol=1e-12)
    found = field.log_prob({n: k[:, None].expand(-1, 2) for n, k in ids.items()}).T
    torch.testing.assert_close(found.exp(), table.flat.exp(), rtol=0, atol=1e-12)
    drawn = field.sample(1000, generator)
    assert bool((drawn["a"] != 0).all())
    assert bool((drawn["b"] != 2).all())
    assert bool((drawn["b"][:, 0] != 1).all())


def test_a_long_chain_is_forward_backward(generator: torch.Generator) -> None:
    names = [f"s{t:03d}" for t in range(300)]
    emission, transition = normal(generator, 4, 300, 3), normal(generator, 3, 3).log_softmax(-1)
    chain = hmm_posterior(torch.full((3,), 1 / 3, dtype=F64).log(), transition, emission)
    field = PairwiseJoint.of_field(
        dict(zip(names, emission.unbind(1), strict=True)),
        dict.fromkeys(itertools.pairwise(names), transition.expand(4, 3, 3)),
    )
    marginals = field.marginals()
    found = torch.stack([marginals[n] for n in names], 1)
    torch.testing.assert_close(found.exp(), chain.log_smoothed.exp(), rtol=0, atol=1e-12)


def test_the_order_keeps_trees_and_grids_narrow() -> None:
    def largest(order: list[str], edges: list[tuple[str, str]]) -> int:
        near = {n: {m for e in edges if n in e for m in e} - {n} for n in order}
        widths = []
        for name in order:
            others = near.pop(name)
            widths.append(1 + len(others))
            for other in others:
                near[other] = (near[other] | others) - {name, other}
        return max(widths)

    tree = [(f"n{i}", f"n{(i - 1) // 3}") for i in range(1, 60)]
    assert largest(elimination_order({f"n{i}": 2 for i in range(60)}, tree), tree) == 2
    grid = [(f"{i}{j}", f"{i + 1}{j}") for i in range(3) for j in range(9)]
    grid += [(f"{i}{j}", f"{i}{j + 1}") for i in range(4) for j in range(8)]
    sizes = {f"{i}{j}": 2 for i in range(4) for j in range(9)}
    assert largest(elimination_order(sizes, grid), grid) <= 6  # the best is 1 + 4


def test_a_graph_that_is_too_wide_is_refused() -> None:
    sizes = {f"s{i}": 2 for i in range(13)}
    with pytest.raises(TaskSiteError, match=r"table of 8192 combinations of 13 sites.*4096"):
        elimination_order(sizes, itertools.combinations(sizes, 2))
    assert len(elimination_order(sizes, itertools.combinations(sizes, 2), 8192)) == 13
