"""Autocorrelation over sequences of unequal length."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from gbi_pyro.metrics import autocorrelation


def test_of_one_series_it_is_the_textbook_estimate(generator: torch.Generator) -> None:
    x = torch.randn(200, generator=generator, dtype=torch.float64)
    c = (x - x.mean()).numpy()
    sums = np.correlate(c, c, "full")[199:]
    adjusted = sums / np.arange(200, 0, -1)
    found = autocorrelation(x, 20)
    np.testing.assert_allclose(found, (adjusted / adjusted[0])[:21], rtol=1e-10)


def test_of_an_autoregression_it_is_a_power(generator: torch.Generator) -> None:
    """x_t = .8 x_t-1 + e_t, many short sequences: .8^h, unshrunk by their ends."""
    S, T, rho = 4000, 12, 0.8
    x = torch.randn(S, T, generator=generator, dtype=torch.float64)
    for t in range(1, T):
        x[:, t] = rho * x[:, t - 1] + (1 - rho**2) ** 0.5 * x[:, t]
    found = autocorrelation(x, 6)
    # Sequences are independent: the spread of their own ratios gives the standard error.
    for h in range(1, 7):
        own = (x[:, : T - h] * x[:, h:]).mean(1) - rho**h * (x**2).mean(1)
        assert abs(found[h].item() - rho**h) < 4 * own.std().item() / S**0.5


def test_padding_and_the_order_of_sequences_change_nothing(generator: torch.Generator) -> None:
    x = torch.randn(3, 10, generator=generator)
    lengths = torch.tensor([10, 4, 7])
    padding = torch.arange(10) >= lengths.unsqueeze(-1)
    found = autocorrelation(x, 5, padding)
    torch.testing.assert_close(
        found, autocorrelation(x.masked_fill(padding, torch.nan), 5, padding)
    )
    wider = [torch.nn.functional.pad(v.float(), (0, 3), value=1.0) for v in (x, padding)]
    torch.testing.assert_close(found, autocorrelation(wider[0], 5, wider[1].bool()))
    torch.testing.assert_close(found, autocorrelation(x.flip(0), 5, padding.flip(0)))
    torch.testing.assert_close(found, autocorrelation(3 * x - 7, 5, padding), rtol=1e-5, atol=1e-6)


def test_no_pair_goes_from_one_sequence_to_another() -> None:
    found = autocorrelation([[1.0, 1.0], [-1.0, -1.0]], 1)
    assert found.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: autocorrelation(1.0, 1), "time last; got a single number"),
        (lambda: autocorrelation([1.0, 2.0], 2), "max_lag should be from 0 to 1.*got 2"),
        (lambda: autocorrelation([1.0, 2.0], -1), "max_lag should be from 0 to 1"),
        (lambda: autocorrelation([1.0, 1.0], 1), "finite and not constant"),
        (lambda: autocorrelation([1.0, float("nan")], 1), "finite and not constant"),
        (lambda: autocorrelation([1.0, 2.0], 1, [True, False]), "should follow the real steps"),
    ],
)
def test_invalid_input_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
