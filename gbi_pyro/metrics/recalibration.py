"""Temperature scaling of log probabilities, fitted to labels or to another posterior."""

from __future__ import annotations

import math

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gbi_pyro.metrics._validate import check_temperature, checked_forecast, checked_rows
from gbi_pyro.metrics.scores import accuracy

TEMPERATURES = (1e-12, 1e12)  # scores are in nats: no log likelihood needs more


class NoTemperatureError(ValueError):
    """No temperature is best: the score improves without end, or at none."""


def temper(log_probs: Tensor | ArrayLike, temperature: float) -> Tensor:
    """Return the posterior at another temperature: softmax(log q / T).

    T > 1 makes it less sure, T < 1 surer; the order of the tasks stays.

    Args:
        log_probs: log probabilities, or scores up to a constant per element, (..., K).
        temperature: T, positive and finite.

    Returns:
        Normalised log probabilities, (..., K).

    Raises:
        ValueError: for an invalid temperature.

    Example:
        >>> temper(torch.tensor([0.8, 0.2]).log(), 2.0).exp()
        tensor([0.6667, 0.3333])
    """
    check_temperature(temperature)
    return (torch.as_tensor(log_probs) / temperature).log_softmax(-1)


def fit_temperature(
    log_probs: Tensor | ArrayLike, labels: Tensor | ArrayLike, *, default: float | None = None
) -> float:
    """Return the temperature at which the posterior forecasts the labels best.

    T = argmin mean_i -log softmax(log q_i / T)[label_i] (temperature scaling, Guo et al. 2017,
    arXiv:1706.04599). The score is convex in 1 / T, so its slope is bisected; it is never worse
    than at T = 1. Fit on one set of data, judge on another.

    Args:
        log_probs: normalised log probabilities, (N, K).
        labels: true task ids, (N,), integers.
        default: what to return where no temperature is best; None for an error.

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
    log_q, y = checked_forecast(log_probs, labels)
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
    try:
        return _best_temperature(
            log_q,
            gain,
            low="log_probs give the labels less than chance does "
            f"(accuracy {accuracy(log_q, y):.3g}); is the sign or the numbering of the tasks "
            "wrong?",
            high="every label is the most probable task, so that the score improves down to T = "
            f"0; fit on more than these {len(y)} elements, some of them misjudged",
        )
    except NoTemperatureError:
        if default is None:
            raise
        return default


def match_temperature(log_probs: Tensor | ArrayLike, target: Tensor | ArrayLike) -> float:
    """Return the temperature at which a posterior is closest to another one.

    T = argmin mean_i KL(target_i || softmax(log q_i / T)), convex in 1 / T. Fit on one set of data,
    judge on another.

    Args:
        log_probs: normalised log probabilities of the posterior to temper, (N, K).
        target: those of the posterior to come close to, (N, K).

    Returns:
        T, for ``temper``; 1 where it makes no difference.

    Raises:
        ValueError: for invalid shapes or rows, a task of probability zero, and where no positive
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
        raise NoTemperatureError(f"no positive temperature fits: {low}")
    if slope(end) <= 0:
        raise NoTemperatureError(f"no positive temperature fits: {high}")
    for _ in range(60):  # to the last digit
        middle = 0.5 * (start + end)
        start, end = (middle, end) if slope(middle) < 0 else (start, middle)
    return math.exp(-0.5 * (start + end))
