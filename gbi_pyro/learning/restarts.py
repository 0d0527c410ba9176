"""Restarts: several trainings, of which the best by log evidence is kept."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gbi_pyro.learning.collapse import CollapseReport, CollapseWarning
from gbi_pyro.learning.em import GradientEM
from gbi_pyro.tracker import UNTRACKED, Tracker


class Restarts(NamedTuple):
    """The trainings from several seeds.

    Attributes:
        best: the one of the largest objective.
        seed: its seed.
        objectives: log evidence (or its bound) with the prior's density, by seed, in nats.
        report: whether the best one uses all its tasks.
    """

    best: GradientEM
    seed: int
    objectives: dict[int, float]
    report: CollapseReport


def best_of(
    make: Callable[[int], GradientEM],
    seeds: Iterable[int],
    num_steps: int,
    *args: Any,
    labels: Tensor | None = None,
    start: Callable[[int], Tensor] | None = None,
    start_steps: int = 50,
    tracker: Tracker = UNTRACKED,
) -> Restarts:
    """Train from several seeds on the same batch and keep the best by log evidence.

    With three tasks or more a random start often misses one. The log evidence shows it without
    labels; a collapse of the best one is warned of.

    Args:
        make: gives a fresh training for a seed.
        seeds: the seeds.
        num_steps: EM steps of each.
        args: the batch: what the model takes.
        labels: task ids where they are known; see ``GradientEM.step``.
        start: labels to begin with, by seed, for instance from ``window_labels``.
        start_steps: how many further steps they are held.
        tracker: takes the seed that is trained from, and the objective it reached.

    Raises:
        ValueError: for no seed or no step.
    """
    if num_steps < 1 or start_steps < 0:
        raise ValueError(
            f"expected num_steps >= 1 and start_steps >= 0, got {num_steps} and {start_steps}"
        )
    best: tuple[float, int, GradientEM] | None = None
    objectives: dict[int, float] = {}
    for seed in seeds:
        tracker.stage(f"training from seed {seed}")
        em = make(seed)
        with warnings.catch_warnings():  # only a collapse of the best one matters
            warnings.simplefilter("ignore", CollapseWarning)
            first = None if start is None else start(seed)
            for _ in range(0 if first is None else start_steps):
                em.step(*args, labels=first)
            for _ in range(num_steps):
                em.step(*args, labels=labels)
        reached = objectives[seed] = em.history[-1].objective
        tracker.metric("objective reached", reached, len(objectives))
        # A training that diverged to NaN is never the best.
        if math.isfinite(reached) and (best is None or reached > best[0]):
            best = reached, seed, em
    if best is None:
        raise ValueError(
            f"no training came to a finite objective, got {objectives}: give seeds, and a lower "
            "rate if they diverged"
        )
    _, chosen, kept = best
    report = kept.collapse(*args)
    if report.collapsed:
        words = f"the best of {len(objectives)} trainings, seed {chosen}: {report}"
        warnings.warn(words, CollapseWarning, stacklevel=2)
    return Restarts(kept, chosen, objectives, report)


def window_labels(x: Tensor, num_tasks: int, window: int, seed: int) -> Tensor:
    """Return first guesses of the tasks: k-means on the means of short windows.

    A window much shorter than a block holds one task, mostly, and its mean scatters less than its
    single observations. Centres are drawn by k-means++ (Arthur and Vassilvitskii 2007).

    Args:
        x: sequences, ``(B, T)`` or ``(B, T, D)``.
        num_tasks: K.
        window: steps of a window, at most T; the last one of a sequence may be shorter.
        seed: of the draw.

    Returns:
        Task ids, ``(B, T)``, for ``GradientEM.step(..., labels=...)`` in the first steps.

    Raises:
        ValueError: for a window that does not fit, or fewer windows than tasks.

    >>> x = torch.tensor([[0.1, 0.2, 0.1, 0.9, 0.8, 0.9]])
    >>> labels = window_labels(x, num_tasks=2, window=3, seed=0)
    >>> labels == labels[0, 0]
    tensor([[ True,  True,  True, False, False, False]])
    """
    from sklearn.cluster import KMeans  # here, so that the package loads without it

    if not 1 <= window <= x.shape[1]:
        raise ValueError(f"window must lie in 1 .. {x.shape[1]}, the steps of x; got {window}")
    windows = x.detach().split(window, dim=1)
    means = torch.stack([w.mean(1) for w in windows], 1)
    features = means.reshape(means.shape[:2].numel(), -1).cpu().numpy()
    if len(features) < num_tasks:
        raise ValueError(
            f"x has {len(features)} windows of {window} steps, fewer than its {num_tasks} tasks: "
            "take shorter windows, or more data"
        )
    clusters = KMeans(num_tasks, n_init=1, random_state=seed)
    ids = clusters.fit_predict(features)
    tasks = torch.as_tensor(ids, dtype=torch.long, device=x.device).reshape(means.shape[:2])
    return tasks.repeat_interleave(window, dim=1)[:, : x.shape[1]]
