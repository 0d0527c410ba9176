"""Inputs of the width of a task that do or do not say which task it is (C1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from studies.ablations.config import generator

InputKind = Literal[
    "none", "none, same start", "true", "shuffled", "random", "constant", "frozen random"
]
TASK_INPUTS: tuple[InputKind, ...] = get_args(InputKind)
NONE, SAME_START, TRUE = TASK_INPUTS[:3]
CONTROLS: tuple[InputKind, ...] = TASK_INPUTS[3:]  # as wide as the true task, and empty of it
SLOTS = 256  # sequence indices that have a frozen point


@dataclass(frozen=True)
class TaskInput:
    r"""What a network is given in place of its task.

    A point of the simplex of K tasks for each step, or nothing:

    - ``"true"``: the task, one-hot.
    - ``"shuffled"``: the same one-hot vectors, permuted over all steps of all sequences at once.
      How often each comes is kept to the last one; given that, every order is equally probable
      whatever x is, so there is no information about the task.
    - ``"random"``: a fresh point for each step, uniform on the simplex.
    - ``"constant"``: the maximum-entropy point, always.
    - ``"frozen random"``: for each sequence index, the b-th sequence of every batch, one point
      drawn uniformly before training and kept. Batches are drawn anew, so the index says nothing
      about the task; a single stream has one index and so one point.
    - ``"none"``: nothing; the plain LSTM.
    - ``"none, same start"``: nothing, but its first weights are those of the networks that are
      given something, without the columns of the task. torch draws weights the smaller the more
      inputs a layer has, and that alone makes a difference.

    Args:
        kind: one of these.
        num_tasks: K.
        seed: of the frozen points.

    Raises:
        ValueError: for an unknown kind.

    >>> z, draw = torch.tensor([[0, 1, 1]]), torch.Generator().manual_seed(0)
    >>> TaskInput("true", 2, seed=0)(z, draw)
    tensor([[[1., 0.],
             [0., 1.],
             [0., 1.]]])
    >>> TaskInput("shuffled", 2, seed=0)(z, draw).sum((0, 1))
    tensor([1., 2.])
    """

    kind: InputKind
    num_tasks: int
    seed: int

    def __post_init__(self) -> None:
        if self.kind not in TASK_INPUTS:
            raise ValueError(f"kind must be one of {TASK_INPUTS}, got {self.kind!r}")

    @property
    def width(self) -> int | None:
        """K, or None for the plain LSTM: ``num_tasks`` of the network."""
        return None if self.kind in (NONE, SAME_START) else self.num_tasks

    def __call__(self, z: Tensor, draw: torch.Generator) -> Tensor | None:
        """Return the input for sequences of tasks.

        Args:
            z: true task ids, ``(sequence, time)``.
            draw: of what is drawn anew; data have a generator of their own, so that they are the
                same for every kind.

        Returns:
            ``(sequence, time, K)``, or None.

        Raises:
            ValueError: for more sequences than there are frozen points.
        """
        if self.width is None:
            return None
        if self.kind in (TRUE, "shuffled"):
            if self.kind == "shuffled":
                order = torch.randperm(z.numel(), generator=draw)
                z = z.flatten()[order].reshape(z.shape)
            return torch.nn.functional.one_hot(z, self.num_tasks).float()
        if self.kind == "random":
            return _uniform_points(draw, *z.shape, self.num_tasks)
        if self.kind == "constant":
            return torch.full((*z.shape, self.num_tasks), 1 / self.num_tasks)
        if len(z) > SLOTS:
            raise ValueError(f"{len(z)} sequences are more than the {SLOTS} frozen points")
        points = _uniform_points(generator(self.seed, "task input"), SLOTS, self.num_tasks)
        return points[: len(z), None].expand(*z.shape, -1)

    def on_one_task(self, z: Tensor, draw: torch.Generator) -> Tensor | None:
        """Return the input where a network is tested on one task, or on one that it never saw.

        Shuffled labels come from streams in which tasks are equally frequent, as in training;
        those of one task, shuffled, would be right. Everything else is as in training.

        Args:
            z: true task ids, ``(sequence, time)``; any where the task was never seen.
            draw: see ``__call__``.
        """
        if self.kind == "shuffled":
            z = (torch.arange(z.numel()) % self.num_tasks).reshape(z.shape)
        return self(z, draw)


def _uniform_points(draw: torch.Generator, *shape: int) -> Tensor:
    # Uniform on the simplex is Dirichlet(1), the normalised vector of independent exponentials.
    points = torch.empty(shape).exponential_(generator=draw)
    return points / points.sum(-1, keepdim=True)
