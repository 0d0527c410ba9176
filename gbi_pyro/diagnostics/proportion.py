"""A share of successes with its confidence interval."""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from scipy.stats import beta
from torch import Tensor


def jeffreys_interval(
    successes: Tensor | ArrayLike, trials: Tensor | ArrayLike, level: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Return Jeffreys' interval of a proportion.

    The central quantiles of Beta(s + 1/2, n - s + 1/2), with the lower end 0 for s = 0 and the
    upper end 1 for s = n (Brown, Cai and DasGupta 2001, Interval estimation for a binomial
    proportion). Its coverage is the nominal one on average over proportions. Where the n trials
    have different probabilities, as forecasts in one bin do, their sum varies less than a binomial,
    and the interval errs on the wide side.

    Args:
        successes: s, (...), fractions of a success being welcome.
        trials: n, (...), at least s.
        level: nominal coverage.

    Returns:
        The lower and the upper ends, (...) each, float64.

    Raises:
        ValueError: for an unfit level, or numbers that are no successes among trials.

    Example:
        >>> [round(end.item(), 3) for end in jeffreys_interval(8, 10)]
        [0.497, 0.956]
    """
    s, n = (torch.as_tensor(v).detach().cpu().double() for v in (successes, trials))
    if not 0 < level < 1:
        raise ValueError(f"level should be between 0 and 1; got {level}: try 0.95")
    if not bool(((s >= 0) & (s <= n)).all()):
        raise ValueError(
            "successes should be between 0 and the number of trials; got "
            f"{s.tolist()} of {n.tolist()}: are the two swapped?"
        )
    tail = 0.5 - level / 2
    low = torch.as_tensor(beta.ppf(tail, s + 0.5, n - s + 0.5))
    high = torch.as_tensor(beta.ppf(1 - tail, s + 0.5, n - s + 0.5))
    return low.masked_fill(s == 0, 0.0), high.masked_fill(s == n, 1.0)
