"""Proper scores and calibration error of a task posterior, by true labels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gbi_pyro.metrics._bins import Strategy, top_label
from gbi_pyro.metrics._validate import checked_forecast
from gbi_pyro.metrics.reliability import reliability_table


class CalibrationSummary(NamedTuple):
    """How well a posterior forecasts labels.

    Attributes:
        accuracy: share of elements whose most probable task is the label.
        brier: mean squared error of the probabilities, summed over tasks, in [0, 2].
        log_score: mean of -log q(label), in nats.
        expected_calibration_error: mean gap of confidence and accuracy, in [0, 1].
        num_elements: how many elements were judged.
    """

    accuracy: float
    brier: float
    log_score: float
    expected_calibration_error: float
    num_elements: int


def accuracy(log_probs: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> float:
    """Return the share of elements whose most probable task is the label.

    Where m tasks are equally probable, a label among them counts 1 / m: a posterior that knows
    nothing scores 1 / K however the tasks are numbered.

    Args:
        log_probs: normalised log probabilities, (N, K).
        labels: true task ids, (N,), integers.

    Raises:
        ValueError: for invalid shapes, no elements, unknown labels, or rows that are not log
            probabilities.

    Example:
        >>> accuracy(torch.tensor([[0.9, 0.1], [0.6, 0.4]]).log(), [0, 1])
        0.5
    """
    return top_label(*checked_forecast(log_probs, labels))[1].mean().item()


def brier(log_probs: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> float:
    """Return the mean Brier score of the probabilities, a proper score.

    mean_i sum_k (q_ik - [k = label_i])^2 (Brier 1950, Verification of forecasts expressed in terms
    of probability): 0 when right and sure, 2 when wrong and sure, 1 - 1 / K at maximum entropy.

    Args:
        log_probs: normalised log probabilities, (N, K).
        labels: true task ids, (N,), integers.

    Raises:
        ValueError: as ``accuracy``.

    Example:
        >>> round(brier(torch.tensor([[0.9, 0.1], [0.6, 0.4]]).log(), [0, 1]), 4)
        0.37
    """
    log_q, y = checked_forecast(log_probs, labels)
    error = log_q.exp()
    error[torch.arange(len(y)), y] -= 1
    return error.square().sum(-1).mean().item()


def log_score(log_probs: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> float:
    """Return the mean of -log q(label) in nats, a proper score.

    log K at maximum entropy, infinite if a label was held to be impossible.

    Args:
        log_probs: normalised log probabilities, (N, K).
        labels: true task ids, (N,), integers.

    Raises:
        ValueError: as ``accuracy``.

    Example:
        >>> round(log_score(torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log(), [0, 1]), 4)
        0.6931
    """
    log_q, y = checked_forecast(log_probs, labels)
    return -log_q[torch.arange(len(y)), y].mean().item()


def expected_calibration_error(
    log_probs: Tensor | ArrayLike,
    labels: Tensor | ArrayLike,
    bins: int = 15,
    strategy: Strategy = "width",
) -> float:
    """Return how far confidence is from accuracy, averaged over bins of confidence.

    ECE = sum_b N_b / N |accuracy_b - confidence_b|, where the confidence of an element is the
    probability of its most probable task (Guo et al. 2017, arXiv:1706.04599). It is not a proper
    score, and is positive by chance alone: about sum_b sqrt(V_b) / N for a perfectly calibrated
    posterior, V_b the sum of confidence (1 - confidence) in the bin.

    Args:
        log_probs: normalised log probabilities, (N, K).
        labels: true task ids, (N,), integers.
        bins: how many.
        strategy: "width" for bins of equal width, closed above; "mass" for bins of equal numbers of
            elements, with equal confidences kept together.

    Raises:
        ValueError: as ``accuracy``, and for an unknown strategy or no bins.

    Example:
        >>> log_probs = torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log()
        >>> round(expected_calibration_error(log_probs, [0, 1]), 4)
        0.4
    """
    return reliability_table(log_probs, labels, bins, strategy).calibration_error


def summarise(
    log_probs: Tensor | ArrayLike,
    labels: Tensor | ArrayLike,
    *,
    bins: int = 15,
    strategy: Strategy = "width",
) -> CalibrationSummary:
    """Return every score of this file for one posterior.

    Args:
        log_probs: normalised log probabilities, (N, K).
        labels: true task ids, (N,), integers.
        bins, strategy: as in ``expected_calibration_error``.

    Raises:
        ValueError: as ``expected_calibration_error``.

    Example:
        >>> found = summarise(torch.tensor([[0.9, 0.1], [0.6, 0.4]]).log(), [0, 1])
        >>> found.accuracy, round(found.brier, 4), found.num_elements
        (0.5, 0.37, 2)
    """
    log_q, y = checked_forecast(log_probs, labels)
    return CalibrationSummary(
        accuracy=accuracy(log_q, y),
        brier=brier(log_q, y),
        log_score=log_score(log_q, y),
        expected_calibration_error=expected_calibration_error(log_q, y, bins, strategy),
        num_elements=len(y),
    )
