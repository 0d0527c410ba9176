"""Task labels, known for none, some or all elements (-1 where unknown), and the order of tasks."""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gbi_pyro._arrays import UNKNOWN, as_tensor, check_labels


def clamp_log_likelihoods(log_likelihoods: Tensor, labels: Tensor) -> Tensor:
    """Return log likelihoods ``(..., K)`` with -inf where a label excludes the task.

    >>> clamp_log_likelihoods(torch.zeros(2, 2), torch.tensor([-1, 1]))
    tensor([[0., 0.],
            [-inf, 0.]])
    """
    log_likelihoods = as_tensor(log_likelihoods, "log_likelihoods")
    labels = as_tensor(labels, "labels")
    tasks = torch.arange(log_likelihoods.shape[-1], device=log_likelihoods.device)
    labels = labels.to(log_likelihoods.device).unsqueeze(-1)
    return log_likelihoods.masked_fill((labels != UNKNOWN) & (labels != tasks), -torch.inf)


def order_tasks(values: Tensor | ArrayLike, *, descending: bool = False) -> Tensor:
    """Return the order of tasks in which a number of theirs ascends.

    Tasks found without labels come in any order. A rule makes it the same in every fit, so that
    they can have names: ``order = order_tasks(means)``, then ``posterior.reordered(order)``,
    ``chain.reordered(order)`` and ``means[order]`` belong together.

    Args:
        values: a number of each task, ``(K,)``; of several, such as weights, choose or compute one.
        descending: whether the largest comes first.

    Returns:
        At k the present id of the task that becomes k, ``(K,)`` int64; equal ones keep their order.

    Raises:
        ValueError: for another shape, or numbers that are NaN.

    >>> means = torch.tensor([1.5, -1.0, 0.2])
    >>> order_tasks(means), means[order_tasks(means)]
    (tensor([1, 2, 0]), tensor([-1.0000,  0.2000,  1.5000]))
    """
    numbers = as_tensor(values, "values").detach()
    if numbers.ndim != 1 or not len(numbers) or bool(numbers.isnan().any()):
        raise ValueError(
            f"values should hold one number for each task, (K,), none of them NaN; got shape "
            f"{tuple(numbers.shape)}: take a column or a norm of what has more dimensions"
        )
    return numbers.cpu().argsort(descending=descending, stable=True)


def match_labels(q: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> Tensor:
    """Return which task of a network each label names: the one-to-one match with most probability.

    Tasks found without labels come in any order. Clamping a few labels from the start pulls a
    network towards a permuted optimum; let it find the tasks first, match, then clamp
    ``names[labels]``. The maximiser of sum over labelled elements of q(names[label]), by the
    Hungarian method.

    Args:
        q: posterior without labels, ``batch_shape + (K,)``.
        labels: ids, -1 where unknown, ``batch_shape``.

    Returns:
        Names, ``(K + 1,)``: the task of each label, and -1 at the end, so that ``names[labels]``
        keeps the unknown. The others are an order of tasks: ``posterior.reordered(names[:-1])``
        numbers them as the labels do.

    Raises:
        ValueError: for labels that do not fit.

    >>> q = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5]])
    >>> match_labels(q, torch.tensor([0, 1, -1]))
    tensor([ 1,  0, -1])
    """
    q = as_tensor(q, "q")
    num_tasks = q.shape[-1] if q.ndim else 0
    if not q.is_floating_point() or num_tasks < 1:
        raise ValueError(
            f"q has shape {tuple(q.shape)} and dtype {q.dtype}; expected probabilities of tasks, "
            "(..., K), such as posterior.probs()"
        )
    labels = check_labels(labels, q.shape[:-1], num_tasks)
    known = labels != UNKNOWN
    agreement = q.new_zeros(num_tasks, num_tasks)
    agreement.index_add_(0, labels[known].to(q.device), q.detach()[known.to(q.device)])
    _, tasks = linear_sum_assignment(agreement.double().cpu().numpy(), maximize=True)
    return torch.tensor([*tasks, UNKNOWN], device=labels.device)
