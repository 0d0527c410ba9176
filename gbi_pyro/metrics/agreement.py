"""Agreement of an estimated task posterior with the exact one."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gbi_pyro.metrics._validate import checked_both, checked_pair
from gbi_pyro.posterior import TaskPosterior


class Agreement(NamedTuple):
    """Two posteriors over the same elements, compared; divergences are in nats.

    Attributes:
        kl: mean over elements of KL(exact || estimate), what the estimate loses as a forecast.
        reverse_kl: mean over elements of KL(estimate || exact).
        total_variation: mean over elements of the largest error in the probability of any event.
        argmax_agreement: share of elements with the same most probable task.
        max_difference: largest absolute difference of any two probabilities.
        num_elements: how many elements were compared.
    """

    kl: float
    reverse_kl: float
    total_variation: float
    argmax_agreement: float
    max_difference: float
    num_elements: int


def kl(log_p: Tensor | ArrayLike, log_q: Tensor | ArrayLike) -> Tensor:
    r"""Return the Kullback-Leibler divergence of q from p, in nats.

    KL(p || q) = sum_k p_k log(p_k / q_k), with 0 log 0 = 0 and +inf where q forbids a task that p
    allows (Kullback and Leibler 1951, On information and sufficiency). The terms are summed as
    p_k log(p_k / q_k) - p_k + q_k, which is the same for normalised p and q but never negative, so
    that divergences far below the rounding of the probabilities are still resolved.

    Args:
        log_p: normalised log probabilities, (..., K).
        log_q: normalised log probabilities, (..., K).

    Returns:
        One number per element, (...), float64.

    Raises:
        ValueError: for unequal shapes, or rows that are not log probabilities.

    Example:
        >>> kl(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log())
        tensor(0.1438, dtype=torch.float64)
    """
    log_p, log_q = checked_both(log_p, log_q)
    p, q, difference = log_p.exp(), log_q.exp(), log_p - log_q
    near = p * (difference + torch.expm1(-difference))  # no cancellation where p and q are close
    far = p * difference - p + q
    terms = torch.where(difference.abs() < 1, near, far)
    forbidden = log_q.isneginf() & ~log_p.isneginf()
    terms = terms.masked_fill(forbidden, math.inf)
    return torch.where(log_p.isneginf(), q, terms).sum(-1)


def total_variation(log_p: Tensor | ArrayLike, log_q: Tensor | ArrayLike) -> Tensor:
    """Return the largest difference that p and q make to the probability of any set of tasks.

    TV(p, q) = 1/2 sum_k |p_k - q_k|, between 0 and 1; TV <= sqrt(KL / 2) (Pinsker).

    Args:
        log_p: normalised log probabilities, (..., K).
        log_q: normalised log probabilities, (..., K).

    Returns:
        One number per element, (...), float64.

    Raises:
        ValueError: for unequal shapes, or rows that are not log probabilities.

    Example:
        >>> total_variation(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log())
        tensor(0.2500, dtype=torch.float64)
    """
    log_p, log_q = checked_both(log_p, log_q)
    return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)


def argmax_agreement(log_p: Tensor | ArrayLike, log_q: Tensor | ArrayLike) -> Tensor:
    """Return whether p and q have the same most probable task.

    Where several tasks of p are equally probable, any of them will do.

    Args:
        log_p: normalised log probabilities, (..., K).
        log_q: normalised log probabilities, (..., K).

    Returns:
        One answer per element, (...), bool.

    Raises:
        ValueError: for unequal shapes, or rows that are not log probabilities.

    Example:
        >>> argmax_agreement(torch.tensor([0.4, 0.6]).log(), torch.tensor([0.25, 0.75]).log())
        tensor(True)
    """
    log_p, log_q = checked_both(log_p, log_q)
    chosen = log_p.gather(-1, log_q.argmax(-1, keepdim=True)).squeeze(-1)
    return chosen == log_p.amax(-1)


def agreement(
    exact: TaskPosterior | Tensor | ArrayLike,
    estimate: TaskPosterior | Tensor | ArrayLike,
    site: str | None = None,
) -> Agreement:
    """Compare an estimated task posterior with the exact one, averaged over all elements.

    Posteriors over several sites are compared jointly, as tables of all combinations, unless a site
    is named. Without a joint posterior a table is the product of its sites.

    Args:
        exact: a posterior, or its normalised log probabilities, (..., K).
        estimate: the same of the estimate.
        site: which task site to compare; without it the only one, or all of several together.

    Returns:
        The means over elements, with their number.

    Raises:
        TaskSiteError: for an unknown site; for several sites that make no table of combinations.
        ValueError: for unequal shapes, no elements, or rows that are not log probabilities.

    Example:
        >>> exact, estimate = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
        >>> round(agreement(exact, estimate).total_variation, 4)
        0.25
    """
    log_p, log_q = checked_pair(exact, estimate, site)
    if log_p.numel() == 0:
        raise ValueError(
            f"exact should hold at least one element to average over; got {tuple(log_p.shape)}"
        )
    return Agreement(
        kl=kl(log_p, log_q).mean().item(),
        reverse_kl=kl(log_q, log_p).mean().item(),
        total_variation=total_variation(log_p, log_q).mean().item(),
        argmax_agreement=argmax_agreement(log_p, log_q).double().mean().item(),
        max_difference=(log_p.exp() - log_q.exp()).abs().max().item(),
        num_elements=log_p[..., 0].numel(),
    )


class LogOdds(NamedTuple):
    """Log odds in nats of the same tasks, by two posteriors.

    Attributes:
        exact: of the exact posterior, (..., K).
        estimate: of the estimate, (..., K).
    """

    exact: Tensor
    estimate: Tensor


def log_odds(
    exact: TaskPosterior | Tensor | ArrayLike,
    estimate: TaskPosterior | Tensor | ArrayLike,
    site: str | None = None,
    *,
    reference: int | None = None,
) -> LogOdds:
    """Return the log odds of each task by both posteriors.

    log q_k - log q_r against a reference task r, or log q_k - mean_j log q_j against all (the
    centred log ratio, Aitchison 1986). Log likelihoods add to them, task by task, and they
    show in the tails what probabilities hide: a temperature is a slope, an offset a shift.

    Args:
        exact: a posterior, or its normalised log probabilities, (..., K).
        estimate: the same of the estimate.
        site: which task site to compare; without it the only one, or all of several together.
        reference: the task r, whose own log odds are 0; None for the mean over tasks.

    Raises:
        TaskSiteError: for an unknown site; for several sites that make no table of combinations.
        ValueError: for unequal shapes, rows that are not log probabilities, an unknown reference,
            or log odds against a task of probability zero.

    Example:
        >>> exact, estimate = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
        >>> log_odds(exact, estimate, reference=0).estimate  # log 3
        tensor([0.0000, 1.0986], dtype=torch.float64)
    """
    pair = checked_pair(exact, estimate, site)
    K = pair[0].shape[-1]
    if reference is not None and not 0 <= reference < K:
        raise ValueError(f"reference should be a task, 0 .. {K - 1}, or None; got {reference}")
    found = []
    for name, log_q in zip(("exact", "estimate"), pair, strict=True):
        base = log_q.mean(-1) if reference is None else log_q[..., reference]
        if bool(base.isneginf().any()):
            against = "the mean over tasks" if reference is None else f"task {reference}"
            raise ValueError(
                f"{name} should have finite log odds against {against}; got a task of probability "
                "zero among them: take a reference that is possible everywhere"
            )
        found.append(log_q - base.unsqueeze(-1))
    return LogOdds(*found)
