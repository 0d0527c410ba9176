"""Pareto smoothing against ArviZ's own, and where ArviZ 1.x has none."""

import math

import numpy as np
import pytest
import torch
from arviz_versions import psislw
from torch import Tensor

from gbi_pyro._arviz import makes_trees
from gbi_pyro.metrics._pareto import pareto_smoothed

F64 = torch.float64


# 1.x rounds the size of the tail down and others round it up: S / 5 and 3 sqrt(S) are whole here.
@pytest.mark.parametrize("S", [100, 400, 900])
@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_it_is_arviz_own(S: int, scale: float, generator: torch.Generator) -> None:
    log_weights = scale * torch.randn(5, S, generator=generator, dtype=F64)
    smoothed, k_hat = pareto_smoothed(log_weights)
    expected = psislw(log_weights.numpy())
    np.testing.assert_allclose(smoothed, expected[0], rtol=0, atol=1e-10)
    np.testing.assert_allclose(k_hat, expected[1], rtol=0, atol=1e-10)


def test_k_hat_is_the_shape_of_the_upper_tail(generator: torch.Generator) -> None:
    """Of weights U^-k it is k, and of their inverses, which are bounded, below 0."""
    S, k = 100_000, 0.6
    log_weights = -k * torch.rand(S, generator=generator, dtype=F64).log()
    above, below = (pareto_smoothed(sign * log_weights)[1] for sign in (1, -1))
    error = (1 + k) / math.sqrt(3 * math.sqrt(S))  # of the maximum likelihood estimate
    assert abs(above - k) < 4 * error
    assert below < 0


def tied(generator: torch.Generator, S: int = 400) -> Tensor:
    """Weights on a lattice, as those of discrete tasks are: many equal the cut-off."""
    return 0.5 * torch.randint(0, 12, (3, S), generator=generator).double().sqrt().round(decimals=1)


@pytest.mark.skipif(makes_trees(), reason="ArviZ 1.x takes weights tied with the cut-off in")
def test_ties_are_fitted_as_by_arviz_before_1(generator: torch.Generator) -> None:
    log_weights = tied(generator)
    smoothed, k_hat = pareto_smoothed(log_weights)
    expected = psislw(log_weights.numpy())
    np.testing.assert_allclose(smoothed, expected[0], rtol=0, atol=1e-10)
    np.testing.assert_allclose(k_hat, expected[1], rtol=0, atol=1e-10)


def test_weights_tied_with_the_cut_off_lie_outside_the_tail(generator: torch.Generator) -> None:
    """Where 48 of 400 weights exceed all others, which are tied, the tail is those 48.

    So k-hat is that of 250 weights with the same 48 on top of a single one, M = 48.
    """
    above = torch.rand(48, generator=generator, dtype=F64)
    tied_below = torch.cat([torch.zeros(352, dtype=F64), above])
    apart = torch.cat([torch.linspace(-1, 0, 202, dtype=F64), above])
    k_tied, k_apart = (pareto_smoothed(log_weights)[1] for log_weights in (tied_below, apart))
    assert k_tied.item() == pytest.approx(k_apart.item(), abs=1e-12)


def test_without_a_tail_the_weights_stay(generator: torch.Generator) -> None:
    flat, two_high = torch.zeros(100, dtype=F64), torch.zeros(100, dtype=F64)
    two_high[[3, 7]] = 1.0
    for log_weights, expected in ((flat, -math.inf), (two_high, math.inf)):
        smoothed, k_hat = pareto_smoothed(log_weights)
        assert k_hat.item() == expected
        torch.testing.assert_close(smoothed, log_weights.log_softmax(-1))
    assert pareto_smoothed(torch.zeros(1, dtype=F64))[0].tolist() == [0.0]


def test_impossible_draws_keep_weight_zero_and_scale_does_not_matter(
    generator: torch.Generator,
) -> None:
    log_weights = torch.randn(2, 3, 200, generator=generator, dtype=F64)
    log_weights[..., ::2] = -math.inf
    smoothed, k_hat = pareto_smoothed(log_weights)
    assert smoothed.shape == (2, 3, 200)
    assert k_hat.shape == (2, 3)
    assert smoothed[..., ::2].isneginf().all()
    torch.testing.assert_close(smoothed.exp().sum(-1), torch.ones(2, 3, dtype=F64))
    shifted = pareto_smoothed(log_weights - 2000)
    torch.testing.assert_close(shifted[0], smoothed, rtol=0, atol=1e-9)
    torch.testing.assert_close(shifted[1], k_hat, rtol=0, atol=1e-9)


def test_fewer_effective_draws_have_a_longer_tail(generator: torch.Generator) -> None:
    """M = 3 sqrt(S / r): the weights below the tail keep their ratios."""
    log_weights = torch.randn(10_000, generator=generator, dtype=F64).sort().values
    for efficiency, size in ((1.0, 300), (0.25, 600), (0.01, 2000)):
        smoothed, _ = pareto_smoothed(log_weights, efficiency)
        moved = (smoothed.diff() - log_weights.diff()).abs() > 1e-9
        assert moved.nonzero()[0].item() == 10_000 - size - 1
