"""Exact posteriors of single families against likelihoods written without the models."""

import pickle
from itertools import combinations

import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor
from torch.distributions import Normal

from gbi_pyro import Enumeration
from gbi_pyro.problems import (
    PROBLEMS,
    Problem,
    components,
    from_data,
    hyperteacher,
    hyperteacher_pair,
    model_choice,
    regression_weights,
    rules,
    switching,
)

F64 = torch.float64


def check(problem: Problem, args: tuple[Tensor, ...], log_likelihoods: list[Tensor]) -> None:
    """With a uniform prior the posterior is softmax of the log likelihoods of all tasks."""
    found = problem.exact(problem.model, *args).table().flat
    expected = torch.stack(log_likelihoods, -1).log_softmax(-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def log_normal(x: Tensor, mean: Tensor, sigma: Tensor | float) -> Tensor:
    return Normal(mean, sigma).log_prob(x).flatten(1).sum(-1)


def test_hyperteacher(generator: torch.Generator) -> None:
    problem = hyperteacher(1, num_examples=3, dtype=F64)
    model = problem.model
    (x, y), _ = problem.draw(4, generator)

    def scored(*modules: int) -> Tensor:
        weights = sum(model.modules[m] for m in modules)
        mean = torch.tanh(x @ weights.T) @ model.readout.T
        return log_normal(y, mean, 0.6)

    alone = [scored(m) for m in range(6)]
    check(problem, (x, y), alone + [scored(a, b) for a, b in combinations(range(6), 2)])
    pair = hyperteacher_pair(1, num_examples=3, dtype=F64)
    every = [scored(*{a, b}) for a in range(6) for b in range(6)]
    check(pair, (x, y), every)
    table = pair.exact(pair.model, x, y).table().log_probs
    torch.testing.assert_close(table, table.mT, rtol=0, atol=1e-10)  # the sites may be exchanged


def test_rules(generator: torch.Generator) -> None:
    problem = rules(3, dtype=F64)
    (pairs, y), _ = problem.draw(5, generator)
    a, b = pairs[..., 0], pairs[..., 1]
    results = a + b, a - b, a * b, torch.where(a < b, a, b)
    check(problem, (pairs, y), [log_normal(y, r, 0.5) for r in results])


def test_components(generator: torch.Generator) -> None:
    problem = components(1, dtype=F64)
    (x,), _ = problem.draw(5, generator)
    laws = zip(problem.model.means, problem.model.log_scales.exp(), strict=True)
    check(problem, (x,), [log_normal(x, mean, scale) for mean, scale in laws])


def test_regression(generator: torch.Generator) -> None:
    problem = regression_weights(1, dtype=F64)
    (x, y), _ = problem.draw(5, generator)
    check(problem, (x, y), [log_normal(y, x @ w, 0.5) for w in problem.model.weights])


def test_switching(generator: torch.Generator) -> None:
    problem = switching(4, dtype=F64)
    (x,), _ = problem.draw(5, generator)
    check(problem, (x,), [-((x - mean) ** 2) / 0.18 for mean in (0.0, 0.3, 0.6, 1.0)])


def test_model_choice_is_that_of_bayesian_linear_regression(generator: torch.Generator) -> None:
    """The evidence of each degree, as a dense normal, and by one point after the other."""
    problem = model_choice(dtype=F64)
    (y,), _ = problem.draw(3, generator)
    x = torch.linspace(-1, 1, 16, dtype=F64)
    dense, online = [], []
    for degree in range(4):
        F = torch.stack([x**j for j in range(degree + 1)], -1)
        covariance = F @ F.T + 0.09 * torch.eye(16, dtype=F64)
        law = multivariate_normal(torch.zeros(16).numpy(), covariance.numpy())
        dense.append(torch.from_numpy(law.logpdf(y.numpy())))
        mean, covariance = torch.zeros(3, degree + 1, dtype=F64), torch.eye(degree + 1, dtype=F64)
        total = torch.zeros(3, dtype=F64)
        for f, seen in zip(F, y.T, strict=True):
            variance = f @ covariance @ f + 0.09
            total = total + Normal(mean @ f, variance.sqrt()).log_prob(seen)
            gain = covariance @ f / variance
            mean = mean + (seen - mean @ f).unsqueeze(-1) * gain
            covariance = covariance - torch.outer(gain, f @ covariance)
        online.append(total)
    check(problem, (y,), dense)
    check(problem, (y,), online)


def test_data_are_drawn_once_each_with_their_labels(generator: torch.Generator) -> None:
    x = torch.arange(10.0) / 10
    labels = {"z": (x > 0.5).long()}
    problem = from_data("ten", switching(2).model, [x], labels)
    (drawn,), tasks = problem.draw(10, generator)
    assert torch.equal(drawn.sort().values, x)
    assert torch.equal(tasks["z"], (drawn > 0.5).long())
    (few,), _ = problem.draw(4, generator)
    assert len(few.unique()) == 4
    expected = Enumeration()(problem.model, few).log_probs["z"]
    torch.testing.assert_close(problem.exact(problem.model, few).log_probs["z"], expected)
    one_by_one = Enumeration()
    assert from_data("ten", problem.model, [x], labels, exact=one_by_one).exact is one_by_one
    with pytest.raises(ValueError, match="n should be at most 10, the cases there are; got 11"):
        problem.draw(11, generator)
    with pytest.raises(ValueError, match="should have a row for each case"):
        from_data("ten", problem.model, [x[:9]], labels)
    with pytest.raises(ValueError, match="should have a row for each case"):
        from_data("ten", problem.model, [x], {})


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_a_problem_can_be_sent_to_another_process(name: str, generator: torch.Generator) -> None:
    problem = PROBLEMS[name](0)
    copy = pickle.loads(pickle.dumps(problem))
    drawn = problem.draw(2, torch.Generator().manual_seed(0))
    again = copy.draw(2, torch.Generator().manual_seed(0))
    assert all(map(torch.equal, drawn.args, again.args))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hyperteacher(0, num_examples=0), "num_examples should be at least 1, got 0"),
        (lambda: rules(0), "num_examples should be at least 1, got 0"),
        (lambda: components(0, num_tasks=1), "num_tasks should be at least 2, got 1"),
        (lambda: regression_weights(0, num_inputs=0), "num_inputs should be at least 1, got 0"),
        (lambda: model_choice(num_degrees=1), "num_degrees should be at least 2, got 1"),
    ],
)
def test_a_problem_needs_something_to_infer(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
