"""The number of tasks by BIC and by data that no fit has seen."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch import Tensor

from gbi_pyro.inference import LearnedChain, Marginal, marginalize
from gbi_pyro.learning import compare_num_tasks

F64 = torch.float64


def counts(K: int) -> Marginal:
    def model(x: Tensor, length: Tensor) -> None:
        start = torch.linspace(2, 12, K + 2, dtype=F64)[1:-1]
        rates = pyro.param("rates", start, constraint=constraints.positive)
        with pyro.plate("session", len(x), dim=-2), pyro.plate("time", x.shape[1], dim=-1):
            prior = dist.OneHotCategorical(torch.ones(K, dtype=F64))
            z = pyro.sample("z", prior, infer={"task": True})
            pyro.sample("x", dist.Poisson(z @ rates), obs=x)

    return marginalize(model, LearnedChain(K), lambda x, length: length)


def series(K: int) -> Marginal:
    def model(x: Tensor) -> None:
        start = torch.linspace(2, 12, K + 2, dtype=F64)[1:-1]
        rates = pyro.param("rates", start, constraint=constraints.positive)
        with pyro.plate("time", len(x)):
            prior = dist.OneHotCategorical(torch.ones(K, dtype=F64))
            z = pyro.sample("z", prior, infer={"task": True})
            pyro.sample("x", dist.Poisson(z @ rates), obs=x)

    return marginalize(model, LearnedChain(K))


def two_rates(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    switches = torch.rand(shape, generator=generator) < 0.1
    state = switches.cumsum(-1) % 2
    return torch.poisson(torch.where(state == 1, 3.0, 11.0).double(), generator=generator)


def test_two_rates_are_found_by_every_criterion(generator: torch.Generator) -> None:
    x = two_rates((12, 60), generator)
    length = torch.full((12,), 60)
    length[3:6] = 40
    found = compare_num_tasks(counts, (1, 2, 3), x, length, folds=2, starts=2)
    assert (found.by_bic, found.by_held_out.num_tasks, found.unit) == (2, 2, "sequence")
    table = found.to_dataframe()
    assert table.num_parameters.tolist() == [1, 2 + 1 + 2, 3 + 2 + 6]
    assert table.log_evidence.is_monotonic_increasing
    assert table.difference[0] == 0
    assert len(pyro.get_param_store()) == 0


def test_with_one_task_each_fold_has_the_mean_of_the_others(generator: torch.Generator) -> None:
    x = torch.poisson(torch.full((6, 20), 5.0, dtype=F64), generator=generator)
    length = torch.tensor([20, 20, 3, 20, 11, 20])
    found = compare_num_tasks(counts, (1,), x, length, folds=3, starts=1, seed=7)
    real = torch.arange(20) < length[:, None]
    order = torch.randperm(6, generator=torch.Generator().manual_seed(7))
    for out in order.chunk(3):
        kept = torch.ones(6, dtype=torch.bool)
        kept[out] = False
        rate = x[kept][real[kept]].mean()
        expected = (dist.Poisson(rate).log_prob(x) * real).sum(-1)[out]
        torch.testing.assert_close(found.scores[1][out], expected, atol=1e-3, rtol=0)


def test_a_single_series_is_scored_one_step_ahead(generator: torch.Generator) -> None:
    (x,) = two_rates((1, 400), generator)
    found = compare_num_tasks(series, (1, 2, 3), x, folds=8, starts=3)
    assert (found.by_bic, found.by_held_out.num_tasks) == (2, 2)
    assert found.unit == "block of steps"
    later = dist.Poisson(x[:200].mean()).log_prob(x[200:])
    expected = later.reshape(8, 25).sum(-1)
    torch.testing.assert_close(found.scores[1], expected, atol=1e-3, rtol=0)


def test_elements_without_a_chain_are_left_out_like_sequences(generator: torch.Generator) -> None:
    x = torch.randn(60, generator=generator, dtype=F64)
    x[::2] += 6

    def mixture(K: int) -> Marginal:
        def model(x: Tensor) -> None:
            means = pyro.param("means", torch.linspace(-1, 7, K + 2, dtype=F64)[1:-1])
            with pyro.plate("trial", len(x)):
                prior = dist.OneHotCategorical(torch.ones(K, dtype=F64))
                z = pyro.sample("z", prior, infer={"task": True})
                pyro.sample("x", dist.Normal(z @ means, 1.0), obs=x)

        return marginalize(model)

    found = compare_num_tasks(mixture, (1, 2), x, folds=3, starts=1)
    assert found.scores[1].shape == (60,)
    assert found.by_held_out.num_tasks == 2


def select_twice(indices: Tensor, x: Tensor, length: Tensor) -> tuple[Tensor, ...]:
    return x[indices], length[indices]


def test_arguments_may_be_selected_by_a_function(generator: torch.Generator) -> None:
    x, length = two_rates((4, 30), generator), torch.full((4,), 30)
    given = compare_num_tasks(counts, (1,), x, length, folds=2, starts=1, select=select_twice)
    usual = compare_num_tasks(counts, (1,), x, length, folds=2, starts=1)
    torch.testing.assert_close(given.scores[1], usual.scores[1])


def fixed_lengths(K: int) -> Marginal:
    marginal: Callable[..., Marginal] = marginalize
    return marginal(counts(K).model, LearnedChain(K), torch.tensor([3, 3]))


def test_what_cannot_be_compared_is_refused() -> None:
    x, length = torch.ones(2, 3, dtype=F64), torch.tensor([3, 3])
    with pytest.raises(ValueError, match="folds should be at least 2"):
        compare_num_tasks(counts, (1,), x, length, folds=1)
    with pytest.raises(ValueError, match="2 sequences leave too few"):
        compare_num_tasks(counts, (1,), x, length, folds=2, starts=1)
    with pytest.raises(ValueError, match="lengths should be a function"):
        compare_num_tasks(fixed_lengths, (1,), x, length, folds=2)


def one_session(K: int) -> Marginal:
    model = series(K).model

    def in_a_row(x: Tensor) -> None:
        model(x.reshape(-1))

    return marginalize(in_a_row, LearnedChain(K))


def test_data_of_which_no_part_can_be_taken_are_refused() -> None:
    x = torch.poisson(torch.full((40,), 5.0, dtype=F64))
    with pytest.raises(ValueError, match=r"should hold 20 sequences or steps, got 40"):
        compare_num_tasks(one_session, (1,), x.unsqueeze(0), folds=2, starts=1)  # time comes second
    with pytest.raises(ValueError, match="candidates should be one number"):
        compare_num_tasks(series, (), x)
