"""Murphy's decomposition: an identity, and its parts where they are known."""

import pytest
import torch
from torch import Tensor

from gbi_pyro.metrics import brier, brier_decomposition


def few_valued(generator: torch.Generator, n: int) -> tuple[Tensor, Tensor]:
    """Forecasts of five different rows, and labels drawn from them."""
    rows = torch.randn(5, 3, generator=generator, dtype=torch.float64).log_softmax(-1)
    log_p = rows[torch.randint(5, (n,), generator=generator)]
    labels = torch.multinomial(log_p.exp(), 1, generator=generator).squeeze(-1)
    return log_p, labels


@pytest.mark.parametrize("bins", [1, 4, 15, None])
@pytest.mark.parametrize("strategy", ["width", "mass"])
def test_the_parts_sum_to_the_brier_score(
    generator: torch.Generator, bins: int | None, strategy: str
) -> None:
    log_p = torch.randn(200, 4, generator=generator, dtype=torch.float64).log_softmax(-1)
    labels = torch.randint(4, (200,), generator=generator)
    parts = brier_decomposition(log_p, labels, bins, strategy)
    assert parts.brier == pytest.approx(brier(log_p, labels), abs=1e-12)
    assert min(parts[:3]) >= 0
    shares = labels.bincount(minlength=4).double() / 200
    assert parts.uncertainty == pytest.approx(1 - shares.square().sum().item())


def test_murphys_three_parts_suffice_where_bins_hold_one_value(generator: torch.Generator) -> None:
    log_p, labels = few_valued(generator, 300)
    parts = brier_decomposition(log_p, labels, bins=None)
    assert parts.within == pytest.approx(0, abs=1e-15)
    three = parts.reliability - parts.resolution + parts.uncertainty
    assert three == pytest.approx(brier(log_p, labels), abs=1e-12)
    assert brier_decomposition(log_p, labels, bins=10**6, strategy="width") == pytest.approx(
        parts, abs=1e-12
    )
    # With few bins of many values they do not.
    log_q = torch.randn(300, 3, generator=generator, dtype=torch.float64).log_softmax(-1)
    assert abs(brier_decomposition(log_q, labels, bins=2).within) > 1e-3


def test_a_constant_forecast_resolves_nothing_and_the_base_rate_is_reliable() -> None:
    labels = torch.tensor([0, 0, 1, 2])
    rate = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log().expand(4, 3)
    parts = brier_decomposition(rate, labels, bins=None)
    assert parts == pytest.approx((0, 0, 0.625, 0), abs=1e-12)
    sure = torch.eye(3, dtype=torch.float64)[labels].log()
    assert brier_decomposition(sure, labels, bins=None) == pytest.approx((0, 0.625, 0.625, 0))


def test_reliability_of_a_calibrated_posterior_vanishes_like_one_over_n(
    generator: torch.Generator,
) -> None:
    # Its mean is sum_k sum_b q_kb (1 - q_kb) / N <= (K - 1) bins / N, of which this is five times.
    log_p, labels = few_valued(generator, 20_000)
    assert brier_decomposition(log_p, labels, bins=None).reliability < 5 * 2 * 5 / 20_000
    worse = (3 * log_p).log_softmax(-1)
    assert brier_decomposition(worse, labels, bins=None).reliability > 0.01


def test_invalid_arguments_are_named() -> None:
    log_p = torch.tensor([[0.5, 0.5]]).log()
    with pytest.raises(ValueError, match="bins should be 1 or more"):
        brier_decomposition(log_p, [0], bins=0)
    with pytest.raises(ValueError, match="strategy should be"):
        brier_decomposition(log_p, [0], strategy="even")
    with pytest.raises(ValueError, match="log_probs should hold"):
        brier_decomposition(log_p.exp(), [0])
