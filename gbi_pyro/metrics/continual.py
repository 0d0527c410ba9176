"""Continual learning: average accuracy, forgetting, backward and forward transfer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gbi_pyro.metrics._validate import check_level
from gbi_pyro.metrics.intervals import Interval, student_interval


class Continual(NamedTuple):
    """Summary of learning T tasks in sequence.

    Whether accuracies or errors came in, larger transfers and less forgetting are better.

    Attributes:
        average: accuracy (or error) over all tasks after the last block.
        forgetting: how far the earlier tasks fell from their best.
        backward: what later blocks did to earlier tasks since each was learned; < 0 is forgetting.
        forward: what earlier blocks did for a task before its own; None without a baseline.
    """

    average: Interval
    forgetting: Interval
    backward: Interval
    forward: Interval | None


def continual_learning(
    matrix: ArrayLike,
    baseline: ArrayLike | None = None,
    *,
    errors: bool = False,
    level: float = 0.95,
) -> Continual:
    """Return average accuracy, forgetting, and backward and forward transfer, over seeds.

    With R_ij the accuracy on task j after the block of task i, and b_j that of untrained weights,

        average    = 1 / T       sum_j R_Tj
        backward   = 1 / (T - 1) sum_{j < T} (R_Tj - R_jj)
        forward    = 1 / (T - 1) sum_{j > 1} (R_{j-1, j} - b_j)
        forgetting = 1 / (T - 1) sum_{j < T} (max_{i < T} R_ij - R_Tj)

    the first three of Lopez-Paz and Ranzato 2017, Gradient episodic memory for continual learning,
    NeurIPS; the last of Chaudhry et al. 2018, Riemannian walk for incremental learning, ECCV. Since
    its maximum is over R_jj too, forgetting is never below minus the backward transfer. For errors
    all differences change their sign, and the maximum becomes a minimum.

    Args:
        matrix: R, tasks in the order in which they were learned, (T, T) or (seeds, T, T).
        baseline: b, from weights that learned nothing, (T,) or (seeds, T).
        errors: whether R and b hold errors, smaller for better.
        level: coverage of the intervals, Student's t over seeds.

    Returns:
        Each quantity with its interval.

    Raises:
        ValueError: for NaN, invalid shapes or level.

    Example:
        >>> found = continual_learning([[0.9, 0.5], [0.6, 0.8]], baseline=[0.5, 0.5])
        >>> [round(f.mean, 3) for f in found]
        [0.7, 0.3, -0.3, 0.0]
    """
    check_level(level)
    r = np.asarray(matrix, dtype=float)
    if r.ndim not in (2, 3) or r.shape[-1] != r.shape[-2] or r.shape[-1] < 2 or not r.size:
        raise ValueError(
            "matrix should be (T, T) or (seeds, T, T), a row for each block and a column for each "
            f"of two tasks or more; got {r.shape}: number the tasks in the order of their blocks"
        )
    r = r.reshape(-1, *r.shape[-2:])
    seeds, num_tasks, _ = r.shape
    better = r if not errors else -r
    last, learned = better[:, -1, :-1], np.diagonal(better, axis1=1, axis2=2)
    found = {
        "average": r[:, -1].mean(-1),
        "forgetting": (better[:, :-1, :-1].max(1) - last).mean(-1),
        "backward": (last - learned[:, :-1]).mean(-1),
    }
    if baseline is not None:
        b = np.asarray(baseline, dtype=float)
        if b.shape not in ((num_tasks,), (seeds, num_tasks)):
            raise ValueError(
                f"baseline should be ({num_tasks},) or ({seeds}, {num_tasks}), a number for each "
                f"task; got {b.shape}: score the untrained weights on every task"
            )
        ahead = np.diagonal(better, offset=1, axis1=1, axis2=2)
        untrained = b[..., 1:] if not errors else -b[..., 1:]
        found["forward"] = (ahead - untrained).mean(-1)
    if any(np.isnan(values).any() for values in found.values()):
        raise ValueError(
            "matrix and baseline should hold numbers; got NaN: score every task after every block"
        )
    intervals = {name: student_interval(values, level) for name, values in found.items()}
    return Continual(
        intervals["average"],
        intervals["forgetting"],
        intervals["backward"],
        intervals.get("forward"),
    )
