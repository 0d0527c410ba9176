"""Pareto-smoothed importance sampling."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

FEWEST = 5  # weights that a distribution is fitted to


def pareto_smoothed(log_weights: Tensor, relative_efficiency: float = 1.0) -> tuple[Tensor, Tensor]:
    """Replace the largest importance weights by quantiles of the Pareto tail fitted to them.

    The tail is made of the weights above the (M + 1)-th largest, M = ceil(min(S / 5, 3 sqrt(S /
    r))) (Vehtari et al. 2024, Pareto smoothed importance sampling, JMLR 25:72). Weights of discrete
    draws are often tied. Those tied with the cut-off lie outside the tail: they exceed it by
    nothing, which no Pareto distribution fits. ArviZ 1.3 takes them in and finds NaN; of weights
    that are all equal it raises an error.

    Args:
        log_weights: raw, ``(..., S)``. Of leave-one-out they are minus the log likelihoods.
        relative_efficiency: r, effective draws / draws.

    Returns:
        The log weights, smoothed and normalised over draws, ``(..., S)``, float64; and k-hat,
        ``(...)``: -inf where no weight lies above the cut-off, so that there is no tail, and inf
        where fewer than five do, so that nothing can be fitted.

    Example:
        >>> draws = torch.linspace(0, 1, 99).logit()[1:-1]
        >>> _, k_hat = pareto_smoothed(torch.stack([draws, -2 * draws, 0 * draws]))
        >>> k_hat.round(decimals=1).tolist()
        [0.7, 1.2, -inf]
    """
    *shape, S = log_weights.shape
    scaled = (log_weights - log_weights.amax(-1, keepdim=True)).detach().cpu().double()
    rows = scaled.reshape(-1, S).numpy().copy()
    size = min(math.ceil(min(S / 5, 3 * math.sqrt(S / relative_efficiency))), S - 1)
    k_hat = torch.as_tensor([_smooth(row, size) for row in rows], dtype=torch.float64)
    return torch.as_tensor(rows).log_softmax(-1).reshape(*shape, S), k_hat.reshape(shape)


def _smooth(row: np.ndarray, size: int) -> float:
    """Smooth log weights in place, ``(S,)``, the largest 0, and return k-hat."""
    order = np.argsort(row, kind="stable")
    first = len(row) - size
    cutoff = np.exp(row[order[first - 1]])
    excess = np.exp(row[order[first:]]) - cutoff
    tail, excess = order[first:][excess > 0], excess[excess > 0]
    if len(tail) < FEWEST:
        return math.inf if len(tail) else -math.inf
    k, sigma = _fit(excess)
    if not math.isfinite(k):
        return math.inf
    survival = np.log1p(-(np.arange(len(tail)) + 0.5) / len(tail))
    quantiles = sigma * (np.expm1(-k * survival) / k if k else -survival)
    row[tail] = np.minimum(np.log(cutoff + quantiles), 0.0)  # no weight above the largest one
    return k


def _fit(excess: np.ndarray) -> tuple[float, float]:
    """Fit a generalised Pareto distribution to sorted values, and return its shape and scale.

    The posterior mean of Zhang and Stephens (2009, Technometrics 51:316), with ten more values at
    shape 1/2 to steady it (Vehtari et al. 2024, appendix C).
    """
    n = len(excess)
    grid = np.arange(1, 30 + int(math.sqrt(n)) + 1)
    quartile = excess[int(n / 4 + 0.5) - 1]
    theta = 1 / excess[-1] + (1 - np.sqrt(len(grid) / (grid - 0.5))) / (3 * quartile)
    k = np.log1p(-theta[:, None] * excess).mean(1)
    profile = n * (np.log(-theta / k) - k - 1)
    weights = np.exp(profile - profile.max())
    best = float(theta @ weights / weights.sum())
    shape = float(np.log1p(-best * excess).mean())
    return (n * shape + 10 * 0.5) / (n + 10), -shape / best
