"""Coupled binary tasks: a chain solved along its sites against the table of all combinations."""

import itertools

import pytest
import torch

from gbi_pyro import Enumeration
from gbi_pyro.joint import combinations
from gbi_pyro.problems import coupled_chain, coupled_graph, frustrated_graph, graph_chain, switching

F64 = torch.float64


def test_a_chain_solved_along_its_sites_is_its_table(generator: torch.Generator) -> None:
    problem = coupled_chain(6, coupling=0.7, dtype=F64)
    drawn = problem.draw(5, generator)
    chain, table = problem.posterior(drawn), Enumeration()(problem.model, *drawn.args)
    for name, q in table.log_probs.items():
        torch.testing.assert_close(chain.logits(name), q, rtol=0, atol=1e-10)
    torch.testing.assert_close(chain.log_evidence, table.log_evidence, rtol=0, atol=1e-10)
    found = chain.table().log_probs
    torch.testing.assert_close(found, table.table().log_probs, rtol=0, atol=1e-10)
    assert chain.num_observations.keys() == table.num_observations.keys()
    for name, count in table.num_observations.items():
        assert torch.equal(chain.num_observations[name], count)


def test_conditionals_of_a_chain_multiply_to_its_joint(generator: torch.Generator) -> None:
    problem = coupled_chain(4, dtype=F64)
    joint = problem.posterior(problem.draw(3, generator)).joint
    assert joint is not None
    ids = {n: k.unsqueeze(-1) for n, k in combinations(dict.fromkeys(joint.sites, 2)).items()}
    terms = [joint.conditional(n, ids).probs.log().expand(16, 3, 2) for n in joint.sites]
    product = sum(
        t.gather(-1, ids[n].expand(16, 3).unsqueeze(-1)).squeeze(-1)
        for n, t in zip(joint.sites, terms, strict=True)
    )
    torch.testing.assert_close(product, joint.log_prob(ids).expand(16, 3), rtol=0, atol=1e-12)


def test_draws_of_a_chain_are_joint(generator: torch.Generator) -> None:
    """Frequencies of all combinations within five standard errors."""
    problem, n = coupled_chain(3, dtype=F64), 20_000
    posterior = problem.posterior(problem.draw(1, generator))
    drawn = posterior.sample(n, generator=generator)
    found = torch.bincount(sum(4 // 2**i * drawn[f"z{i}"][:, 0] for i in range(3)), minlength=8) / n
    p = posterior.table().flat[0].exp()
    assert bool(((found - p).abs() <= 5 * (p * (1 - p) / n).sqrt()).all())


@pytest.mark.parametrize(
    "problem",
    [
        coupled_chain(3, coupling=-0.5, dtype=F64),
        coupled_graph("loop", [(0, 1), (1, 2), (0, 2)], [1.0, -0.5, 0.3], dtype=F64),
    ],
    ids=["chain", "loop"],
)
def test_drawn_tasks_follow_the_couplings(problem, generator: torch.Generator) -> None:
    """Frequencies of all combinations, and of the noise, within five standard errors."""
    n = 20_000
    (x,), tasks = problem.draw(n, generator)
    couplings = dict(zip(problem.model.edges, problem.model.couplings, strict=True))
    weights = [
        sum(J * s[i] * s[j] for (i, j), J in couplings.items())
        for s in itertools.product((-1, 1), repeat=3)
    ]
    p = torch.stack(weights).softmax(0)
    found = torch.bincount(sum(4 // 2**i * tasks[f"z{i}"] for i in range(3)), minlength=8) / n
    assert bool(((found - p).abs() <= 5 * (p * (1 - p) / n).sqrt()).all())
    noise = x - (2 * torch.stack([*tasks.values()], -1) - 1)
    assert bool((noise.mean(0).abs() <= 5 / n**0.5).all())
    assert bool(((noise.var(0) - 1).abs() <= 5 * (2 / n) ** 0.5).all())


def test_the_frustrated_graph_has_three_more_edges_and_signs_by_its_seed() -> None:
    models = [frustrated_graph(seed).model for seed in range(3)]
    chain = graph_chain().model
    for model in models:
        assert set(model.edges) - set(chain.edges) == {(0, 3), (2, 6), (4, 7)}
        assert bool((model.couplings.abs() == 1).all())
    assert not torch.equal(models[0].couplings, models[1].couplings)
    assert bool((chain.couplings == 1).all())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="couplings should be a number for each of the 2 edges"):
        coupled_graph("g", [(0, 1), (1, 2)], [1.0])
    for edges in ([(0, 2)], [(0, 1), (1, 1)]):
        with pytest.raises(ValueError, match="edges should join different tasks"):
            coupled_graph("g", edges, [1.0] * len(edges))
    with pytest.raises(ValueError, match="edges name 17 tasks, expected 16 at most"):
        graph_chain(17)
    with pytest.raises(ValueError, match="num_sites should be at least 2"):
        coupled_chain(1)
    with pytest.raises(ValueError, match=r"num_tasks should be one of \[2, 4, 5\], got 3"):
        switching(3)
    with pytest.raises(ValueError, match="sigma should be positive"):
        switching(2, sigma=0.0)
