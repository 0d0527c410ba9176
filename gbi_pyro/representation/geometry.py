"""The shape of a representation: how many directions it fills, and how its spectrum falls."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gbi_pyro.representation._activity import centred, checked_activity, checked_tasks, spectrum

FOR_SLOPE = 20  # samples for each unit below which sampling makes the spectrum steeper
FOR_RANK = 5  # and below which it lowers the effective rank
STRAIGHT = 0.9  # R2 of log eigenvalue on log rank below which there is no power law


class Geometry(NamedTuple):
    """The shape of a representation.

    Attributes:
        eigenvalues: of the covariance over samples, largest first, ``(min(N, units),)``.
        rank: effective rank, exp H(s_i / sum s) of the singular values s (RankMe).
        participation: participation ratio, (sum l)^2 / sum l^2 of the eigenvalues l.
        slope: minus the slope of log l_i on log i, by least squares; NaN for one direction.
        fit: R2 of that line.
        by_task: the same within each task, in the order of their ids; empty without tasks.
        warnings: in words, which of the numbers not to trust, and why.
    """

    eigenvalues: Tensor
    rank: float
    participation: float
    slope: float
    fit: float
    by_task: tuple[Geometry, ...]
    warnings: tuple[str, ...]


def geometry(x: Any, tasks: Any = None) -> Geometry:
    """Return the shape of a representation.

    Effective rank (Garrido et al. 2023, RankMe, ICML), participation ratio, and the slope of the
    eigenspectrum (Agrawal et al. 2022, alpha-ReQ, NeurIPS), of activity about its mean. Rotation
    and scale change nothing. Few samples make the slope too steep, and are warned of; compare a
    trained network with its own start, since what is at the input sets the rank before training.

    Args:
        x: activity, ``(N, units)``, N >= 4.
        tasks: the task of each sample, ``(N,)``, for the shape within tasks.

    Raises:
        ValueError: for invalid shapes, or activity that does not vary.

    >>> cross = torch.cat([torch.eye(3), -torch.eye(3)])
    >>> found = geometry(cross)
    >>> round(found.rank, 6), round(found.participation, 6)
    (3.0, 3.0)
    """
    activity = checked_activity(x, "x")
    about_mean = centred(activity)
    if not bool(about_mean.any()):
        raise ValueError("x should vary; got the same activity for all samples")
    values = spectrum(about_mean)
    eigenvalues = values / len(activity)
    kept = values[values > 1e-20 * values[0]]  # the others are rounding
    share = kept.sqrt() / kept.sqrt().sum()
    rank = torch.special.entr(share).sum().exp().item()
    participation = (kept.sum().square() / kept.square().sum()).item()
    slope, fit = _power_law(kept)
    by_task: tuple[Geometry, ...] = ()
    if tasks is not None:
        ids = checked_tasks(tasks, len(activity))
        by_task = tuple(geometry(activity[ids == k]) for k in ids.unique())
    words = _reasons(len(activity), activity.shape[1], fit)
    return Geometry(eigenvalues, rank, participation, slope, fit, by_task, words)


def _power_law(eigenvalues: Tensor) -> tuple[float, float]:
    """Return minus the slope of the log spectrum, and its R2."""
    if len(eigenvalues) < 2:
        return math.nan, math.nan
    at = torch.arange(1, len(eigenvalues) + 1, dtype=torch.float64).log()
    at, log = at - at.mean(), eigenvalues.log() - eigenvalues.log().mean()
    slope = (at @ log) / (at @ at)
    whole = log @ log
    if whole <= 1e-20:  # flat: a line of slope 0 fits
        return 0.0, 1.0
    return -slope.item(), (1 - (log - slope * at).square().sum() / whole).item()


def _reasons(samples: int, units: int, fit: float) -> tuple[str, ...]:
    words = []
    if samples < FOR_RANK * units:
        words.append(
            f"{samples} samples of {units} units: rank and slope are those of few samples; take "
            f"{FOR_SLOPE * units} or more"
        )
    elif samples < FOR_SLOPE * units:
        words.append(
            f"{samples} samples of {units} units: few samples make the slope too steep; take "
            f"{FOR_SLOPE * units} or more"
        )
    if fit < STRAIGHT:
        words.append(f"the spectrum is no power law (R2 {fit:.2f}): do not lean on its slope")
    return tuple(words)
