"""Blocks of paths, their lengths where some are cut off, and the law of a chain."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gbi_pyro import TaskChain
from gbi_pyro.metrics import (
    dwell_law,
    dwell_times,
    kaplan_meier,
    num_switches,
    path_statistics,
)

K, LENGTHS = 3, (1, 9, 0, 20, 14)
F64 = torch.float64


@pytest.fixture
def paths(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sticky paths of sequences of unequal length, and their padding."""
    stays = torch.rand(len(LENGTHS), 20, generator=generator) < 0.6
    drawn = torch.randint(K, (len(LENGTHS), 20), generator=generator)
    for t in range(1, 20):
        drawn[:, t] = torch.where(stays[:, t], drawn[:, t - 1], drawn[:, t])
    return drawn, torch.arange(20) >= torch.tensor(LENGTHS).unsqueeze(-1)


def test_blocks_are_those_of_groupby(paths: tuple[Tensor, Tensor]) -> None:
    tasks, padding = paths
    expected = []
    for s, n in enumerate(LENGTHS):
        runs = [(k, len(list(run))) for k, run in itertools.groupby(tasks[s, :n].tolist())]
        expected += [(k, d, i == len(runs) - 1, s) for i, (k, d) in enumerate(runs)]
    found = dwell_times(tasks, padding)
    assert list(zip(*(column.tolist() for column in found), strict=True)) == expected
    assert found.of(1).length.tolist() == [d for k, d, *_ in expected if k == 1]


def test_switches_are_ends_of_blocks_that_are_seen(paths: tuple[Tensor, Tensor]) -> None:
    tasks, padding = paths
    blocks = dwell_times(tasks, padding)
    ends = blocks.sequence[~blocks.censored].bincount(minlength=len(LENGTHS))
    assert torch.equal(num_switches(tasks, padding), ends)


def test_what_padding_holds_changes_nothing(paths: tuple[Tensor, Tensor]) -> None:
    tasks, padding = paths
    other = torch.where(padding, -7, tasks)
    for ours, theirs in zip(dwell_times(tasks, padding), dwell_times(other, padding), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(num_switches(tasks, padding), num_switches(other, padding))
    draws = dwell_times(tasks.expand(2, -1, -1), padding)  # padding lacks the draws
    assert len(draws.task) == 2 * len(dwell_times(tasks, padding).task)


def test_statistics_of_paths_are_shares_and_means(paths: tuple[Tensor, Tensor]) -> None:
    tasks, padding = paths
    found, blocks = path_statistics(tasks, K + 1, padding), dwell_times(tasks, padding)
    for k in range(K):
        assert found[f"share task {k}"] == pytest.approx((tasks[~padding] == k).double().mean())
        mean = blocks.of(k).length.double().mean().item()
        assert found[f"mean dwell time task {k}"] == pytest.approx(mean)
    assert found["switches"] == num_switches(tasks, padding).sum()
    assert found[f"share task {K}"] == 0
    assert found[f"mean dwell time task {K}"] != found[f"mean dwell time task {K}"]  # NaN


def test_kaplan_meier_of_a_published_trial() -> None:
    """Freireich et al. 1963, remissions under 6-MP; intervals as Stata's ``sts list`` has them.

    There a censored time is one that was survived; here a block that is cut off at its d-th step
    survived d - 1.
    """
    ended = [6, 6, 6, 7, 10, 13, 16, 22, 23]
    cut = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    length = torch.tensor([*ended, *(d + 1 for d in cut)])
    found = kaplan_meier(length, torch.arange(len(length)) >= len(ended))
    at = [6, 7, 10, 13, 16, 22, 23]
    survival = [0.8571, 0.8067, 0.7529, 0.6902, 0.6275, 0.5378, 0.4482]
    low = [0.6197, 0.5631, 0.5032, 0.4316, 0.3675, 0.2678, 0.1881]
    high = [0.9516, 0.9228, 0.8894, 0.8491, 0.8049, 0.7468, 0.6801]
    for column, published in ((found.survival, survival), (found.low, low), (found.high, high)):
        torch.testing.assert_close(column[at], torch.tensor(published).double(), atol=6e-5, rtol=0)
    assert found.time[-1] == 35
    assert found.at_risk[[0, 6, 7]].tolist() == [21, 21, 17]


def test_without_cut_blocks_it_is_the_share_that_lasts_longer(generator: torch.Generator) -> None:
    length = torch.randint(1, 12, (50,), generator=generator)
    found = kaplan_meier(length)
    share = (length > found.time.unsqueeze(-1)).double().mean(-1)
    torch.testing.assert_close(found.survival, share)
    assert bool((found.low <= found.survival).all() & (found.survival <= found.high).all())


def test_ends_and_risks_are_the_moves_that_a_chain_counts(paths: tuple[Tensor, Tensor]) -> None:
    """A step at risk is one whose next step is seen; an end is a switch."""
    tasks, padding = paths
    keep = torch.tensor(LENGTHS) > 0
    tasks, padding = tasks[keep], padding[keep]
    moves = TaskChain.sticky(K, 0.1).counts(torch.eye(K)[tasks], padding).transition
    for k in range(K):
        blocks = dwell_times(tasks, padding).of(k)
        found = kaplan_meier(blocks.length, blocks.censored)
        hazards = 1 - found.survival[1:] / found.survival[:-1]
        assert found.at_risk[1:].sum() == moves[k].sum()
        ends = (hazards * found.at_risk[1:]).nan_to_num(0.0).sum()
        assert ends.item() == pytest.approx((moves[k].sum() - moves[k, k]).item())


def test_weighted_blocks_of_draws_count_as_one(generator: torch.Generator) -> None:
    length = torch.randint(1, 9, (30,), generator=generator)
    cut = torch.rand(30, generator=generator) < 0.2
    once = kaplan_meier(length, cut)
    often = kaplan_meier(length.repeat(5), cut.repeat(5), torch.full((150,), 0.2))
    for a, b in zip(once, often, strict=True):
        torch.testing.assert_close(a, b)


def compositions(t: int) -> list[list[int]]:
    return [[]] if t == 0 else [[d, *rest] for d in range(1, t + 1) for rest in compositions(t - d)]


def test_law_of_blocks_that_follow_their_own_task() -> None:
    """Against the sum over all ways to make a dwell time of blocks."""
    p = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.0, 0.9]], dtype=F64)
    A = torch.tensor([[0.3, 0.7], [1.0, 0.0]], dtype=F64)
    chain = TaskChain("uniform", A.log(), log_duration=p.log())
    law = dwell_law(chain, 7)
    for k, t in itertools.product(range(2), range(1, 8)):
        total = 0.0
        for blocks in compositions(t):
            if max(blocks) <= 3:
                lengths = torch.tensor([p[k, d - 1] for d in blocks])
                total += (lengths.prod() * A[k, k] ** (len(blocks) - 1) * (1 - A[k, k])).item()
        assert (law[k, t - 1] - law[k, t]).item() == pytest.approx(total, abs=1e-12)
    assert law[1].tolist() == pytest.approx([1, 0.9, 0.9, 0, 0, 0, 0, 0])


def test_law_of_a_markov_chain_is_geometric_and_one_step_blocks_are_it() -> None:
    A = torch.tensor([[0.9, 0.1], [0.4, 0.6]], dtype=F64)
    markov = dwell_law(TaskChain("uniform", A.log()), 9)
    torch.testing.assert_close(markov, A.diagonal().unsqueeze(-1) ** torch.arange(10))
    blocks = TaskChain("uniform", A.log(), log_duration=torch.zeros(2, 1, dtype=F64))
    torch.testing.assert_close(dwell_law(blocks, 9), markov)
    assert dwell_law(blocks, 0).tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize("explicit", [False, True])
def test_drawn_paths_follow_the_law(explicit: bool, generator: torch.Generator) -> None:
    """Of a chain without data; blocks cut off at 12 steps would bias anything but Kaplan-Meier."""
    A = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=F64)
    p = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.4, 0.1, 0.1, 0.4]], dtype=F64)
    chain = TaskChain("uniform", A.log(), log_duration=p.log() if explicit else None)
    drawn = chain.posterior(torch.zeros(12, 2, dtype=F64)).paths.sample(4000, generator)
    law = dwell_law(chain, 8)
    for k in range(2):
        blocks = dwell_times(drawn).of(k)
        found = kaplan_meier(blocks.length, blocks.censored)
        # Greenwood's standard error from the law itself.
        hazard = 1 - law[k, 1:] / law[k, :-1]
        terms = hazard / ((1 - hazard) * found.at_risk[1:9])
        error = law[k, 1:] * terms.cumsum(0).sqrt()
        assert bool(((found.survival[1:9] - law[k, 1:]).abs() < 4 * error).all())


DRIVEN = TaskChain(
    "uniform", torch.eye(2).log(), slopes=torch.zeros(1, 2, 2), inputs=torch.zeros(3, 1)
)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dwell_times([0.0, 1.0]), r"integer task ids.*\(2,\) of torch.float32"),
        (lambda: dwell_times(torch.tensor(1)), "integer task ids"),
        (lambda: dwell_times([0, -1]), "one id of 0 or more.*from -1"),
        (lambda: num_switches([0, 1], [False]), r"padding should be bool.*\(2,\); got \(1,\)"),
        (lambda: num_switches([0, 1], [0, 1]), "padding should be bool.*int64"),
        (lambda: num_switches([0, 1], [True, False]), "should follow the real steps"),
        (lambda: num_switches([0, 1], [True, True]), "should follow the real steps"),
        (lambda: path_statistics([0, 2], 2), "tasks should be from 0 to 1; got 2"),
        (lambda: path_statistics([0, 1], 2, names=["a"]), r"names should be 2.*\['a'\]"),
        (lambda: dwell_law(DRIVEN, 3), "no one law"),
        (lambda: dwell_law(TaskChain.sticky(2, 0.1), -1), "max_steps should be 0 or more; got -1"),
        (lambda: kaplan_meier(torch.tensor([], dtype=torch.long)), "never occurs"),
        (lambda: kaplan_meier([0, 1]), "integers of 1 or more"),
        (lambda: kaplan_meier([1, 2], [True]), r"each of 2 blocks; got \(1,\)"),
        (lambda: kaplan_meier([1, 2], [0, 1]), "censored should be bool"),
        (lambda: kaplan_meier([1, 2], None, [1.0, 0.0]), "weights positive"),
        (lambda: kaplan_meier([1, 2], level=1.0), "level should be between 0 and 1"),
    ],
)
def test_invalid_input_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
