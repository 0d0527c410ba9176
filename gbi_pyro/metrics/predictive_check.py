"""Posterior predictive checks: statistics of the data against those of data a model produces."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gbi_pyro._arrays import as_tensor
from gbi_pyro.metrics._validate import check_level
from gbi_pyro.metrics.table import Table

Statistic = Callable[[Tensor], Mapping[str, float]]
COLUMNS = ("statistic", "observed", "replicated", "low", "high", "tail probability", "draws")


@dataclass(frozen=True)
class PredictiveCheck:
    """Statistics of observed data and of data that a model produced.

    Attributes:
        observed: each statistic of the data by name: ``()``; of latent paths, whose value differs
            from draw to draw, ``(draws,)``.
        replicated: the same statistic of each draw, ``(draws,)``.
    """

    observed: dict[str, Tensor]
    replicated: dict[str, Tensor]

    def table(self, level: float = 0.95) -> Table:
        """Return a row for each statistic.

        Args:
            level: what share of the draws lies between ``low`` and ``high``.

        Returns:
            Its observed value, the mean over draws of what is latent; mean and central interval of
            the replicated ones; the tail probability; and the number of draws in which it is
            defined.

        Raises:
            ValueError: for an invalid level.
        """
        check_level(level)
        ends = torch.tensor([0.5 - level / 2, 0.5 + level / 2], dtype=torch.float64)
        rows = []
        for name, drawn in self.replicated.items():
            observed = self.observed[name]
            known = drawn[drawn.isfinite()]
            low, high = known.quantile(ends).tolist() if len(known) else (math.nan, math.nan)
            shown = observed.nanmean().item(), known.mean().item(), low, high
            both = (drawn.isfinite() & observed.isfinite()).sum()
            rows.append((name, *shown, tail_probability(observed, drawn), int(both)))
        caption = f"statistics of the data against replicated ones, with {level:.0%} of the draws"
        return Table(caption, COLUMNS, tuple(rows))

    def __str__(self) -> str:
        return str(self.table())


def predictive_check(
    statistic: Statistic,
    observed: Tensor | ArrayLike,
    replicated: Tensor | ArrayLike,
) -> PredictiveCheck:
    """Compare statistics of observed data with those of data that a model produced.

    Of latent variables, such as the tasks, the observed ones are draws from their posterior, each
    compared with the replicated path of its own draw: a realised discrepancy (Gelman, Meng and
    Stern 1996, Posterior predictive assessment of model fitness, Statistica Sinica 6).

    Args:
        statistic: a function of one data set that returns numbers by name, for example
            ``lambda z: path_statistics(z, num_tasks, padding)``.
        observed: the data, of any shape; of latent variables draws of them, ``(draws,) + shape``.
        replicated: as many data sets of the same shape, ``(draws,) + shape``.

    Raises:
        ValueError: for shapes that do not fit, no draws, or a statistic that returns no numbers, or
            others from draw to draw.

    Example:
        >>> def sums(x):
        ...     return {"mean": x.mean(), "largest": x.max()}
        >>> draws = torch.randn(1000, 20, generator=torch.Generator().manual_seed(0))
        >>> check = predictive_check(sums, torch.linspace(-9.0, 9.0, 20), draws)
        >>> [row["tail probability"] < 0.05 for row in check.table().records()]
        [False, True]
    """
    data = as_tensor(observed, "observed").detach()
    drawn = as_tensor(replicated, "replicated").detach()
    if not drawn.ndim or not len(drawn) or data.shape not in (drawn.shape, drawn.shape[1:]):
        raise ValueError(
            f"replicated should be (draws,) + {tuple(data.shape)}, data like those observed, or, "
            f"where the observed ones are draws themselves, as many; got {tuple(drawn.shape)}"
        )
    ours = [statistic(x) for x in (data if data.ndim == drawn.ndim else [data])]
    theirs = [statistic(x) for x in drawn]
    names = list(ours[0]) if isinstance(ours[0], Mapping) else []
    if not names or any(list(found) != names for found in (*ours, *theirs)):
        raise ValueError(
            "statistic should return numbers by name, a dictionary, the same names for all data; "
            f"got {ours[0] if not names else 'others from draw to draw'}"
        )

    def gathered(rows: list[Mapping[str, float]]) -> dict[str, Tensor]:
        return {
            name: torch.tensor([float(row[name]) for row in rows], dtype=torch.float64)
            for name in names
        }

    found = gathered(ours)
    if data.ndim < drawn.ndim:
        found = {name: value[0] for name, value in found.items()}
    return PredictiveCheck(found, gathered(theirs))


def tail_probability(observed: Tensor | ArrayLike, replicated: Tensor | ArrayLike) -> float:
    """Return how probable a statistic as far out as the observed one is, to either side.

    2 min(p, 1 - p) with p = P(T_rep > T) + P(T_rep = T) / 2, the posterior predictive p-value of
    Rubin 1984 (Bayesianly justifiable ..., Ann. Stat. 12), ties counting half. It is conservative:
    where the model holds it lies near 1 more often than a uniform one, since the data have been
    used to fit it. Draws in which the statistic is NaN are left out.

    Args:
        observed: T, one number, or one for each draw, ``(draws,)``.
        replicated: T_rep, ``(draws,)``.

    Raises:
        ValueError: for other shapes.

    Example:
        >>> tail_probability(2.5, [0.0, 1.0, 2.0, 3.0])
        0.5
    """
    T = as_tensor(observed, "observed").detach().cpu().double()
    drawn = as_tensor(replicated, "replicated").detach().cpu().double()
    if drawn.ndim != 1 or T.shape not in ((), drawn.shape):
        raise ValueError(
            "replicated should be (draws,), and observed one number or one for each draw; got "
            f"{tuple(drawn.shape)} and {tuple(T.shape)}"
        )
    known = ~(T.isnan() | drawn.isnan())
    if not bool(known.any()):
        return math.nan
    above = (drawn > T).double() + 0.5 * (drawn == T)
    p = above[known].mean().item()
    return 2 * min(p, 1 - p)
