"""Proper scores and calibration error against sampling theory and by hand."""

import math

import numpy as np
import pytest
import torch
from pyro_models import drawn_labels, random_log_probs
from torch import Tensor

from gbi_pyro.metrics import (
    CalibrationSummary,
    accuracy,
    brier,
    expected_calibration_error,
    log_score,
    summarise,
    temper,
)
from gbi_pyro.metrics._validate import checked_rows

EXAMPLE = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]]).double().log()
LABELS = torch.tensor([0, 2, 2])


def largest_ece_by_chance(log_probs: Tensor, bins: int, strategy: str) -> float:
    """Mean and five standard deviations, at most, of the ECE of a perfectly calibrated posterior.

    The gap of a bin is a sum of independent errors of variance confidence (1 - confidence): its
    mean absolute value is at most its standard deviation, and so is the deviation of that.
    """
    confidence = log_probs.amax(-1).exp().sort().values
    if strategy == "width":
        which = (confidence * bins).ceil().long() - 1
    else:
        which = torch.arange(len(confidence)) * bins // len(confidence)
    variance = torch.zeros(bins, dtype=torch.float64)
    variance.index_add_(0, which, confidence * (1 - confidence))
    return ((variance.sqrt().sum() + 5 * variance.sum().sqrt()) / len(confidence)).item()


def test_scores_by_hand() -> None:
    first, second, third = 0.09 + 0.04 + 0.01, 0.01 + 0.36 + 0.49, 0.0625 + 0.0625 + 0.25
    assert brier(EXAMPLE, LABELS) == pytest.approx((first + second + third) / 3)
    expected = -(math.log(0.7) + math.log(0.3) + math.log(0.5)) / 3
    assert log_score(EXAMPLE, LABELS) == pytest.approx(expected)
    assert accuracy(EXAMPLE, LABELS) == pytest.approx(2 / 3)


def test_calibration_error_by_hand() -> None:
    # Four bins: confidences .7 and .6 share (.5, .75], with one of two right; .5 is alone in
    # (.25, .5], which is closed above, and right.
    assert expected_calibration_error(EXAMPLE, LABELS, bins=4) == pytest.approx(
        (abs(1 - 1.3) + abs(1 - 0.5)) / 3
    )
    # One bin for each.
    for options in ({"bins": 20}, {"bins": 3, "strategy": "mass"}, {"strategy": "mass"}):
        assert expected_calibration_error(EXAMPLE, LABELS, **options) == pytest.approx(
            (0.3 + 0.6 + 0.5) / 3
        )
    # One bin: mean confidence against accuracy.
    for strategy in ("width", "mass"):
        assert expected_calibration_error(
            EXAMPLE, LABELS, bins=1, strategy=strategy
        ) == pytest.approx(2 / 3 - 0.6)
    # Half of the elements each, as far as possible: .5 and .6, then .7.
    assert expected_calibration_error(EXAMPLE, LABELS, bins=2, strategy="mass") == pytest.approx(
        (abs(1 - 1.1) + 0.3) / 3
    )


def test_extremes() -> None:
    sure = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).log()
    assert summarise(sure, [0, 1]) == CalibrationSummary(1.0, 0.0, 0.0, 0.0, 2)
    assert summarise(sure, [1, 0]) == CalibrationSummary(0.0, 2.0, math.inf, 1.0, 2)
    flat = torch.full((20, 4), 0.25).log()
    found = summarise(flat, torch.arange(20) % 3)
    # Whatever the labels are called, knowing nothing is right once in K times.
    assert found.accuracy == pytest.approx(0.25)
    assert found.brier == pytest.approx(0.75)
    assert found.log_score == pytest.approx(math.log(4))
    assert found.expected_calibration_error == pytest.approx(0, abs=1e-7)


def test_expected_scores_are_least_at_the_true_probabilities(generator: torch.Generator) -> None:
    # By exactly KL(p || q) for the log score and |p - q|^2 for Brier's: both are strictly proper.
    labels = torch.arange(5)
    for p, q in zip(
        random_log_probs(generator, 50, 5), random_log_probs(generator, 50, 5), strict=True
    ):
        excess = {}
        for score in (log_score, brier):
            at_q, at_p = (
                torch.tensor([score(f[None], k[None]) for k in labels], dtype=torch.float64)
                for f in (q, p)
            )
            excess[score] = (p.exp() @ (at_q - at_p)).item()
            assert excess[score] > 0
        assert excess[log_score] == pytest.approx((p.exp() @ (p - q)).item(), abs=1e-12)
        assert excess[brier] == pytest.approx((p.exp() - q.exp()).square().sum().item(), abs=1e-12)


@pytest.mark.parametrize("strategy", ["width", "mass"])
@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_only_a_calibrated_posterior_has_an_error_of_chance_size(
    generator: torch.Generator, strategy: str, scale: float
) -> None:
    log_p = random_log_probs(generator, 20_000, 5, scale=scale)
    labels = drawn_labels(generator, log_p)
    for T, calibrated in ((1.0, True), (0.5, False), (2.0, False)):
        log_q = temper(log_p, T)
        error = expected_calibration_error(log_q, labels, 15, strategy)
        assert (error < largest_ece_by_chance(log_q, 15, strategy)) == calibrated
        # Merging bins cannot widen the gap.
        whole = abs(accuracy(log_q, labels) - log_q.amax(-1).exp().mean().item())
        assert error >= whole - 1e-12


def test_bins_of_equal_mass_keep_ties_together(generator: torch.Generator) -> None:
    log_probs = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.2, 0.8], [0.2, 0.8]]).log()
    labels = torch.tensor([0, 0, 0, 0])
    for _ in range(5):
        order = torch.randperm(4, generator=generator)
        assert expected_calibration_error(
            log_probs[order], labels[order], bins=4, strategy="mass"
        ) == pytest.approx(0.3)


def test_neither_order_nor_names_matter(generator: torch.Generator) -> None:
    log_p = random_log_probs(generator, 500, 5)
    log_p[:20] = math.log(0.2)  # with ties
    labels = torch.randint(5, (500,), generator=generator)
    rows, names = torch.randperm(500, generator=generator), torch.randperm(5, generator=generator)
    for strategy in ("width", "mass"):
        expected = summarise(log_p, labels, strategy=strategy)
        assert summarise(log_p[rows], labels[rows], strategy=strategy) == pytest.approx(expected)
        renamed = names.argsort()[labels]
        assert summarise(log_p[:, names], renamed, strategy=strategy) == pytest.approx(expected)


def test_summary_holds_each_score_of_arrays_and_tensors(generator: torch.Generator) -> None:
    log_p = random_log_probs(generator, 100, 5)
    labels = drawn_labels(generator, log_p)
    found = summarise(log_p.clone().requires_grad_(), labels, bins=7, strategy="mass")
    assert found == summarise(
        log_p.numpy(), labels.numpy().astype(np.int32), bins=7, strategy="mass"
    )
    assert found.accuracy == accuracy(log_p, labels)
    assert found.accuracy == (log_p.argmax(-1) == labels).double().mean().item()
    assert found.brier == brier(log_p, labels)
    assert found.log_score == log_score(log_p, labels)
    assert found.expected_calibration_error == expected_calibration_error(log_p, labels, 7, "mass")
    assert found.num_elements == 100


@pytest.mark.parametrize(
    ("log_probs", "labels", "message"),
    [
        (EXAMPLE.exp(), LABELS, r"log_probs should hold log probabilities normalised.*log_softmax"),
        (EXAMPLE * math.nan, LABELS, r"log_probs should hold log probabilities.*sums to nan"),
        (EXAMPLE[0], LABELS[0], r"log_probs should be \(N, K\)"),
        (EXAMPLE[None], LABELS[None], r"log_probs should be \(N, K\).*flatten"),
        (EXAMPLE[:, :0], LABELS, r"log_probs should be \(\.\.\., K\), tasks last"),
        (EXAMPLE, LABELS[:2], r"labels should be \(3,\)"),
        (EXAMPLE, torch.eye(3).long(), r"labels should be \(3,\).*argmax"),
        (EXAMPLE[:0], LABELS[:0], "at least one element"),
        (EXAMPLE, LABELS.double(), "labels should be integers"),
        (EXAMPLE, torch.tensor([1, 2, 3]), r"labels should be task ids 0 \.\. 2.*got 1 \.\. 3"),
        (EXAMPLE, torch.tensor([0, -1, 2]), r"labels should be task ids 0 \.\. 2.*got -1 \.\. 2"),
    ],
)
def test_invalid_arguments_are_named(log_probs: Tensor, labels: Tensor, message: str) -> None:
    for score in (
        accuracy,
        brier,
        log_score,
        expected_calibration_error,
        summarise,
    ):
        with pytest.raises(ValueError, match=message):
            score(log_probs, labels)


def test_invalid_options_are_named() -> None:
    with pytest.raises(ValueError, match="bins should be 1 or more; got 0"):
        expected_calibration_error(EXAMPLE, LABELS, bins=0)
    with pytest.raises(ValueError, match="strategy should be 'width' or 'mass'; got 'even'"):
        summarise(EXAMPLE, LABELS, strategy="even")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="estimate should hold log probabilities"):
        checked_rows(EXAMPLE.exp(), "estimate")
