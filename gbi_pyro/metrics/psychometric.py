"""Choices against a stimulus, task by task: the points of psychometric curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gbi_pyro._arrays import as_tensor
from gbi_pyro.metrics._validate import check_level
from gbi_pyro.metrics.intervals import jeffreys_interval


class Psychometric(NamedTuple):
    """Choices by bins of a stimulus, for each task, (K, bins) each; NaN where a bin is empty.

    Attributes:
        stimulus: mean of the stimulus in the bin, weighted as the choices are.
        share: share of choices that are 1.
        low: lower end of Jeffreys' interval of the share.
        high: upper end.
        num_trials: sum of the weights, the expected number of trials.
    """

    stimulus: Tensor
    share: Tensor
    low: Tensor
    high: Tensor
    num_trials: Tensor


def psychometric(
    stimulus: Tensor | ArrayLike,
    choice: Tensor | ArrayLike,
    probs: Tensor | ArrayLike,
    bins: int | Sequence[float] = 8,
    padding: Tensor | ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> Psychometric:
    """Return the share of choices in bins of a stimulus for each task, weighted by its probability.

    share[k, b] = sum_t q_t(k) c_t / sum_t q_t(k), over trials t whose stimulus lies in bin b. The
    intervals take the probabilities as given: the choices that are counted have shaped them.

    Args:
        stimulus: a number for each trial, ``batch_shape``.
        choice: 0 or 1, ``batch_shape``.
        probs: q_t(k), such as ``posterior.probs()`` of a smoothed chain, ``batch_shape + (K,)``.
        bins: how many, with equal numbers of trials; a stimulus of no more values than that has a
            bin for each; or the edges of bins, ascending, closed below, the last above too.
        padding: which trials are none, ``batch_shape``; none without.
        level: nominal coverage of the intervals.

    Raises:
        ValueError: for shapes that do not fit, choices other than 0 and 1, probabilities outside
            [0, 1], stimuli that are not finite, no trials, no bins, or edges that do not ascend.

    Example:
        >>> found = psychometric([-1.0, -1.0, 1.0, 1.0], [0, 1, 1, 1], [[1.0], [1.0], [1.0], [1.0]])
        >>> found.stimulus, found.share
        (tensor([[-1.,  1.]], dtype=torch.float64),
         tensor([[0.5000, 1.0000]], dtype=torch.float64))
    """
    check_level(level)
    s, c, q = (
        as_tensor(value, name).detach().cpu().double()
        for name, value in (("stimulus", stimulus), ("choice", choice), ("probs", probs))
    )
    if c.shape != s.shape or q.shape[:-1] != s.shape or not q.ndim or s.ndim == 0:
        raise ValueError(
            f"stimulus and choice should be batch_shape and probs batch_shape + (K,); got "
            f"{tuple(s.shape)}, {tuple(c.shape)} and {tuple(q.shape)}"
        )
    if padding is not None:
        none = as_tensor(padding, "padding").detach().cpu()
        if none.shape != s.shape or none.dtype != torch.bool:
            raise ValueError(
                f"padding should be bool of shape {tuple(s.shape)}, True where a trial is none; "
                f"got {tuple(none.shape)} of {none.dtype}"
            )
        s, c, q = s[~none], c[~none], q[~none]
    s, c, q = s.flatten(), c.flatten(), q.reshape(-1, q.shape[-1])
    _check_trials(s, c, q)
    edges = _edges(s, bins)
    member = torch.bucketize(s, edges, right=True) - 1
    member[s == edges[-1]] = len(edges) - 2
    inside = (member >= 0) & (member < len(edges) - 1)
    member, s, c, q = member[inside], s[inside], c[inside], q[inside]

    def summed(values: Tensor) -> Tensor:
        zeros = torch.zeros(len(edges) - 1, q.shape[-1], dtype=torch.float64)
        return zeros.index_add(0, member, values).mT

    trials, ones = summed(q), summed(q * c.unsqueeze(-1))
    low, high = jeffreys_interval(ones.minimum(trials), trials, level)
    low, high = (torch.where(trials > 0, end, torch.nan) for end in (low, high))
    middle = summed(q * s.unsqueeze(-1)) / trials
    return Psychometric(middle, ones / trials, low, high, trials)


def _check_trials(s: Tensor, c: Tensor, q: Tensor) -> None:
    if not len(s) or not bool(s.isfinite().all()):
        raise ValueError("stimulus should be finite for at least one trial: mark others as padding")
    if not bool(((c == 0) | (c == 1)).all()):
        raise ValueError(
            f"choice should be 0 or 1; got {c.min().item():g} to {c.max().item():g}: compare with "
            "one of the choices, (choice == 'left')"
        )
    if not bool(((q >= 0) & (q <= 1 + 1e-4)).all()):
        raise ValueError(
            f"probs should be probabilities; got {q.min().item():g} to {q.max().item():g}: take "
            "posterior.probs()"
        )


def _edges(s: Tensor, bins: int | Sequence[float]) -> Tensor:
    """Return the edges of the bins, ascending."""
    if isinstance(bins, int):
        if bins < 1:
            raise ValueError(f"bins should be 1 or more, or their edges; got {bins}: try 8")
        values = s.unique()
        if len(values) <= bins:
            return torch.cat([values, values[-1:] + 1])
        edges = s.quantile(torch.linspace(0, 1, bins + 1, dtype=s.dtype)).unique()
        return edges if len(edges) > 1 else torch.cat([edges, edges + 1])
    edges = torch.as_tensor(bins).double()
    if edges.ndim != 1 or len(edges) < 2 or not bool((edges.diff() > 0).all()):
        raise ValueError(f"bins should be ascending edges, two or more; got {edges.tolist()}")
    return edges
