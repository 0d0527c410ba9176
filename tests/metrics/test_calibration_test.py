"""The test of labels against posteriors: valid for any number of cases, and it names the fault."""

import math

import pytest
import torch
from scipy.stats import binom, chi2
from torch import Tensor

from gbi_pyro.metrics import calibration_test, temper


def forecasts(
    generator: torch.Generator, n: int, K: int = 3, scale: float = 2.0
) -> tuple[Tensor, Tensor]:
    """Random posteriors, and labels drawn from them."""
    logits = scale * torch.randn(n, K, generator=generator, dtype=torch.float64)
    log_p = logits.log_softmax(-1)
    return log_p, torch.multinomial(log_p.exp(), 1, generator=generator).squeeze(-1)


@pytest.mark.parametrize(("n", "scale"), [(3, 1.0), (40, 8.0), (200, 2.0)])
def test_true_posteriors_fail_no_oftener_than_the_level(
    generator: torch.Generator, n: int, scale: float
) -> None:
    # Few cases, and posteriors so sure that an error is rare, where chi-square is no reference.
    repetitions, level = 300, 0.05
    largest = binom.ppf(1 - 1e-5, repetitions, level)
    found = [
        calibration_test(*forecasts(generator, n, scale=scale), num_draws=199, generator=generator)
        for _ in range(repetitions)
    ]
    for i in range(3):
        assert sum(test.deviations[i].p_value <= level for test in found) <= largest
    assert sum(test.p_value <= level for test in found) <= largest


def test_with_many_cases_the_reference_is_chi_square(generator: torch.Generator) -> None:
    draws = 2000
    for _ in range(3):
        log_p, labels = forecasts(generator, 1000, K=4, scale=1.0)
        found = calibration_test(log_p, labels, num_draws=draws, generator=generator)
        p = log_p.exp()
        u = torch.nn.functional.one_hot(labels, 4).double().sum(0) - p.sum(0)
        covariance = p.sum(0).diag() - p.T @ p
        shares = u @ torch.linalg.pinv(covariance) @ u
        gain = (log_p[torch.arange(1000), labels] - (p * log_p).sum(-1)).sum()
        variance = ((p * log_p**2).sum(-1) - (p * log_p).sum(-1) ** 2).sum()
        for got, statistic, freedom in (
            (found.shares, shares, 3),
            (found.sureness, gain**2 / variance, 1),
        ):
            expected = chi2.sf(statistic.item(), freedom)
            error = math.sqrt(expected * (1 - expected) / draws) + 1 / draws
            # Besides the error of the draws: sums of 1000 are normal to about 1 / sqrt(1000).
            assert got.p_value == pytest.approx(expected, abs=5 * error + 1000**-0.5)


@pytest.mark.parametrize(("T", "word"), [(0.6, "too sure"), (1.7, "too unsure")])
def test_a_wrong_temperature_is_named(generator: torch.Generator, T: float, word: str) -> None:
    log_p, labels = forecasts(generator, 2000)
    found = calibration_test(temper(log_p, T), labels)
    assert found.p_value == pytest.approx(3 / 2000)
    assert found.sureness.p_value == 1 / 2000
    assert word in found.sureness.words
    assert found.num_cases == 2000


def test_shares_alone_cannot_see_a_temperature_of_tasks_that_are_all_alike(
    generator: torch.Generator,
) -> None:
    # With each posterior there are all its permutations: every task has mean probability 1 / 3.
    log_p, labels = forecasts(generator, 600)
    rolled = torch.cat([log_p.roll(i, -1) for i in range(3)])
    found = calibration_test(temper(rolled, 0.5), torch.cat([(labels + i) % 3 for i in range(3)]))
    assert found.shares.p_value == 1
    assert found.sureness.p_value < 0.01


def test_a_bias_towards_a_task_is_named(generator: torch.Generator) -> None:
    log_p, labels = forecasts(generator, 2000)
    biased = (log_p + torch.tensor([0.0, 0.0, 1.0])).log_softmax(-1)
    found = calibration_test(biased, labels)
    assert found.shares.p_value == 1 / 2000
    share = (labels == 2).double().mean().item()
    expected = f"task 2 has probability {biased[:, 2].exp().mean():.3g} on average"
    assert expected in found.shares.words
    assert f"{share:.3g} of cases" in found.shares.words


def test_what_neither_temperature_nor_offset_explains_shows_in_the_levels() -> None:
    # Not sure enough where confidence is .6 and right in .75 of cases, too sure where it is .9 and
    # right in .8. In these numbers the log odds, .41 and 2.2, make up for each other.
    confidence = torch.tensor([0.6] * 783 + [0.9] * 217, dtype=torch.float64)
    right = torch.tensor([True] * 587 + [False] * 196 + [True] * 174 + [False] * 43)
    top = torch.arange(1000) % 2
    q = torch.stack([confidence, 1 - confidence], -1)
    q = torch.where((top == 0).unsqueeze(-1), q, q.flip(-1))
    found = calibration_test(q.log(), torch.where(right, top, 1 - top))
    assert found.sureness.p_value > 0.5
    assert found.shares.p_value > 0.05
    assert found.levels.p_value == 1 / 2000
    assert found.levels.words == "where confidence is 0.6 on average, accuracy is 0.75"


def test_an_impossible_label_refutes_and_certainty_that_is_right_does_not() -> None:
    sure = torch.eye(3, dtype=torch.float64).log()
    right = calibration_test(sure, [0, 1, 2])
    assert [d.p_value for d in right.deviations] == [1, 1, 1]
    wrong = calibration_test(sure, [0, 1, 1])
    assert wrong.p_value == 0
    assert wrong.sureness.words == "1 true tasks have probability zero"
    flat = calibration_test(torch.full((50, 4), 0.25).log(), torch.arange(50) % 4)
    assert flat.sureness.p_value == 1  # a constant has no deviation, however it is rounded


def test_the_same_seed_gives_the_same_answer(generator: torch.Generator) -> None:
    log_p, labels = forecasts(generator, 50)
    assert calibration_test(log_p, labels) == calibration_test(log_p.numpy(), labels.numpy())
    other = calibration_test(log_p, labels, num_draws=10**5)  # in several chunks
    error = 5 * math.sqrt(0.25 / 2000)
    for a, b in zip(calibration_test(log_p, labels).deviations, other.deviations, strict=True):
        assert a.p_value == pytest.approx(b.p_value, abs=error)


def test_invalid_arguments_are_named() -> None:
    log_p = torch.tensor([[0.5, 0.5]]).log()
    with pytest.raises(ValueError, match="num_draws should be 1 or more"):
        calibration_test(log_p, [0], num_draws=0)
    with pytest.raises(ValueError, match="bins should be 1 or more"):
        calibration_test(log_p, [0], bins=0)
    with pytest.raises(ValueError, match=r"labels should be task ids 0 \.\. 1"):
        calibration_test(log_p, [2])
