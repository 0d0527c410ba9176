"""How a network's units are divided among the tasks: which unit is engaged in which task."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def task_variance(activity: Tensor, tasks: Tensor) -> Tensor:
    """Return how much the mean activity of each unit differs between tasks.

    Var_k(mean of the unit's activity in task k), each task that occurs counted once.

    Args:
        activity: activity of the units, (..., units).
        tasks: task id of each of its elements, (...).

    Returns:
        One variance per unit, (units,), in units of activity squared.

    Raises:
        ValueError: for unfit shapes.

    Example:
        >>> activity = torch.tensor([[0.0, 1.0], [0.0, 3.0], [2.0, 2.0]])
        >>> task_variance(activity, torch.tensor([0, 0, 1]))
        tensor([1., 0.])
    """
    if activity.shape[:-1] != tasks.shape or activity.dim() < 2:
        raise ValueError(
            f"tasks should have the shape of activity without its last dimension (units); got "
            f"{tuple(tasks.shape)} for activity {tuple(activity.shape)}: give one id per element"
        )
    means = [activity[tasks == k].mean(0) for k in tasks.unique()]
    return torch.stack(means).var(0, correction=0)


def normalised_task_variance(
    activity_by_task: Sequence[Tensor], *, silent: float = 1e-3
) -> tuple[Tensor, Tensor]:
    """Return each unit's variance within each task, as a share of its largest.

    v_k / max_k v_k with v_k = Var(activity within task k), over time and trials (task variance of
    Yang et al. 2019, Task representations in neural networks, Nat. Neurosci. 22).

    Args:
        activity_by_task: for each of K >= 2 tasks the activity of the same units, (N_k, units).
        silent: a unit whose variances sum to at most this is silent (theirs is 1e-3).

    Returns:
        Shares, (K, units), zero for silent units; and which units are active, (units,) bool.

    Raises:
        ValueError: for unfit shapes.

    Example:
        >>> a, b = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[1.0, 0.0], [2.0, 0.0]])
        >>> normalised_task_variance([a, b])
        (tensor([[1.0000, 0.0000],
            [0.2500, 0.0000]]), tensor([ True, False]))
    """
    shapes = [tuple(a.shape) for a in activity_by_task]
    if len(shapes) < 2 or any(len(s) != 2 or s[0] < 2 or s[1] != shapes[0][-1] for s in shapes):
        raise ValueError(
            "activity_by_task should hold a tensor (N_k, units), N_k >= 2, for each of two tasks "
            f"or more, of the same units; got {shapes}: flatten time and trials together"
        )
    variance = torch.stack([a.var(0, correction=0) for a in activity_by_task])
    active = variance.sum(0) > silent
    share = variance / variance.amax(0).where(active, 1.0)
    return share.where(active, 0.0), active


def shared_unit_ratio(
    activity_by_task: Sequence[Tensor], threshold: float = 0.1, *, silent: float = 1e-3
) -> float:
    """Return which share of the active units is engaged in all tasks.

    A unit is engaged in a task where its normalised variance exceeds the threshold: 1 is one module
    for all tasks, 0 a module for each (Figure 2C of Hummos et al. 2024, arXiv:2407.17356).

    Args:
        activity_by_task, silent: as in ``normalised_task_variance``.
        threshold: in [0, 1).

    Returns:
        Units engaged in all tasks / units engaged in any; NaN if every unit is silent.

    Raises:
        ValueError: for an unfit threshold or shapes.

    Example:
        >>> a, b = torch.tensor([[0.0, 0.0], [2.0, 2.0]]), torch.tensor([[1.0, 1.0], [2.0, 1.0]])
        >>> shared_unit_ratio([a, b])
        0.5
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold should be a share in [0, 1); got {threshold}: try 0.1")
    share, active = normalised_task_variance(activity_by_task, silent=silent)
    if not bool(active.any()):
        return math.nan
    return ((share > threshold).all(0).sum() / active.sum()).item()
