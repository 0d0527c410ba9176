"""Autocorrelation of series in sequences of unequal length."""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gbi_pyro._arrays import as_tensor
from gbi_pyro.metrics.dwell import real_steps


def autocorrelation(
    x: Tensor | ArrayLike, max_lag: int, padding: Tensor | ArrayLike | None = None
) -> Tensor:
    """Return the autocorrelation of a series at lags 0 .. max_lag, all sequences together.

    r_h = mean of (x_t - m)(x_t+h - m) over pairs of steps of one sequence, divided by the mean of
    (x_t - m)^2 over all steps; m is the mean over all steps (Box and Jenkins 1970, Time series
    analysis, ch. 2, with each sum divided by the number of its terms, so that short sequences do
    not shrink it).

    Args:
        x: numbers, ``(..., T)``: a series for each sequence.
        max_lag: the largest lag, below the number of steps of the longest sequence.
        padding: which steps are none, ``(..., T)``; see ``dwell_times``.

    Returns:
        ``(max_lag + 1,)``, float64.

    Raises:
        ValueError: for a lag at which no two steps lie, padding of another shape or before a step,
            numbers that are not finite, or constant ones.

    Example:
        >>> autocorrelation([1.0, -1.0, 1.0, -1.0], 2)
        tensor([ 1., -1.,  1.], dtype=torch.float64)
    """
    series = as_tensor(x, "x").detach().cpu().double()
    if series.ndim == 0:
        raise ValueError("x should have shape (..., T), time last; got a single number")
    real = real_steps(padding, series.shape)
    longest = int(real.sum(-1).max())
    if not 0 <= max_lag < longest:
        raise ValueError(
            f"max_lag should be from 0 to {longest - 1}, below the {longest} steps of the longest "
            f"sequence; got {max_lag}"
        )
    values = series[real]
    if not bool(values.isfinite().all()) or bool((values == values[0]).all()):
        raise ValueError(
            "x should be finite and not constant where it is no padding; got "
            f"{values.min().item()} to {values.max().item()}: leave out what is missing"
        )
    centred = torch.where(real, series - values.mean(), 0.0)
    T, found = series.shape[-1], []
    for lag in range(max_lag + 1):
        pairs = real[..., lag:].sum()  # the earlier step of a pair is real where the later one is
        found.append((centred[..., : T - lag] * centred[..., lag:]).sum() / pairs)
    return torch.stack(found) / found[0]
