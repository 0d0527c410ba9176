"""Ranks of true tasks and of true numbers in their posteriors: even if these are calibrated."""

from __future__ import annotations

from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from scipy.stats import binom, kstest
from torch import Tensor

from gbi_pyro._arrays import as_tensor
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


class RankTest(NamedTuple):
    """The verdict of ``rank_test``; both p-values are uncorrected.

    Attributes:
        ranks: of the true numbers, uniform on [0, 1] if the posteriors are calibrated, (N,).
        location: p-value of the test for posteriors that are too high or too low.
        spread: p-value of the test for posteriors that are too wide or too narrow.
    """

    ranks: Tensor
    location: float
    spread: float

    @property
    def p_value(self) -> float:
        """Of both together (Bonferroni): twice the smaller, at most 1."""
        return min(1.0, 2 * min(self.location, self.spread))


def rank_test(
    draws: Tensor | ArrayLike,
    truth: Tensor | ArrayLike,
    *,
    generator: torch.Generator | None = None,
) -> RankTest:
    """Test whether each true number can be one more draw from its posterior.

    The simulation-based calibration of numbers: a parameter, or any function of task, parameter and
    data (Modrák et al. 2023, arXiv:2211.02383), such as the number of switches of a drawn path. Of
    L independent draws, l smaller than the true number and m equal to it,

        u = (l + v (m + 1)) / (L + 1), v uniform on [0, 1],

    is uniform if they come from the exact posterior (Talts et al. 2018, arXiv:1804.06788, with ties
    broken at random). u and abs(2 u - 1) are compared with that by exact Kolmogorov-Smirnov tests.

    Args:
        draws: from the posterior of each simulation, (N, L); those of MCMC thinned until they are
            independent.
        truth: the numbers that the simulations were drawn with, (N,).
        generator: breaks ties; a new one with seed 0 without it.

    Raises:
        ValueError: for other shapes, or numbers that are NaN.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> truth, draws = torch.randn(300, generator=draw), torch.randn(300, 9, generator=draw)
        >>> rank_test(draws, truth).p_value > 0.01, rank_test(0.5 * draws, truth).spread < 0.01
        (True, True)
    """
    values, true = as_tensor(draws, "draws").cpu(), as_tensor(truth, "truth").cpu()
    if values.ndim != 2 or not values.numel() or true.shape != values.shape[:1]:
        raise ValueError(
            "draws should be (N, L), L draws from each of N posteriors, and truth (N,); got "
            f"{tuple(values.shape)} and {tuple(true.shape)}"
        )
    if missing := int(values.isnan().sum() + true.isnan().sum()):
        raise ValueError(f"draws and truth should be numbers; got {missing} that are NaN")
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    true = true.unsqueeze(-1)
    smaller, equal = (values < true).sum(-1), (values == true).sum(-1)
    ties = torch.rand(len(true), generator=generator, dtype=torch.float64)
    ranks = (smaller + ties * (equal + 1)) / (values.shape[1] + 1)
    tests = (kstest(u.numpy(), "uniform") for u in (ranks, (2 * ranks - 1).abs()))
    return RankTest(ranks, *(float(test.pvalue) for test in tests))
