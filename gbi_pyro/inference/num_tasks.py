"""How many tasks there are, when nobody says: by held-out evidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class TaskChoice(NamedTuple):
    """The number of tasks chosen, and what it was chosen by.

    Attributes:
        num_tasks: K.
        scores: mean held-out log evidence of each candidate, in nats per element.
        standard_error: of the best candidate's mean.
    """

    num_tasks: int
    scores: dict[int, float]
    standard_error: float


def one_standard_error(log_evidence: Mapping[int, Tensor]) -> TaskChoice:
    """Choose the smallest K within one standard error of the best held-out evidence.

    More tasks than there are cost little evidence, so the largest mean alone would choose too many
    by chance (Breiman et al. 1984, Classification and regression trees, sec. 3.4.3). A model of one
    task is one whose other tasks are forbidden, ``TaskChain.sticky(2, hazard).without([1])``.

    A single stream holds its own future out: take log p(x_t | x_1..t-1) as ``OnlineEM`` returns it,
    summed over blocks of steps, from when the networks have learned. Over the whole stream (the
    prequential code length) the number of tasks counts for less than which start was lucky.

    Args:
        log_evidence: for each candidate K the log evidence of held-out elements that are
            independent (sequences, trials, blocks of steps), ``(N,)``, the same for all.

    Returns:
        The choice.

    Raises:
        ValueError: for no candidate, fewer than two elements, different ones, or numbers that are
            not finite.

    >>> import torch
    >>> flat = torch.tensor([-10.0, -12.0, -11.0, -9.0])
    >>> one_standard_error({1: flat, 2: flat + 5, 3: flat + 5.1}).num_tasks
    2
    """
    _check(log_evidence)
    scores = {k: v.double().mean().item() for k, v in log_evidence.items()}
    best = log_evidence[max(scores, key=lambda k: scores[k])].double()
    error = (best.std() / len(best) ** 0.5).item()
    near = [k for k, score in scores.items() if score >= max(scores.values()) - error]
    return TaskChoice(min(near), scores, error)


def _check(scores: Mapping[int, Tensor]) -> None:
    if not scores:
        raise ValueError("no candidate was given: expected scores of at least one number of tasks")
    shapes = {k: tuple(v.shape) for k, v in scores.items()}
    shape = next(iter(shapes.values()))
    if len(set(shapes.values())) > 1 or len(shape) != 1 or shape[0] < 2:
        raise ValueError(
            f"candidates were scored on elements of shapes {shapes}; expected the same ones for "
            "all, (N,) with N >= 2"
        )
    bad = [k for k, v in scores.items() if not bool(v.isfinite().all())]
    if bad:
        raise ValueError(
            f"the scores of K = {bad} hold NaN or infinite numbers; expected finite ones: look for "
            "a training that diverged"
        )
