"""Confidence against accuracy, bin by bin: the table behind a reliability diagram."""

from __future__ import annotations

from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gbi_pyro.metrics._bins import Strategy, bin_members, top_label
from gbi_pyro.metrics._validate import checked_forecast
from gbi_pyro.metrics.intervals import jeffreys_interval


class ReliabilityTable(NamedTuple):
    """Confidence and accuracy in each bin that holds an element; one row per bin, (bins,) each.

    Attributes:
        low: lower edge of the bin; with equal mass the least confidence in it.
        high: upper edge, which belongs to the bin; with equal mass the largest confidence in it.
        num_elements: how many fall in it.
        confidence: their mean probability.
        accuracy: how often the event came true.
        accuracy_low: lower end of Jeffreys' interval of the accuracy.
        accuracy_high: upper end.
    """

    low: Tensor
    high: Tensor
    num_elements: Tensor
    confidence: Tensor
    accuracy: Tensor
    accuracy_low: Tensor
    accuracy_high: Tensor

    @property
    def calibration_error(self) -> float:
        """sum_b N_b / N |accuracy_b - confidence_b|."""
        gaps = (self.accuracy - self.confidence).abs()
        return ((self.num_elements * gaps).sum() / self.num_elements.sum()).item()


def reliability_table(
    log_probs: Tensor | ArrayLike,
    labels: Tensor | ArrayLike,
    bins: int = 15,
    strategy: Strategy = "width",
    *,
    task: int | None = None,
    level: float = 0.95,
) -> ReliabilityTable:
    """Compare confidence with accuracy in bins of confidence.

    The confidence of an element is the probability of its most probable task, which is accurate
    where it is the label (where m tasks are equally probable, a label among them counts 1 / m); or,
    for one ``task``, the probability of that task, accurate where the label is that task. A
    calibrated posterior has both equal in every bin (DeGroot and Fienberg 1983, The comparison and
    evaluation of forecasters; Guo et al. 2017, arXiv:1706.04599).

    Args:
        log_probs: normalised log probabilities, (N, K).
        labels: true task ids, (N,), integers.
        bins: how many; empty ones are left out.
        strategy: "width" for bins of equal width, closed above; "mass" for bins of equal numbers of
            elements, with equal confidences kept together.
        task: judge the probability of this task instead of that of the most probable one.
        level: nominal coverage of the intervals of the accuracy.

    Raises:
        ValueError: as ``accuracy``, and for an unknown strategy or task, no bins, or an invalid
            level.

    Example:
        >>> log_probs = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7]]).log()
        >>> table = reliability_table(log_probs, [0, 1, 1], bins=5)
        >>> table.high, table.num_elements, table.accuracy
        (tensor([0.8000, 1.0000], dtype=torch.float64),
         tensor([1, 2]),
         tensor([1.0000, 0.5000], dtype=torch.float64))
    """
    log_q, y = checked_forecast(log_probs, labels)
    if task is None:
        confidence, correct = top_label(log_q, y)
    elif 0 <= task < log_q.shape[-1]:
        confidence, correct = log_q[:, task].exp(), (y == task).double()
    else:
        raise ValueError(
            f"task should be one of 0 .. {log_q.shape[-1] - 1}, as log_probs has "
            f"{log_q.shape[-1]} tasks; got {task}: None judges the most probable one"
        )
    members = bin_members(confidence, bins, strategy)
    kept, members = members.unique(return_inverse=True)
    count = members.bincount()
    successes, total = (
        torch.zeros(len(kept), dtype=torch.float64).index_add_(0, members, v)
        for v in (correct, confidence)
    )
    if strategy == "width":
        low, high = kept.double() / bins, (kept + 1).double() / bins
    else:
        low, high = (
            torch.zeros(len(kept), dtype=torch.float64).scatter_reduce_(
                0, members, confidence, which, include_self=False
            )
            for which in ("amin", "amax")
        )
    ends = jeffreys_interval(successes, count, level)
    return ReliabilityTable(low, high, count, total / count, successes / count, *ends)


def classwise_calibration_error(
    log_probs: Tensor | ArrayLike,
    labels: Tensor | ArrayLike,
    bins: int = 15,
    strategy: Strategy = "width",
) -> float:
    """Return the calibration error of the probability of each task, averaged over tasks.

    1 / K sum_k sum_b N_kb / N |share of task k in b - mean q_k in b|, each task having bins of its
    own probability (Kull et al. 2019, arXiv:1910.12656). It sees errors in the smaller
    probabilities, to which ``expected_calibration_error`` is blind; for two tasks and equal width
    both agree but for the ends of the bins. It too is positive by chance alone.

    Args:
        log_probs: normalised log probabilities, (N, K).
        labels: true task ids, (N,), integers.
        bins, strategy: as in ``reliability_table``.

    Raises:
        ValueError: as ``reliability_table``.

    Example:
        >>> log_probs = torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log()
        >>> round(classwise_calibration_error(log_probs, [0, 1]), 4)
        0.4
    """
    log_q, y = checked_forecast(log_probs, labels)
    tables = [reliability_table(log_q, y, bins, strategy, task=k) for k in range(log_q.shape[-1])]
    return sum(table.calibration_error for table in tables) / len(tables)
