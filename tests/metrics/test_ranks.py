"""Ranks of true tasks: flat in expectation for draws from the posterior, and only then."""

import pytest
import torch
from torch import Tensor

from gbi_pyro.metrics import rank_histogram, rank_test


@pytest.fixture
def log_probs(generator: torch.Generator) -> Tensor:
    return (2 * torch.randn(4000, 4, generator=generator).double()).log_softmax(-1)


def drawn(log_probs: Tensor, generator: torch.Generator) -> Tensor:
    return torch.multinomial(log_probs.exp(), 1, generator=generator).squeeze(-1)


@pytest.mark.parametrize("q", [[0.5, 0.3, 0.2], [0.25, 0.5, 0.25], [1 / 3] * 3, [0.0, 0.9, 0.1]])
def test_the_expected_histogram_is_flat(q: list[float]) -> None:
    """sum_k q_k share(label k) = 1 / bins: the identity that the diagram rests on."""
    probs = torch.tensor(q).double()
    probs = probs / probs.sum()
    shares = [rank_histogram(probs.log()[None], [k], bins=7).share for k in range(3)]
    expected = (probs[:, None] * torch.stack(shares)).sum(0)
    torch.testing.assert_close(expected, torch.full_like(expected, 1 / 7))
    for share in shares:
        assert share.sum().item() == pytest.approx(1.0)


def test_it_is_the_mean_over_ranks_drawn_at_random(
    log_probs: Tensor, generator: torch.Generator
) -> None:
    """A rank is P(q > q_y) + U P(q = q_y), U uniform."""
    labels = drawn(log_probs, generator)
    q, ranks = log_probs.exp(), []
    of_label = q.gather(-1, labels[:, None])
    for _ in range(100):
        uniform = torch.rand(len(q), generator=generator).double()
        before = (q * (q > of_label)).sum(-1)
        ranks.append(before + uniform * of_label.squeeze(-1))  # no two tasks are equally probable
    counts = torch.cat(ranks).histc(bins=10, min=0, max=1) / (100 * len(q))
    found = rank_histogram(log_probs, labels).share
    # Five standard errors of 400,000 ranks, at most sqrt(.25 / n) each.
    assert ((found - counts).abs() < 5 * (0.25 / 4e5) ** 0.5).all()


def test_a_calibrated_posterior_lies_in_the_band_and_others_on_their_sides(
    log_probs: Tensor, generator: torch.Generator
) -> None:
    labels = drawn(log_probs, generator)
    right = rank_histogram(log_probs, labels, level=0.999)
    assert ((right.share >= right.band_low) & (right.share <= right.band_high)).all()
    sure = rank_histogram((2 * log_probs).log_softmax(-1), labels)
    assert sure.share[-1] > sure.band_high[-1]
    assert sure.share[0] < sure.band_low[0]
    unsure = rank_histogram((0.5 * log_probs).log_softmax(-1), labels)
    assert unsure.share[-1] < unsure.band_low[-1]
    assert unsure.share[0] > unsure.band_high[0]


def test_the_numbering_of_tasks_does_not_matter(
    log_probs: Tensor, generator: torch.Generator
) -> None:
    labels, order = drawn(log_probs, generator), torch.tensor([2, 0, 3, 1])
    again = rank_histogram(log_probs[:, order], order.argsort()[labels])
    torch.testing.assert_close(again.share, rank_histogram(log_probs, labels).share)


def test_a_label_of_probability_zero_ranks_last() -> None:
    found = rank_histogram(torch.tensor([[0.4, 0.6, 0.0]]).log(), [2], bins=4)
    assert found.share.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": 0}, "bins should be 1 or more; got 0"),
        ({"level": 1.0}, "level should be between 0 and 1; got 1.0"),
        ({"labels": [5]}, r"labels should be task ids 0 \.\. 1"),
    ],
)
def test_invalid_options_are_named(options: dict, message: str) -> None:
    half = torch.tensor([[0.5, 0.5]]).log()
    with pytest.raises(ValueError, match=message):
        rank_histogram(half, **{"labels": [0], **options})


def test_ranks_of_numbers_are_uniform_with_ties_and_without(generator: torch.Generator) -> None:
    """theta ~ Normal(0, 1), x ~ Normal(theta, 1): the posterior is Normal(x / 2, 1 / 2)."""
    theta = torch.randn(1000, generator=generator, dtype=torch.float64)
    x = theta + torch.randn(1000, generator=generator, dtype=torch.float64)
    noise = torch.randn(1000, 20, generator=generator, dtype=torch.float64)
    exact = x[:, None] / 2 + noise / 2**0.5
    for draws, truth in ((exact, theta), (exact.round(), theta.round()), (0 * exact, 0 * theta)):
        assert rank_test(draws, truth, generator=generator).p_value > 0.01
    shifted, wide = rank_test(exact + 0.3, theta), rank_test(x[:, None] / 2 + noise, theta)
    assert shifted.location < 1e-4
    assert shifted.ranks.mean() < 0.5  # draws too high: true numbers rank low
    assert wide.spread < 1e-4
    assert rank_test(x[:, None] / 2 + 0.4 * noise, theta).spread < 1e-4
    # The prior itself is calibrated; a quantity of parameter and data sees that it is no posterior.
    assert rank_test(noise, theta).p_value > 0.01
    assert rank_test(-((noise - x[:, None]) ** 2), -((theta - x) ** 2)).p_value < 1e-4


@pytest.mark.parametrize(
    ("draws", "truth", "message"),
    [
        (torch.zeros(3), torch.zeros(3), r"L draws from each .*got \(3,\) and \(3,\)"),
        (torch.zeros(3, 0), torch.zeros(3), r"got \(3, 0\)"),
        (torch.zeros(3, 2), torch.zeros(2), r"truth \(N,\); got"),
        (torch.full((3, 2), torch.nan), torch.zeros(3), "6 that are NaN"),
    ],
)
def test_numbers_that_cannot_be_ranked_are_named(
    draws: Tensor, truth: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        rank_test(draws, truth)
