"""Whether the probabilities of a task posterior can be believed, judged by true labels."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gbi_pyro.diagnostics.agreement import ROW_TOLERANCE

TEMPERATURES = (1e-12, 1e12)  # scores are in nats: no log likelihood needs more


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
        ValueError: for unfit shapes, no elements, unknown labels, or rows that are no log
            probabilities.

    Example:
        >>> accuracy(torch.tensor([[0.9, 0.1], [0.6, 0.4]]).log(), [0, 1])
        0.5
    """
    return _top_label(*_checked(log_probs, labels))[1].mean().item()


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
    log_q, y = _checked(log_probs, labels)
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
    log_q, y = _checked(log_probs, labels)
    return -log_q[torch.arange(len(y)), y].mean().item()


def expected_calibration_error(
    log_probs: Tensor | ArrayLike,
    labels: Tensor | ArrayLike,
    bins: int = 15,
    strategy: Literal["width", "mass"] = "width",
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
    if bins < 1:
        raise ValueError(f"bins should be 1 or more; got {bins}: try 15")
    confidence, correct = _top_label(*_checked(log_probs, labels))
    if strategy == "width":
        members = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    elif strategy == "mass":
        last = [math.ceil((b + 1) * len(confidence) / bins) - 1 for b in range(bins)]
        members = torch.searchsorted(confidence.sort().values[last], confidence)
    else:
        raise ValueError(f"strategy should be 'width' or 'mass'; got {strategy!r}")
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, members, correct - confidence)
    return gaps.abs().sum().item() / len(confidence)


def summarise(
    log_probs: Tensor | ArrayLike,
    labels: Tensor | ArrayLike,
    *,
    bins: int = 15,
    strategy: Literal["width", "mass"] = "width",
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
    log_q, y = _checked(log_probs, labels)
    return CalibrationSummary(
        accuracy=accuracy(log_q, y),
        brier=brier(log_q, y),
        log_score=log_score(log_q, y),
        expected_calibration_error=expected_calibration_error(log_q, y, bins, strategy),
        num_elements=len(y),
    )


def temper(log_probs: Tensor | ArrayLike, T: float) -> Tensor:
    """Return the posterior at another temperature: softmax(log q / T).

    T > 1 makes it less sure, T < 1 surer; the order of the tasks stays.

    Args:
        log_probs: log probabilities, or scores up to a constant per element, (..., K).
        T: temperature, positive and finite.

    Returns:
        Normalised log probabilities, (..., K).

    Raises:
        ValueError: for an unfit temperature.

    Example:
        >>> temper(torch.tensor([0.8, 0.2]).log(), 2.0).exp()
        tensor([0.6667, 0.3333])
    """
    if not 0 < T < math.inf:
        raise ValueError(f"T should be positive and finite; got {T}: 1 changes nothing")
    return (torch.as_tensor(log_probs) / T).log_softmax(-1)


def fit_temperature(log_probs: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> float:
    """Return the temperature at which the posterior forecasts the labels best.

    T = argmin mean_i -log softmax(log q_i / T)[label_i] (temperature scaling, Guo et al. 2017,
    arXiv:1706.04599). The score is convex in 1 / T, so its slope is bisected; it is never worse
    than at T = 1. Fit on one set of data, judge on another.

    Args:
        log_probs: normalised log probabilities, (N, K).
        labels: true task ids, (N,), integers.

    Returns:
        T, for ``temper``; 1 where it makes no difference, all possible tasks being equally
        probable.

    Raises:
        ValueError: as ``accuracy``, and where no temperature is best: a label of probability zero,
            labels that all are most probable (T -> 0), or that are less probable than by chance
            (T -> infinity).

    Example:
        >>> log_probs = torch.tensor([[0.9, 0.1]]).log().expand(4, 2)  # 90 % sure, 75 % right
        >>> round(fit_temperature(log_probs, [0, 0, 0, 1]), 4)
        2.0
    """
    log_q, y = _checked(log_probs, labels)
    at_label = log_q[torch.arange(len(y)), y].unsqueeze(-1)
    if bool(at_label.isneginf().any()):
        raise ValueError(
            "log_probs should leave every label a positive probability, which no temperature can "
            f"give back; {int(at_label.isneginf().sum())} labels have none: mix in some of the "
            "uniform distribution first"
        )
    gain = (log_q - at_label).masked_fill(log_q.isneginf(), 0.0)  # a forbidden task weighs nothing
    if not bool(gain.any()):
        return 1.0
    return _best_temperature(
        log_q,
        gain,
        low="log_probs give the labels less than chance does "
        f"(accuracy {accuracy(log_q, y):.3g}); is the sign or the numbering of the tasks wrong?",
        high="every label is the most probable task, so that the score improves down to T = 0; fit "
        f"on more than these {len(y)} elements, some of them misjudged",
    )


def match_temperature(log_probs: Tensor | ArrayLike, target: Tensor | ArrayLike) -> float:
    """Return the temperature at which a posterior comes closest to another one.

    T = argmin mean_i KL(target_i || softmax(log q_i / T)), convex in 1 / T. Fit on one set of data,
    judge on another.

    Args:
        log_probs: normalised log probabilities of the posterior to temper, (N, K).
        target: those of the posterior to come close to, (N, K).

    Returns:
        T, for ``temper``; 1 where it makes no difference.

    Raises:
        ValueError: for unfit shapes or rows, a task of probability zero, and where no positive
            temperature is best.

    Example:
        >>> target = torch.tensor([[0.9, 0.1], [0.3, 0.7]]).log()
        >>> round(match_temperature((3 * target).log_softmax(-1), target), 4)
        3.0
    """
    log_q, log_p = checked_rows(log_probs), checked_rows(target, "target")
    if log_q.shape != log_p.shape or log_q.dim() != 2:
        raise ValueError(
            f"log_probs and target should both be (N, K); got {tuple(log_q.shape)} and "
            f"{tuple(log_p.shape)}: infer both for the same elements"
        )
    if bool(log_q.isneginf().any()):
        raise ValueError("log_probs should leave every task a positive probability; got zeros")
    gain = log_q - (log_p.exp() * log_q).sum(-1, keepdim=True)
    if not bool(gain.any()):
        return 1.0
    return _best_temperature(
        log_q,
        gain,
        low="log_probs point away from target; is the sign or the numbering of the tasks wrong?",
        high="target is sure of the tasks that log_probs call most probable, all of them",
    )


def _best_temperature(log_q: Tensor, gain: Tensor, *, low: str, high: str) -> float:
    """Bisect the slope of the mean score of softmax(log q / T); the messages say what failed.

    ``gain`` is log q less its expectation under what is to be forecast.
    """
    below_top = log_q - log_q.amax(-1, keepdim=True)

    def slope(log_beta: float) -> float:
        # d score / d beta with beta = 1 / T; it rises with beta.
        q = (math.exp(log_beta) * below_top).softmax(-1)
        return (q * gain).sum(-1).mean().item()

    start, end = (-math.log(T) for T in reversed(TEMPERATURES))
    if slope(start) >= 0:
        raise ValueError(f"no positive temperature fits: {low}")
    if slope(end) <= 0:
        raise ValueError(f"no positive temperature fits: {high}")
    for _ in range(60):  # to the last digit
        middle = 0.5 * (start + end)
        start, end = (middle, end) if slope(middle) < 0 else (start, middle)
    return math.exp(-0.5 * (start + end))


def checked_rows(log_probs: Tensor | ArrayLike, name: str = "log_probs") -> Tensor:
    """Return log probabilities in double precision, or say what is unfit.

    Args:
        log_probs: normalised log probabilities, (..., K).
        name: what the error message calls them.

    Raises:
        ValueError: for no tasks, or rows that are no log probabilities.

    Example:
        >>> checked_rows([-0.5, -0.5])
        Traceback (most recent call last):
        ValueError: log_probs should hold log probabilities normalised over the last dimension; ...
    """
    value = torch.as_tensor(log_probs).detach().double()
    if value.dim() == 0 or value.shape[-1] == 0:
        raise ValueError(f"{name} should be (..., K), tasks last; got {tuple(value.shape)}")
    total = value.exp().sum(-1)
    if not bool(((total - 1).abs() <= ROW_TOLERANCE).all()):
        worst = total.flatten()[(total - 1).abs().argmax()].item()
        raise ValueError(
            f"{name} should hold log probabilities normalised over the last dimension; got a row "
            f"that sums to {worst:.6g}: take the log of probabilities, log_softmax(-1) of scores"
        )
    return value


def _checked(log_probs: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> tuple[Tensor, Tensor]:
    """Return both on the CPU, or say what is unfit."""
    log_q, y = checked_rows(log_probs).cpu(), torch.as_tensor(labels).detach().cpu()
    if log_q.dim() != 2:
        raise ValueError(
            f"log_probs should be (N, K), one row per element; got {tuple(log_q.shape)}: "
            ".flatten(0, -2) what has more dimensions, and the labels with .flatten()"
        )
    if y.shape != log_q.shape[:1]:
        raise ValueError(
            f"labels should be ({len(log_q)},), one task id per row of log_probs; got "
            f"{tuple(y.shape)}: take .argmax(-1) of one-hot labels"
        )
    if len(y) == 0:
        raise ValueError("log_probs should hold at least one element to judge; got none")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"labels should be integers, task ids; got {y.dtype}: try .long()")
    y = y.long()
    if bool(((y < 0) | (y >= log_q.shape[-1])).any()):
        raise ValueError(
            f"labels should be task ids 0 .. {log_q.shape[-1] - 1}, as log_probs has "
            f"{log_q.shape[-1]} tasks; got {y.min().item()} .. {y.max().item()}: number the tasks "
            "from 0"
        )
    return log_q, y


def _top_label(log_q: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the confidence of each element, and whether it is right, (N,) each."""
    top = log_q.amax(-1)
    best = log_q == top.unsqueeze(-1)
    correct = best[torch.arange(len(y)), y].double() / best.sum(-1)
    return top.exp(), correct
