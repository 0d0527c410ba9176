"""Decomposition of the Brier score: reliability, resolution, uncertainty."""

from __future__ import annotations

from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gbi_pyro.metrics._bins import Strategy, bin_members
from gbi_pyro.metrics._validate import checked_forecast


class BrierDecomposition(NamedTuple):
    """The parts of a Brier score: reliability - resolution + uncertainty + within.

    Attributes:
        reliability: mean squared gap of probability and share, over bins; 0 if calibrated.
        resolution: variance of the share between bins: how far the forecast separates cases.
        uncertainty: variance of the labels, 1 - sum_k share_k^2: the score of the base rates.
        within: what the bins hide: the variance of the probabilities within bins, less twice their
            covariance with the labels there. 0 where each bin holds one value.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within: float

    @property
    def brier(self) -> float:
        """Their sum, the Brier score."""
        return self.reliability - self.resolution + self.uncertainty + self.within


def brier_decomposition(
    log_probs: Tensor | ArrayLike,
    labels: Tensor | ArrayLike,
    bins: int | None = 15,
    strategy: Strategy = "mass",
) -> BrierDecomposition:
    """Decompose the Brier score, each task against the rest, and sum over tasks.

    With N_kb elements in bin b of the probability of task k, their mean probability q_kb, the share
    y_kb of the task among them and its share y_k among all,

        Brier = sum_k [ sum_b N_kb / N (q_kb - y_kb)^2 - sum_b N_kb / N (y_kb - y_k)^2
                        + y_k (1 - y_k) + within_k ].

    The first three terms are those of Murphy (1973, A new vector partition of the probability
    score). They sum to the score where all probabilities in a bin are equal, so always with
    ``bins=None``; otherwise the two within-bin components of Stephenson et al. (2008, Two extra
    components in the Brier score decomposition), here ``within``, make the sum exact again. By
    chance alone reliability and resolution are positive, and both by more the more bins there are.

    Args:
        log_probs: normalised log probabilities, (N, K).
        labels: true task ids, (N,), integers.
        bins: how many for each task; None for one per different probability, which is for forecasts
            that take few values.
        strategy: as in ``reliability_table``.

    Raises:
        ValueError: as ``reliability_table``.

    Example:
        >>> log_probs = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.3, 0.7], [0.3, 0.7]]).log()
        >>> parts = brier_decomposition(log_probs, [0, 1, 1, 1], bins=None)
        >>> [round(part, 3) for part in (*parts, parts.brier)]
        [0.18, 0.125, 0.375, 0.0, 0.43]
    """
    log_q, y = checked_forecast(log_probs, labels)
    parts = torch.zeros(4, dtype=torch.float64)
    for k, q in enumerate(log_q.exp().unbind(-1)):
        if bins is None:
            members = q.unique(return_inverse=True)[1]
        else:
            members = bin_members(q, bins, strategy)
        hit = (y == k).double()
        q_bin, hit_bin = (_mean_of_bin(v, members) for v in (q, hit))
        share, spread = hit.mean(), q - q_bin
        parts += torch.stack(
            [
                (q_bin - hit_bin).square().mean(),
                (hit_bin - share).square().mean(),
                share * (1 - share),
                (spread.square() - 2 * spread * (hit - hit_bin)).mean(),
            ]
        )
    return BrierDecomposition(*parts.tolist())


def _mean_of_bin(values: Tensor, members: Tensor) -> Tensor:
    """Return for each element the mean over its bin, (N,)."""
    sums = torch.zeros(int(members.max()) + 1, dtype=values.dtype).index_add_(0, members, values)
    return (sums / members.bincount().clamp_min(1))[members]
