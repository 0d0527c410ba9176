"""Truths that hold for every problem of the catalogue."""

import math

import pytest
import torch
from problem_oracles import F64, log_joint, one_hots, some_combinations

from gbi_pyro import Enumeration
from gbi_pyro.problems import PROBLEMS, Problem
from gbi_pyro.sites import find_task_sites

NAMES = list(PROBLEMS)
FIXED = {"switching-2", "switching-4", "switching-5", "rules-n1", "rules-n4", "model-index"}
FIXED |= {"graph-8-chain", "chain-40"}
"""Problems whose parameters are no matter of chance."""
CASES = {"metahmm-256-T40": 200}
"""How many cases of larger problems are enumerated."""


def problem_of(name: str, seed: int = 0) -> Problem:
    return PROBLEMS[name](seed, dtype=F64)


def generator_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", NAMES)
def test_the_exact_posterior_is_that_of_pyros_log_joint(name: str) -> None:
    """log p(x, z) - log p(z | x) is log p(x) for every combination, and the posterior sums to 1."""
    problem = problem_of(name)
    drawn = problem.draw(2, generator_of(1))
    posterior = problem.posterior(drawn)
    tasks = some_combinations(posterior.sites, 256, otherwise=32)
    found = posterior.log_prob({n: k.unsqueeze(-1).expand(-1, 2) for n, k in tasks.items()})
    joint = torch.stack(
        [
            log_joint(
                problem, drawn, one_hots(posterior.sites, {n: k[i] for n, k in tasks.items()})
            )
            for i in range(len(found))
        ]
    )
    evidence = posterior.log_evidence.expand(len(found), 2)
    torch.testing.assert_close(joint - found, evidence, rtol=0, atol=1e-10)
    if math.prod(site.num_tasks for site in posterior.sites.values()) == len(found):
        torch.testing.assert_close(joint.logsumexp(0), evidence[0], rtol=0, atol=1e-10)
        for site, q in posterior.log_probs.items():
            marginal = torch.stack(
                [found[tasks[site] == k].logsumexp(0) for k in range(q.shape[-1])], -1
            )
            torch.testing.assert_close(q, marginal, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_the_exact_posterior_is_calibrated_on_draws(name: str) -> None:
    """The true task has probability sum_k q_k^2 on average, within four standard errors.

    Given the data the true task is a draw of q, so q(true) has that mean and the variance
    sum_k q_k^3 - (sum_k q_k^2)^2.
    """
    if name == "metahmm-12288-T40":
        pytest.skip("takes seconds for a few cases; metahmm-256-T40 is of the same family")
    problem = PROBLEMS[name](0)
    drawn = problem.draw(CASES.get(name, 1000), generator_of(2))
    posterior = problem.posterior(drawn)
    assert posterior.log_probs.keys() == drawn.tasks.keys()
    for site, true in drawn.tasks.items():
        q = posterior.probs(site).double()
        mean = q.square().sum(-1)
        variance = q.pow(3).sum(-1) - mean.square()
        error = q.gather(-1, true.unsqueeze(-1)).squeeze(-1) - mean
        assert abs(error.sum()) <= 4 * variance.sum().sqrt(), site


@pytest.mark.parametrize("name", NAMES)
def test_a_problem_is_its_seed(name: str) -> None:
    """The same seed gives the same model and draws; another one another model."""
    one, same, other = problem_of(name), problem_of(name), problem_of(name, 1)
    assert one.name == name
    drawn, again = one.draw(5, generator_of(3)), same.draw(5, generator_of(3))
    assert all(map(torch.equal, drawn.args, again.args))
    assert all(map(torch.equal, drawn.tasks.values(), again.tasks.values()))
    sites = find_task_sites(one.model, *drawn.args)
    tasks = one_hots(sites, some_combinations(sites, 0, otherwise=1))
    score = log_joint(one, drawn, tasks)
    assert torch.equal(log_joint(same, drawn, tasks), score)
    assert torch.equal(log_joint(other, drawn, tasks), score) == (name in FIXED)


@pytest.mark.parametrize("name", NAMES)
def test_cases_come_first_in_data_and_tasks(name: str) -> None:
    problem = problem_of(name)
    many, few = problem.draw(7, generator_of(4)), problem.draw(3, generator_of(4))
    for a, b in zip(many.args, few.args, strict=True):
        assert (len(a), len(b)) == (7, 3)
        assert a.shape[1:] == b.shape[1:]
        assert a.dtype in (F64, torch.int64)
    for a, b in zip(many.tasks.values(), few.tasks.values(), strict=True):
        assert (a.shape, b.shape) == ((7,), (3,))
        assert a.dtype == torch.int64
    with pytest.raises(ValueError, match="n should be at least 1, got 0"):
        problem.draw(0, generator_of(4))


@pytest.mark.parametrize("name", NAMES)
def test_the_model_broadcasts_over_a_chunk_of_tasks(name: str) -> None:
    problem = problem_of(name)
    drawn = problem.draw(2, generator_of(5))
    sites = find_task_sites(problem.model, *drawn.args)
    number = math.prod(site.num_tasks for site in sites.values())
    if number > 36:
        pytest.skip("tried one by one against Pyro above")
    chunks = Enumeration(chunk_size=64)(problem.model, *drawn.args).table().flat
    singly = Enumeration(chunk_size=None)(problem.model, *drawn.args).table().flat
    torch.testing.assert_close(chunks, singly, rtol=0, atol=1e-10)
