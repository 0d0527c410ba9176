"""Temperature scaling: the fitted temperature is the best one, and where there is none."""

import math

import pytest
import torch
from pyro_models import drawn_labels, random_log_probs
from torch import Tensor

from gbi_pyro.metrics import accuracy, fit_temperature, log_score, match_temperature, temper


def test_neither_order_nor_names_matter(generator: torch.Generator) -> None:
    log_p = random_log_probs(generator, 500, 5)
    log_p[:20] = math.log(0.2)  # with ties
    labels = torch.randint(5, (500,), generator=generator)
    rows, names = torch.randperm(500, generator=generator), torch.randperm(5, generator=generator)
    T = fit_temperature(log_p, labels)
    assert fit_temperature(log_p[rows][:, names], names.argsort()[labels[rows]]) == pytest.approx(T)


@pytest.mark.parametrize("T", [0.05, 0.7, 1.0, 3.0, 40.0])
def test_a_known_temperature_is_recovered_within_its_standard_error(
    generator: torch.Generator, T: float
) -> None:
    log_p = random_log_probs(generator, 5_000, 4)
    labels = drawn_labels(generator, log_p)
    log_q = temper(log_p, 1 / T)  # so that tempering by T gives the truth back
    # The information of one label on 1 / T is the variance of its score log q.
    variance = (log_p.exp() * log_q**2).sum(-1) - (log_p.exp() * log_q).sum(-1) ** 2
    standard_error = variance.sum().rsqrt().item()
    fitted = fit_temperature(log_q, labels)
    assert abs(1 / fitted - 1 / T) < 4 * standard_error
    assert 4 * standard_error < 0.2 / T  # the test can tell


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0, 1e5])
def test_the_fitted_temperature_is_the_best(generator: torch.Generator, scale: float) -> None:
    log_p = random_log_probs(generator, 400, 5)
    labels = drawn_labels(generator, log_p)
    log_q = temper(log_p, 1 / scale)
    T = fit_temperature(log_q, labels)
    best = log_score(temper(log_q, T), labels)
    for other in (*torch.logspace(-3, 3, 61).mul(scale).tolist(), 1.0, 0.99 * T, 1.01 * T):
        assert best <= log_score(temper(log_q, other), labels)
    # Fitting what is fitted changes nothing. (Rounding of the scores and of a flat minimum.)
    assert fit_temperature(temper(log_q, T), labels) == pytest.approx(1, rel=1e-9)


def test_tempering_never_worsens_the_log_score(generator: torch.Generator) -> None:
    for _ in range(50):
        log_q = random_log_probs(generator, 30, 3, scale=3.0)
        other = random_log_probs(generator, 30, 3, scale=3.0)
        labels = drawn_labels(generator, (log_q + 0.5 * other).log_softmax(-1))
        try:
            T = fit_temperature(log_q, labels)
        except ValueError:  # by chance no temperature is best; see below
            continue
        tempered = temper(log_q, T)
        assert log_score(tempered, labels) <= log_score(log_q, labels) + 1e-12
        assert accuracy(tempered, labels) == accuracy(log_q, labels)


def test_forbidden_tasks_stay_forbidden_and_do_not_disturb_the_fit(
    generator: torch.Generator,
) -> None:
    log_p = random_log_probs(generator, 300, 3)
    labels = drawn_labels(generator, log_p)
    padded = torch.cat([log_p, torch.full((300, 1), -math.inf, dtype=torch.float64)], -1)
    T = fit_temperature(log_p, labels)
    assert fit_temperature(padded, labels) == T
    torch.testing.assert_close(temper(padded, T)[:, :3], temper(log_p, T))
    assert temper(padded, T)[:, 3].isneginf().all()


def test_a_uniform_posterior_is_its_own_best_temperature() -> None:
    assert fit_temperature(torch.full((5, 3), 1 / 3).log(), [0, 1, 2, 0, 0]) == 1
    assert fit_temperature(torch.tensor([[0.5, 0.5, 0.0]]).log(), [0]) == 1
    assert fit_temperature(torch.zeros(4, 1), [0, 0, 0, 0]) == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 0, 1, 1], r"T = 0; fit on more than these 4 elements"),
        ([1, 1, 0, 0], r"less than chance does \(accuracy 0\); is the sign"),
        ([0, 0, 1, 2], r"leave every label a positive probability.* 1 labels have none"),
    ],
)
def test_no_best_temperature_is_an_error(labels: list[int], message: str) -> None:
    log_probs = torch.tensor([[0.9, 0.1, 0.0]] * 2 + [[0.2, 0.8, 0.0]] * 2).log()
    with pytest.raises(ValueError, match=message):
        fit_temperature(log_probs, labels)


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [1, 1, 0, 0]])
def test_a_default_stands_in_where_no_temperature_is_best(labels: list[int]) -> None:
    log_probs = torch.tensor([[0.9, 0.1]] * 2 + [[0.2, 0.8]] * 2).log()
    assert fit_temperature(log_probs, labels, default=7.0) == 7.0
    with pytest.raises(ValueError, match="integers"):  # invalid input is no such case
        fit_temperature(log_probs, [0.5, 0.5, 0.5, 0.5], default=7.0)


def test_temper_composes_and_keeps_type_and_shape(generator: torch.Generator) -> None:
    log_p = random_log_probs(generator, 12, 5).reshape(3, 4, 5)
    torch.testing.assert_close(temper(temper(log_p, 2.0), 3.0), temper(log_p, 6.0))
    torch.testing.assert_close(temper(log_p + 7.0, 1.0), log_p)
    assert temper(log_p.float(), 2.0).dtype == torch.float32
    for T in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="temperature should be positive and finite"):
            temper(log_p, T)


def test_a_matched_temperature_is_the_one_that_was_applied(generator: torch.Generator) -> None:
    target = (2 * torch.randn(300, 5, generator=generator, dtype=torch.float64)).log_softmax(-1)
    for T in (0.3, 1.0, 7.0):
        sharpened = (target * T).log_softmax(-1)
        assert match_temperature(sharpened, target) == pytest.approx(T, rel=1e-9)


def test_matching_to_certain_targets_is_fitting_to_labels(generator: torch.Generator) -> None:
    log_probs = torch.randn(200, 4, generator=generator, dtype=torch.float64).log_softmax(-1)
    labels = torch.multinomial(log_probs.mul(0.5).exp(), 1, generator=generator).squeeze(-1)
    certain = torch.nn.functional.one_hot(labels, 4).double().log()
    assert match_temperature(log_probs, certain) == pytest.approx(
        fit_temperature(log_probs, labels), rel=1e-9
    )


@pytest.mark.parametrize(
    ("log_probs", "target", "message"),
    [
        (torch.zeros(2, 2).log_softmax(-1), torch.zeros(3, 2).log_softmax(-1), "same elements"),
        (torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.5, 0.5]]).log(), "positive probab"),
        (torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.1, 0.9]]).log(), "point away"),
    ],
)
def test_what_cannot_be_matched(log_probs: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match_temperature(log_probs, target)
