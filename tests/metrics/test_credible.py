"""Highest-probability sets against all subsets, and their coverage against sampling theory."""

import itertools
import math

import pytest
import torch

from gbi_pyro.metrics import credible_coverage, credible_set, temper


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9, 0.999])
def test_no_smaller_set_has_the_probability(generator: torch.Generator, level: float) -> None:
    log_q = (2 * torch.randn(20, 4, generator=generator, dtype=torch.float64)).log_softmax(-1)
    sets = credible_set(log_q, level)
    for q, chosen in zip(log_q.exp(), sets, strict=True):
        assert q[chosen].sum() >= level - 1e-12
        smaller = itertools.combinations(range(4), int(chosen.sum()) - 1)
        assert all(q[list(s)].sum() < level for s in smaller)
        others = itertools.combinations(range(4), int(chosen.sum()))
        assert all(q[list(s)].sum() <= q[chosen].sum() + 1e-12 for s in others)


def test_equal_tasks_are_in_the_set_together_and_levels_are_met_despite_rounding() -> None:
    assert credible_set(torch.full((4,), 0.25).log(), 0.3).all()
    tenths = torch.tensor([0.1] * 7 + [0.3]).double().log()
    assert credible_set(tenths, 0.3).tolist() == [False] * 7 + [True]
    shares = torch.tensor([0.6, 0.3, 0.1]).double().log()
    assert credible_set(shares, 0.9).tolist() == [True, True, False]  # .6 + .3 < .9 by rounding


@pytest.mark.parametrize("T", [0.4, 1.0, 2.5])
def test_only_a_calibrated_posterior_covers_what_it_claims(
    generator: torch.Generator, T: float
) -> None:
    n = 10_000
    log_p = (2 * torch.randn(n, 5, generator=generator, dtype=torch.float64)).log_softmax(-1)
    labels = torch.multinomial(log_p.exp(), 1, generator=generator).squeeze(-1)
    found = credible_coverage(temper(log_p, T), labels, [0.5, 0.7, 0.9])
    assert (found.claimed >= found.level - 1e-12).all()
    gap, chance = found.coverage - found.claimed, 5 * math.sqrt(0.25 / n)
    if T == 1:
        assert (gap.abs() < chance).all()
    else:
        assert (gap.sign() == (1 if T > 1 else -1)).all()
        assert (gap.abs() > chance).any()
    assert (found.mean_size.diff() > 0).all()
    assert (found.coverage.diff() >= 0).all()
    assert ((found.coverage_low < found.coverage) & (found.coverage < found.coverage_high)).all()


def test_invalid_arguments_are_named() -> None:
    log_q = torch.tensor([[0.5, 0.5]]).log()
    with pytest.raises(ValueError, match="level should be between 0 and 1; got 1"):
        credible_coverage(log_q, [0], [1.0])
    with pytest.raises(ValueError, match="levels should hold at least one"):
        credible_coverage(log_q, [0], [])
    with pytest.raises(ValueError, match="labels should be"):
        credible_coverage(log_q, [0, 1])
    with pytest.raises(ValueError, match="log_probs should hold"):
        credible_set(log_q.exp(), 0.5)
