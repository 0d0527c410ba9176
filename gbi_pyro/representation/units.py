"""Units: which of them are engaged in which task, and what each says of the task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

THRESHOLDS = tuple(i / 20 for i in range(20))  # 0, .05, .. .95


class SharedUnits(NamedTuple):
    """The ratio of shared units as its threshold moves.

    Attributes:
        thresholds: in [0, 1), (T,).
        ratio: units engaged in all tasks / units engaged in any, at each threshold, (T,).
        area: under the ratio from threshold 0 to 1: the mean over active units of the smallest of
            their normalised variances; no threshold enters it.
    """

    thresholds: Tensor
    ratio: Tensor
    area: float


def task_variance(activity: Tensor, tasks: Tensor) -> Tensor:
    """Return how much the mean activity of each unit differs between tasks.

    Var_k(mean of the unit's activity in task k), each task that occurs counted once.

    Args:
        activity: activity of the units, (..., units).
        tasks: task id of each of its elements, (...).

    Returns:
        One variance per unit, (units,), in units of activity squared.

    Raises:
        ValueError: for invalid shapes.

    Example:
        >>> activity = torch.tensor([[0.0, 1.0], [0.0, 3.0], [2.0, 2.0]])
        >>> task_variance(activity, torch.tensor([0, 0, 1]))
        tensor([1., 0.])
    """
    _check_tasks(activity, tasks)
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
        silent: a unit is silent if its variances sum to at most this share, in [0, 1), of the
            largest sum of any unit. Theirs is the number 1e-3 itself, which depends on the scale
            of the activity: rates in Hz and in kHz have other silent units.

    Returns:
        Shares, (K, units), zero for silent units; and which units are active, (units,) bool.
        Neither depends on the scale of the activity, or on units added that never vary.

    Raises:
        ValueError: for invalid shapes or share.

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
    if not 0 <= silent < 1:
        raise ValueError(
            "silent should be a share of the largest variance of a unit, in [0, 1); got "
            f"{silent}: try 1e-3"
        )
    variance = torch.stack([a.var(0, correction=0) for a in activity_by_task])
    total = variance.sum(0)
    active = total > silent * total.max()
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
        ValueError: for an invalid threshold, share or shapes.

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


def shared_unit_sweep(
    activity_by_task: Sequence[Tensor],
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    silent: float = 1e-3,
) -> SharedUnits:
    """Return the ratio of shared units at every threshold, and the area under it.

    A unit is shared at a threshold below the smallest of its normalised variances, so the ratio
    falls as the threshold rises, and the area under it is the mean of that smallest one.

    Args:
        activity_by_task, silent: as in ``normalised_task_variance``.
        thresholds: each in [0, 1).

    Returns:
        The ratio at each threshold, and the area under it; NaN if every unit is silent.

    Raises:
        ValueError: for invalid thresholds, share or shapes.

    Example:
        >>> a, b = torch.tensor([[0.0, 0.0], [2.0, 2.0]]), torch.tensor([[1.0, 1.0], [2.0, 1.0]])
        >>> shared_unit_sweep([a, b], [0.1, 0.5]).ratio, shared_unit_sweep([a, b]).area
        (tensor([0.5000, 0.0000], dtype=torch.float64), 0.125)
    """
    at = torch.as_tensor(thresholds, dtype=torch.float64)
    if at.dim() != 1 or not len(at) or not bool(((at >= 0) & (at < 1)).all()):
        raise ValueError(
            f"thresholds should be shares in [0, 1), at least one; got {thresholds}: try [0.1]"
        )
    share, active = normalised_task_variance(activity_by_task, silent=silent)
    least = share[:, active].amin(0).double().cpu()
    ratio = (least.unsqueeze(-1) > at).double().mean(0)
    return SharedUnits(at, ratio, least.mean().item())


def task_information(
    activity: Tensor, tasks: Tensor, *, neighbours: int = 3, seed: int = 0
) -> Tensor:
    """Return the mutual information of the task and the activity of each unit, in nats.

    I(unit; task) by nearest neighbours, psi(N) + psi(k) - <psi(N_task)> - <psi(m)>, where m counts
    the elements of any task as near as the k-th neighbour of the same task (Ross 2014, Mutual
    information between discrete and continuous data sets, PLoS ONE 9; scikit-learn's
    ``mutual_info_classif``, which lifts estimates below 0 to 0 and breaks ties by noise of 1e-10).
    At most the entropy of the tasks, up to its error. It counts elements as independent: steps of a
    slow unit within one block are not, and make it too large; thin them out.

    Args:
        activity, tasks: as in ``task_variance``.
        neighbours: k; more are smoother and more biased.
        seed: of the noise that breaks ties.

    Returns:
        One number per unit, (units,), float64; 0 for a unit that does not vary.

    Raises:
        ValueError: for invalid shapes, fewer than two tasks, or fewer than k + 1 elements of one.

    Example:
        >>> activity = torch.tensor([[0.0, 2.0], [0.1, 7.0], [5.0, 2.0], [5.1, 7.0]])
        >>> task_information(activity, torch.tensor([0, 0, 1, 1]), neighbours=1)  # ln 2, nearly
        tensor([0.8333, 0.0000], dtype=torch.float64)
    """
    from sklearn.feature_selection import mutual_info_classif  # late: slow to load

    _check_tasks(activity, tasks)
    if neighbours < 1:
        raise ValueError(f"neighbours should be 1 or more; got {neighbours}: try 3")
    values = activity.detach().cpu().double().flatten(0, -2)
    ids = tasks.detach().cpu().flatten()
    counts = ids.unique(return_counts=True)[1]
    if len(counts) < 2 or int(counts.min()) <= neighbours:
        raise ValueError(
            f"tasks should hold two ids or more, each for more than neighbours={neighbours} "
            f"elements; got {counts.tolist()} elements: leave out rare tasks"
        )
    information = torch.as_tensor(
        mutual_info_classif(
            values.numpy(),
            ids.numpy(),
            discrete_features=False,
            n_neighbors=neighbours,
            random_state=seed,
        )
    )
    return information.where(values.amax(0) > values.amin(0), 0.0)


def _check_tasks(activity: Tensor, tasks: Tensor) -> None:
    if activity.shape[:-1] != tasks.shape or activity.dim() < 2:
        raise ValueError(
            f"tasks should have the shape of activity without its last dimension (units); got "
            f"{tuple(tasks.shape)} for activity {tuple(activity.shape)}: give one id per element"
        )
