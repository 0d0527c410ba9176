"""Selective prediction: risk against coverage."""

from __future__ import annotations

from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gbi_pyro.metrics._bins import top_label
from gbi_pyro.metrics._validate import checked_forecast


class RiskCoverage(NamedTuple):
    """The curve of risk against coverage, for answers given in order of confidence.

    Attributes:
        coverage: share of elements answered, 1 / N .. 1, (N,).
        risk: share of wrong answers among them, (N,).
        area: mean risk over the coverages, the area under the curve: smaller is better.
    """

    coverage: Tensor
    risk: Tensor
    area: float


def risk_coverage(log_probs: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> RiskCoverage:
    """Return the risk at each coverage, answering where the confidence is largest.

    The answer is the most probable task, its confidence that probability; the n surest elements are
    answered (El-Yaniv and Wiener 2010; the area: Geifman, Uziel and El-Yaniv 2019,
    arXiv:1805.08206). The order of equally sure elements is random, and the risk its expectation:
    with confidence that says nothing the curve is flat, at 1 - accuracy. Calibration is not needed
    for a good curve, only an order.

    Args:
        log_probs: normalised log probabilities, (N, K).
        labels: true task ids, (N,), integers.

    Raises:
        ValueError: as ``accuracy``.

    Example:
        >>> found = risk_coverage(torch.tensor([[0.9, 0.1], [0.4, 0.6]]).log(), [0, 0])
        >>> found.risk, found.area
        (tensor([0.0000, 0.5000], dtype=torch.float64), 0.25)
    """
    confidence, correct = top_label(*checked_forecast(log_probs, labels))
    levels, members = confidence.unique(return_inverse=True)
    errors = torch.zeros(len(levels), dtype=torch.float64).index_add_(0, members, 1 - correct)
    expected = (errors / members.bincount())[members]
    order = confidence.argsort(descending=True)
    answered = torch.arange(1, len(order) + 1, dtype=torch.float64)
    risk = expected[order].cumsum(0) / answered
    return RiskCoverage(answered / len(order), risk, risk.mean().item())
