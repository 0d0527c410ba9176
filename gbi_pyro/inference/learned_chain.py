"""A chain over tasks whose start and transitions are parameters of Pyro."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pyro
import torch
from torch import Tensor
from torch.distributions import constraints

from gbi_pyro.inference.task_chain import TaskChain


@dataclass(frozen=True)
class LearnedChain:
    r"""A prior for ``marginalize``: a ``TaskChain`` whose numbers are ``pyro.param`` sites.

    ``<name>_transition`` holds the rows of A, ``<name>_initial`` the start if it is free, and
    ``<name>_slopes``, ``(D, K, K - 1)``, what inputs add to the log odds of going to each task but
    the first: A_t[i] = softmax(log A[i] + (0, u_t . b[:, i])).

    Args:
        num_tasks: K.
        initial: ``"free"``, a parameter; ``"uniform"``; ``"stationary"``; or log probabilities.
        stay: the probability of staying that the transitions begin with.
        inputs: a function of the model's arguments that returns u, ``(..., T, D)``.
        of: whose input drives a move, see ``TaskChain``.
        time: the name of the plate over time, see ``TaskChain``.
        name: what the names of the parameters begin with.

    Raises:
        ValueError: for fewer than one task, or a probability outside (0, 1).

    >>> chain = LearnedChain(2, initial="stationary")()
    >>> chain.log_transition.exp()
    tensor([[0.9000, 0.1000], [0.1000, 0.9000]], dtype=torch.float64, ...)
    """

    num_tasks: int
    initial: Tensor | Literal["free", "uniform", "stationary"] = "free"
    stay: float = 0.9
    inputs: Callable[..., Tensor] | None = None
    of: Literal["left", "entered"] = "left"
    time: str | None = None
    name: str = "chain"

    def __post_init__(self) -> None:
        if self.num_tasks < 1 or not 0 < self.stay < 1:
            raise ValueError(
                f"a chain takes num_tasks >= 1 and 0 < stay < 1, got {self.num_tasks} and "
                f"{self.stay}"
            )

    def __call__(self, *args: Any, **kwargs: Any) -> TaskChain:
        """Return the chain at the present values of the parameters."""
        K, simplex = self.num_tasks, constraints.simplex
        initial: Any = self.initial
        if K == 1:
            return TaskChain(torch.zeros(1), torch.zeros(1, 1), time=self.time)
        rows = torch.full((K, K), (1 - self.stay) / (K - 1), dtype=torch.float64)
        rows = rows.fill_diagonal_(self.stay)
        A = pyro.param(f"{self.name}_transition", rows, constraint=simplex)
        if isinstance(initial, str) and initial == "free":
            even = torch.full((K,), 1 / K, dtype=torch.float64)
            initial = pyro.param(f"{self.name}_initial", even, constraint=simplex).log()
        options: dict[str, Any] = {}
        if self.inputs is not None:
            u = torch.as_tensor(self.inputs(*args, **kwargs)).double()
            zeros = torch.zeros((u.shape[-1], K, K - 1), dtype=torch.float64)
            slopes = pyro.param(f"{self.name}_slopes", zeros)
            options = {
                "inputs": u,
                "slopes": torch.nn.functional.pad(slopes, (1, 0)),
                "of": self.of,
            }
        return TaskChain(initial, A.log(), time=self.time, **options)
