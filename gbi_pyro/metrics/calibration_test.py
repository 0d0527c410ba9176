"""Exact test of calibration: whether the labels can be draws from their posteriors."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import one_hot

from gbi_pyro.metrics._bins import bin_members
from gbi_pyro.metrics._validate import checked_forecast

CHUNK = 2**23  # numbers held at a time by the resampling
NOTHING = 1e-20  # variance per case below which a quantity is a constant that was rounded


class Deviation(NamedTuple):
    """One test: its p-value, and in words how the labels deviate most."""

    p_value: float
    words: str


class CalibrationTest(NamedTuple):
    """Three tests of a posterior by labels; their p-values are each uncorrected.

    Attributes:
        shares: the share of each task among the labels against its mean probability.
        sureness: the mean log probability of the labels against the one claimed.
        levels: accuracy against confidence in bins of confidence.
        num_cases: how many labels there were.
    """

    shares: Deviation
    sureness: Deviation
    levels: Deviation
    num_cases: int

    @property
    def deviations(self) -> tuple[Deviation, ...]:
        """The three tests."""
        return self.shares, self.sureness, self.levels

    @property
    def p_value(self) -> float:
        """Of all three together (Bonferroni): three times the smallest, at most 1."""
        return min(1.0, 3 * min(d.p_value for d in self.deviations))


def calibration_test(
    log_probs: Tensor | ArrayLike,
    labels: Tensor | ArrayLike,
    *,
    bins: int = 5,
    num_draws: int = 1999,
    generator: torch.Generator | None = None,
) -> CalibrationTest:
    r"""Test whether each label can be a draw from its posterior q_i, independently of the others.

    If so, any function f of a task and its posterior has u = sum_i f(y_i, q_i) - E_{q_i} f of mean
    zero and covariance C = sum_i Cov_{q_i} f: for the indicators of the tasks, sum_i diag(q_i) -
    q_i q_i'. Three functions are tested, each by u' C^+ u:

    - the indicators [y = k], for tasks called too often or too seldom;
    - log q(y), for posteriors too sure or not sure enough. These two are the score test of
      softmax(log q / T + b) against T = 1, b = 0, of what ``calibrate`` and ``fit_temperature``
      correct. The second needs a quantity of data *and* task (Modrák et al. 2023,
      arXiv:2211.02383): where all tasks are alike, their shares are right at any temperature;
    - [y is the most probable task] in bins of confidence, for the rest of a reliability diagram.

    No rank enters, so there are no ties to break. The reference is not chi-square, which fails
    where few errors are expected, but the same statistic of labels drawn anew from the same
    posteriors (consistency resampling: Bröcker and Smith 2007, Increasing the reliability of
    reliability diagrams; Vaicenavicius et al. 2019, arXiv:1902.06977), so that P(p <= a) <= a for
    any number of cases. A posterior that passes need not be exact: the prior itself is calibrated.

    Args:
        log_probs: normalised log probabilities, (N, K).
        labels: true task ids, (N,), integers; independent of each other given the posteriors.
        bins: of confidence, of equal mass.
        num_draws: how often labels are drawn anew; 1 / (num_draws + 1) is the smallest p-value.
        generator: source of these draws, on the CPU; a new one with seed 0 without it.

    Raises:
        ValueError: as ``accuracy``, and for no bins or no draws.

    Example:
        >>> sure, labels = torch.tensor([[0.9, 0.1]]).log().expand(200, 2), torch.arange(200) % 4
        >>> found = calibration_test(sure, (labels == 0).long())  # 90 % sure, 75 % right
        >>> found.p_value, found.levels.words
        (0.0015, 'where confidence is 0.9 on average, accuracy is 0.75')
    """
    if num_draws < 1:
        raise ValueError(f"num_draws should be 1 or more; got {num_draws}: try 1999")
    log_q, y = checked_forecast(log_probs, labels)
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    log_q = log_q.log_softmax(-1)  # in double precision; the expectations below rely on it
    q, confidence = log_q.exp(), log_q.amax(-1).exp()
    n, K = q.shape
    correct = (log_q == log_q.amax(-1, keepdim=True)).double()
    correct = correct / correct.sum(-1, keepdim=True)
    members = bin_members(confidence, bins, "mass")
    functions = [
        torch.eye(K, dtype=q.dtype).expand(n, K, K),
        # Any function will do, also one that stays finite for tasks of probability zero.
        log_q.clamp_min(math.log(torch.finfo(q.dtype).tiny)).unsqueeze(-1),
        correct.unsqueeze(-1) * one_hot(members, bins).unsqueeze(1),
    ]
    functions = [f - (q.unsqueeze(-1) * f).sum(1, keepdim=True) for f in functions]
    sums = _sums(torch.cat(functions, -1), q, y, num_draws, generator)
    parts = sums.split([f.shape[-1] for f in functions], -1)
    p, worst = zip(*(_test(f, u, q) for f, u in zip(functions, parts, strict=True)), strict=True)

    at_label = log_q[torch.arange(n), y]
    right, inside = correct[torch.arange(n), y], members == worst[2]
    impossible = int(at_label.isneginf().sum())
    sure = "sure" if float(parts[1][0]) < 0 else "unsure"
    return CalibrationTest(
        Deviation(
            p[0],
            f"task {worst[0]} has probability {q[:, worst[0]].mean():.3g} on average and is the "
            f"true one in {(y == worst[0]).double().mean():.3g} of cases",
        ),
        Deviation(0.0, f"{impossible} true tasks have probability zero")
        if impossible
        else Deviation(
            p[1],
            f"too {sure}: true tasks have log probability {at_label.mean():.3g} on average, where "
            f"{-torch.special.entr(q).sum(-1).mean():.3g} is claimed",
        ),
        Deviation(
            p[2],
            f"where confidence is {confidence[inside].mean():.3g} on average, accuracy is "
            f"{right[inside].mean():.3g}",
        ),
        num_cases=n,
    )


def _sums(
    functions: Tensor, q: Tensor, y: Tensor, num_draws: int, generator: torch.Generator
) -> Tensor:
    """Sum functions, (N, K, F), over the labels, then over labels drawn anew: (1 + draws, F)."""
    n, K = q.shape
    sums: list[Tensor] = []
    left = 1 + num_draws
    while left:
        size = min(left, max(1, CHUNK // (n * K)))
        ids = torch.multinomial(q, size, replacement=True, generator=generator)
        if not sums:
            ids[:, 0] = y
        sums.append(one_hot(ids.T, K).to(q.dtype).flatten(1) @ functions.flatten(0, 1))
        left -= size
    return torch.cat(sums)


def _test(function: Tensor, sums: Tensor, q: Tensor) -> tuple[float, int]:
    """Return the p-value of the first row among all, and where it deviates most."""
    covariance = torch.einsum("nk,nki,nkj->ij", q, function, function)
    floor = NOTHING * len(q)
    inverse = torch.linalg.pinv(covariance, atol=floor, rtol=1e-9, hermitian=True)
    statistic = torch.einsum("di,ij,dj->d", sums, inverse, sums)
    # What is larger or smaller by rounding alone is a tie, and counts.
    as_large = statistic >= statistic[0] * (1 - 1e-9) - 1e-9
    scores = sums[0].square() / covariance.diagonal().clamp_min(floor)
    return as_large.double().mean().item(), int(scores.argmax())
