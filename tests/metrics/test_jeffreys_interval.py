import pytest
import torch
from scipy.stats import binom

from gbi_pyro.metrics.intervals import jeffreys_interval


@pytest.mark.parametrize("n", [20, 100])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_covers_as_often_as_it_says_on_average_over_proportions(
    n: int, level: float
) -> None:
    # Exact sums over the binomial of each proportion; the average over a uniform grid of these
    # differs from the level by order 1 / n.
    low, high = jeffreys_interval(torch.arange(n + 1), n, level)
    p = torch.linspace(0, 1, 2001, dtype=torch.float64)[1:-1]
    weight = torch.as_tensor(binom.pmf(torch.arange(n + 1), n, p[:, None]))
    inside = (low <= p[:, None]) & (p[:, None] <= high)
    coverage = (weight * inside).sum(-1)
    assert coverage.mean().item() == pytest.approx(level, abs=1 / n)


def test_ends_and_symmetry() -> None:
    low, high = jeffreys_interval(torch.tensor([0.0, 2.5, 7.5, 10.0]), 10)
    assert low[0] == 0
    assert high[3] == 1
    torch.testing.assert_close(low, 1 - high.flip(0))
    assert (low[1:] < high[:-1]).all()


def test_unfit_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"successes should be between 0.*swapped"):
        jeffreys_interval(5, 3)
    for level in (0.0, 1.0):
        with pytest.raises(ValueError, match="level should be between 0 and 1"):
            jeffreys_interval(1, 3, level)
