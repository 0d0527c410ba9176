"""Rank histogram of true tasks in their posteriors: flat if they are calibrated."""

from __future__ import annotations

from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from scipy.stats import binom
from torch import Tensor

from gbi_pyro.metrics._validate import check_level, checked_forecast


class RankHistogram(NamedTuple):
    """Shares of true tasks by rank; one row per bin, (bins,) each.

    Attributes:
        low: lower edge of the bin.
        high: upper edge.
        share: of the true tasks; 1 / bins in each if calibrated.
        band_low: lower end of the band in which a calibrated share lies.
        band_high: upper end.
    """

    low: Tensor
    high: Tensor
    share: Tensor
    band_low: Tensor
    band_high: Tensor


def rank_histogram(
    log_probs: Tensor | ArrayLike,
    labels: Tensor | ArrayLike,
    bins: int = 10,
    *,
    level: float = 0.95,
) -> RankHistogram:
    """Count how much probability is ranked before the true task, the most probable ranked first.

    The rank of label y is spread evenly over [P(q > q_y), P(q >= q_y)], the tasks ranked before it
    and those ranked before or with it: for draws from the posterior the expected histogram is flat
    (the non-randomised probability integral transform; Czado, Gneiting and Held 2009, Predictive
    model assessment for count data). Tasks have no order of their own; this one puts a posterior
    that is too sure on the right, one that is not sure enough on the left. The picture to
    ``check_sbc``, which is the test: the band is that of a binomial in each bin, on the wide side,
    since parts of a rank vary less than a whole one.

    Args:
        log_probs: normalised log probabilities, (N, K), such as ``SBCResult.cases`` gives.
        labels: true task ids, (N,), integers.
        bins: how many, of equal width.
        level: of the band, bin by bin.

    Raises:
        ValueError: as ``accuracy``, and for no bins or an invalid level.

    Example:
        >>> log_probs = torch.tensor([[0.75, 0.25], [0.75, 0.25]]).log()
        >>> rank_histogram(log_probs, [0, 1], bins=2).share.round(decimals=3)
        tensor([0.3330, 0.6670], dtype=torch.float64)
    """
    if bins < 1:
        raise ValueError(f"bins should be 1 or more; got {bins}: try 10")
    check_level(level)
    log_q, y = checked_forecast(log_probs, labels)
    q = log_q.softmax(-1)
    of_label = q.gather(-1, y.unsqueeze(-1))
    before = (q * (q > of_label)).sum(-1, keepdim=True)
    width = (q * (q == of_label)).sum(-1, keepdim=True)
    edges = torch.linspace(0, 1, bins + 1, dtype=q.dtype)
    # How much of each rank lies below each edge; a label of probability zero is a point.
    below = ((edges - before) / width.clamp_min(torch.finfo(q.dtype).tiny)).clamp(0, 1)
    below[:, -1] = 1.0  # but for rounding
    n, tail = len(y), 0.5 - level / 2
    ends = [torch.full((bins,), binom.ppf(p, n, 1 / bins) / n).double() for p in (tail, 1 - tail)]
    return RankHistogram(edges[:-1], edges[1:], below.diff(dim=-1).mean(0), *ends)
