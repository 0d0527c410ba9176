"""How long something lasts where some of it is cut off: the Kaplan-Meier estimate."""

from __future__ import annotations

from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from scipy.special import ndtri
from torch import Tensor

from gbi_pyro._arrays import as_tensor
from gbi_pyro.metrics._validate import check_level


class Survival(NamedTuple):
    """An estimated survival function, a row for each time, (M,) each.

    Attributes:
        time: t = 0, 1, ..., in steps, up to the last at which a block was at risk of ending.
        survival: P(D > t).
        low: lower end of its interval, at each time.
        high: upper end.
        at_risk: n_t, how many blocks lasted t steps and are known to have gone on or not.
    """

    time: Tensor
    survival: Tensor
    low: Tensor
    high: Tensor
    at_risk: Tensor


def kaplan_meier(
    length: Tensor | ArrayLike,
    censored: Tensor | ArrayLike | None = None,
    weights: Tensor | ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> Survival:
    """Estimate how long blocks last, of lengths some of which are cut off by the end of the data.

    S(t) = prod_{u <= t} (1 - d_u / n_u), d_u the blocks that end at their u-th step, n_u those at
    risk of it (Kaplan and Meier 1958, Nonparametric estimation from incomplete observations, J. Am.
    Stat. Assoc. 53). A block of c steps that is cut off is known to have gone on after its first
    c - 1 steps and was at risk at these; whether it ended at its c-th is not known. The interval is
    Greenwood's, on the scale of log(-log S), at one time; it takes blocks as independent and as
    observed.

    Args:
        length: steps of each block, (B,), integers of 1 or more.
        censored: whether it is cut off, (B,) bool; none without.
        weights: of each block, (B,), positive: 1 / draws for blocks of several draws of paths.
        level: nominal coverage.

    Raises:
        ValueError: for no blocks, other shapes, lengths below 1, weights that are not positive, or
            an invalid level.

    Example:
        >>> found = kaplan_meier([1, 2, 2, 3], [False, False, True, False])
        >>> found.survival, found.at_risk
        (tensor([1.0000, 0.7500, 0.3750, 0.0000], dtype=torch.float64),
         tensor([4., 4., 2., 1.], dtype=torch.float64))
    """
    check_level(level)
    D = as_tensor(length, "length").detach().cpu()
    if D.ndim != 1 or not len(D) or D.is_floating_point() or int(D.min()) < 1:
        raise ValueError(
            f"length should hold steps of at least one block, (B,), integers of 1 or more; got "
            f"{tuple(D.shape)} of {D.dtype}: a task that never occurs has no dwell times"
        )
    cut = torch.zeros(len(D), dtype=torch.bool)
    if censored is not None:
        cut = as_tensor(censored, "censored").detach().cpu()
    w = torch.ones(len(D)).double()
    if weights is not None:
        w = as_tensor(weights, "weights").detach().cpu().double()
    if (
        cut.shape != D.shape
        or cut.dtype != torch.bool
        or w.shape != D.shape
        or bool((w <= 0).any())
    ):
        raise ValueError(
            f"censored should be bool and weights positive, one for each of {len(D)} blocks; got "
            f"{tuple(cut.shape)} of {cut.dtype} and {tuple(w.shape)}"
        )
    seen = D.long() - cut.long()  # the last step at which a block was at risk
    size = int(seen.max()) + 1
    ends = torch.bincount(seen[~cut], w[~cut], minlength=size).double()
    at_risk = torch.bincount(seen, w, minlength=size).flip(0).cumsum(0).flip(0)
    survival = (1 - ends / at_risk).clamp_min(0.0).cumprod(0)
    low, high = _greenwood(survival, ends, at_risk, level)
    return Survival(torch.arange(size), survival, low, high, at_risk)


def _greenwood(S: Tensor, ends: Tensor, at_risk: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Return both ends: S ** exp(-+ z s), s the standard error of log(-log S)."""
    terms = (ends / (at_risk * (at_risk - ends))).cumsum(0)
    half = float(ndtri(0.5 + level / 2)) * terms.sqrt() / -S.log()
    low, high = S ** half.exp(), S ** (-half).exp()
    unknown = (S <= 0) | (S >= 1)  # before any end, and when none is left
    low, high = torch.where(unknown, S, low), torch.where(unknown, S, high)
    # Of no survivors the upper end says no more than at the time before.
    return low, torch.where(S <= 0, high[S > 0][-1], high)
