"""Checks of log probabilities, labels and levels."""

from __future__ import annotations

import math

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gbi_pyro._arrays import as_tensor
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.sites import SIMPLEX_TOLERANCE, simplex_tolerance


def check_level(level: float, suggested: float = 0.95) -> None:
    """Check that a nominal level lies in (0, 1).

    Raises:
        ValueError: for any other number.
    """
    if not 0 < level < 1:
        raise ValueError(f"level should be between 0 and 1; got {level}: try {suggested}")


def check_temperature(temperature: float) -> None:
    """Check that a temperature is positive and finite.

    Raises:
        ValueError: for any other number.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(
            f"temperature should be positive and finite; got {temperature}: 1 changes nothing"
        )


def checked_rows(log_probs: TaskPosterior | Tensor | ArrayLike, name: str = "log_probs") -> Tensor:
    """Return log probabilities in double precision, checked.

    Args:
        log_probs: normalised log probabilities, (..., K), or a posterior over one site.
        name: what the error message calls them.

    Raises:
        ValueError: for no tasks, or rows that are not log probabilities.

    Example:
        >>> checked_rows([-0.5, -0.5])
        Traceback (most recent call last):
        ValueError: log_probs should hold log probabilities normalised over the last dimension; ...
    """
    if isinstance(log_probs, TaskPosterior):
        log_probs = log_probs.logits()
    given = as_tensor(log_probs, name).detach()
    value = given.double()
    if value.dim() == 0 or value.shape[-1] == 0:
        raise ValueError(f"{name} should be (..., K), tasks last; got {tuple(value.shape)}")
    total = value.exp().sum(-1)
    half = given.is_floating_point() and given.dtype.itemsize < 4
    tolerance = simplex_tolerance(given.dtype) if half else SIMPLEX_TOLERANCE
    if not bool(((total - 1).abs() <= tolerance).all()):
        worst = total.flatten()[(total - 1).abs().argmax()].item()
        raise ValueError(
            f"{name} should hold log probabilities normalised over the last dimension; got a row "
            f"that sums to {worst:.6g}: take the log of probabilities, log_softmax(-1) of scores"
        )
    return value.log_softmax(-1) if half else value


def checked_forecast(
    log_probs: Tensor | ArrayLike, labels: Tensor | ArrayLike
) -> tuple[Tensor, Tensor]:
    """Return log probabilities (N, K) and labels (N,) on the CPU, checked.

    Raises:
        ValueError: for invalid shapes, no elements, labels that are not task ids, or rows that are
            not log probabilities.
    """
    log_q, y = checked_rows(log_probs).cpu(), as_tensor(labels, "labels").detach().cpu()
    if log_q.dim() != 2:
        raise ValueError(
            f"log_probs should be (N, K), one row per element; got {tuple(log_q.shape)}: "
            ".flatten(0, -2) what has more dimensions, and the labels with .flatten()"
        )
    if y.shape != log_q.shape[:1]:
        raise ValueError(
            f"labels should be ({len(log_q)},), one task id per row of log_probs; got "
            f"{tuple(y.shape)}: take .argmax(-1) of one-hot labels"
        )
    if len(y) == 0:
        raise ValueError("log_probs should hold at least one element to judge; got none")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"labels should be integers, task ids; got {y.dtype}: try .long()")
    y = y.long()
    if bool(((y < 0) | (y >= log_q.shape[-1])).any()):
        raise ValueError(
            f"labels should be task ids 0 .. {log_q.shape[-1] - 1}, as log_probs has "
            f"{log_q.shape[-1]} tasks; got {y.min().item()} .. {y.max().item()}: number the tasks "
            "from 0"
        )
    return log_q, y


def checked_pair(
    exact: TaskPosterior | Tensor | ArrayLike,
    estimate: TaskPosterior | Tensor | ArrayLike,
    site: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the log probabilities of both, on the CPU in double precision, (..., K) each.

    Of several sites without a name they are those of all combinations.

    Raises:
        TaskSiteError: for an unknown site, or sites whose combinations make no table.
        ValueError: for unequal shapes, rows that are not log probabilities, or posteriors of other
            sites or whose tasks are in different orders.
    """
    if isinstance(exact, TaskPosterior) and isinstance(estimate, TaskPosterior):
        together = site is None and len(exact.log_probs) > 1
        names = list(exact.log_probs) if together else [exact.site_name(site)]
        if together and estimate.log_probs.keys() != exact.log_probs.keys():
            raise ValueError(
                f"exact and estimate should have the same task sites; got {names} and "
                f"{list(estimate.log_probs)}"
            )
        for name in names:
            _check_same_order(exact, estimate, name if together else site)
        if together:
            return checked_both(
                exact.table().flat, estimate.table().ordered(names).flat, ("exact", "estimate")
            )
    return checked_both(
        exact.logits(site) if isinstance(exact, TaskPosterior) else exact,
        estimate.logits(site) if isinstance(estimate, TaskPosterior) else estimate,
        names=("exact", "estimate"),
    )


def _check_same_order(exact: TaskPosterior, estimate: TaskPosterior, site: str | None) -> None:
    orders = [q.sites[q.site_name(site)].order for q in (exact, estimate)]
    ids = [tuple(range(exact.logits(site).shape[-1])) if o is None else o for o in orders]
    if ids[0] != ids[1]:
        raise ValueError(
            f"exact and estimate should have their tasks in one order; got {ids[0]} and "
            f"{ids[1]} of the model's: take posterior.in_model_order()"
        )


def checked_both(
    log_p: Tensor | ArrayLike,
    log_q: Tensor | ArrayLike,
    names: tuple[str, str] = ("log_p", "log_q"),
) -> tuple[Tensor, Tensor]:
    """Return both on the CPU in double precision, (..., K) each, checked.

    Raises:
        ValueError: for unequal shapes, or rows that are not log probabilities.
    """
    p, q = (checked_rows(x, n).cpu() for x, n in zip((log_p, log_q), names, strict=True))
    if p.shape != q.shape:
        raise ValueError(
            f"{names[1]} should have the shape of {names[0]}, {tuple(p.shape)}; got "
            f"{tuple(q.shape)}: compare the same elements and tasks, tasks last (.expand what is "
            "shared)"
        )
    return p, q
