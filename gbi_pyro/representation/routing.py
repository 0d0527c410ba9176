"""Routing: how tasks are given to the modules of a network."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gbi_pyro._arrays import as_tensor
from gbi_pyro.representation._activity import checked_tasks


class Routing(NamedTuple):
    """How tasks are given to modules.

    With R modules, of which m takes the share p_m of the samples:

    Attributes:
        collapse: R / (R - 1) sum_m max(0, 1 / R - p_m): 0 where all are used alike, 1 where one
            takes everything.
        collapse_worst: 1 - R min_m p_m: 1 where a module is never used.
        information: mutual information of task and module, nats. By chance it is about
            (K - 1) (R - 1) / 2N.
        specialisation: information / entropy of the tasks, in [0, 1]; NaN for one task.
        alignment: the share of samples whose module is that of their task, modules matched to tasks
            one to one in the best way.
    """

    collapse: float
    collapse_worst: float
    information: float
    specialisation: float
    alignment: float


def routing(tasks: Any, modules: Any, num_modules: int | None = None) -> Routing:
    """Return how tasks are given to the modules of a network.

    Collapse, specialisation and alignment follow Mittal et al. 2022 (Is a modular architecture
    enough?, NeurIPS).

    Args:
        tasks: the task of each sample, ids ``(N,)``.
        modules: the module that takes it, ids ``(N,)``, or the shares of modules, ``(N, R)``.
        num_modules: R, with ids; else one more than the largest.

    Raises:
        ValueError: for invalid shapes, ids that are no integers from 0 on, rows that do not sum to
            1, or fewer than two modules.

    >>> found = routing([0, 0, 1, 1], [1, 1, 0, 0])
    >>> found.collapse, found.specialisation, found.alignment
    (0.0, 1.0, 1.0)
    """
    from scipy.optimize import linear_sum_assignment  # late: slow to load

    shares = _shares(modules, num_modules)
    ids = checked_tasks(tasks, len(shares))
    kinds, at = ids.unique(return_inverse=True)
    joint = torch.zeros((len(kinds), shares.shape[1]), dtype=torch.float64)
    joint.index_add_(0, at, shares).div_(len(shares))
    R = shares.shape[1]
    by_task, by_module = joint.sum(1), joint.sum(0)
    entropies = [torch.special.entr(p).sum() for p in (by_task, by_module, joint)]
    information = (entropies[0] + entropies[1] - entropies[2]).clamp_min(0.0)
    rows, columns = linear_sum_assignment(joint.numpy(), maximize=True)
    return Routing(
        collapse=(R / (R - 1) * (1 / R - by_module).clamp_min(0).sum()).item(),
        collapse_worst=(1 - R * by_module.min()).item(),
        information=information.item(),
        specialisation=(information / entropies[0]).item(),
        alignment=joint[rows, columns].sum().item(),
    )


def _shares(modules: Any, num_modules: int | None) -> Tensor:
    """Return the share of each module in each sample, ``(N, R)``."""
    given = as_tensor(modules, "modules").detach().cpu()
    if given.dim() == 1 and not given.is_floating_point():
        R = int(given.max()) + 1 if num_modules is None and len(given) else num_modules or 0
        if R < 2 or bool(((given < 0) | (given >= R)).any()):
            raise ValueError(
                f"modules should be ids 0 .. {max(R, 2) - 1} of two modules or more; got "
                f"{sorted(set(given.tolist()))[:5]}: give num_modules"
            )
        return torch.nn.functional.one_hot(given.long(), R).double()
    if given.dim() != 2 or given.shape[1] < 2 or num_modules not in (None, given.shape[1]):
        raise ValueError(
            "modules should be ids (N,), integers, or shares (N, R) of R >= 2 modules; got "
            f"{given.dtype} {tuple(given.shape)}"
        )
    shares = given.double()
    if bool((shares < 0).any()) or bool(((shares.sum(1) - 1).abs() > 1e-4).any()):
        raise ValueError("modules should hold shares >= 0 that sum to 1 in each row")
    return shares
