"""A chain over tasks whose start, transitions and block lengths are parameters of Pyro."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pyro
import torch
from torch import Tensor
from torch.distributions import constraints

from gbi_pyro.inference.task_chain import TaskChain

F64 = torch.float64


@dataclass(frozen=True)
class LearnedChain:
    r"""A prior for ``marginalize``: a ``TaskChain`` whose numbers are ``pyro.param`` sites.

    ``<name>_transition`` holds the rows of A, ``<name>_initial`` the start if it is free, and
    ``<name>_slopes``, ``(D, K, K - 1)``, what inputs add to the log odds of going to each task but
    the first: A_t[i] = softmax(log A[i] + (0, u_t . b[:, i])).

    With a law of durations blocks have explicit lengths, up to D steps, and A leads from a block to
    one of another task: ``<name>_transition`` is then ``(K, K - 1)``, the other tasks in their
    order (no parameter for two tasks), and slopes leave the first of these out. The law is

    - ``"negative binomial"``: d - 1 has mean m - 1 and variance (m - 1) + (m - 1)^2 / r; cut off
      after d = D and normalised, as in Johnson and Willsky (2013, Bayesian nonparametric
      hidden semi-Markov models, JMLR 14). ``<name>_duration_mean`` is m, of the law that is not cut
      off, and ``<name>_duration_dispersion`` is r, ``(K,)`` each. r = 1 is the geometric law of an
      ordinary chain; large r is a shifted Poisson law.
    - ``"free"``: any; ``<name>_duration`` holds its rows, ``(K, D)``.

    Args:
        num_tasks: K.
        initial: ``"free"``, a parameter; ``"uniform"``; ``"stationary"``; or log probabilities. A
            block begins at the first step; with durations ``"stationary"`` is over blocks.
        stay: the probability of staying that the transitions begin with; durations begin with the
            geometric law that it makes.
        inputs: a function of the model's arguments that returns u, ``(..., T, D)``.
        of: whose input drives a move, see ``TaskChain``.
        duration: the law of block lengths; None for an ordinary chain.
        max_duration: D, the longest block.
        time: the name of the plate over time, see ``TaskChain``.
        name: what the names of the parameters begin with.

    Raises:
        ValueError: for fewer than one task, a probability outside (0, 1), a law without a longest
            block or the other way round, and inputs where two tasks take turns.

    >>> chain = LearnedChain(2, initial="stationary", name="example")()
    >>> chain.log_transition.exp()
    tensor([[0.9000, 0.1000], [0.1000, 0.9000]], dtype=torch.float64, ...)
    >>> blocks = LearnedChain(2, duration="free", max_duration=3, stay=0.5, name="blocks")()
    >>> blocks.log_duration.exp()
    tensor([[0.5714, 0.2857, 0.1429], [0.5714, 0.2857, 0.1429]], ...)
    """

    num_tasks: int
    initial: Tensor | Literal["free", "uniform", "stationary"] = "free"
    stay: float = 0.9
    inputs: Callable[..., Tensor] | None = None
    of: Literal["left", "entered"] = "left"
    duration: Literal["negative binomial", "free"] | None = None
    max_duration: int | None = None
    time: str | None = None
    name: str = "chain"

    def __post_init__(self) -> None:
        if self.num_tasks < 1 or not 0 < self.stay < 1:
            raise ValueError(
                f"a chain takes num_tasks >= 1 and 0 < stay < 1, got {self.num_tasks} and "
                f"{self.stay}"
            )
        if self.duration not in (None, "negative binomial", "free"):
            raise ValueError(
                f"duration should be 'negative binomial', 'free' or None; got {self.duration!r}"
            )
        D = self.max_duration
        if (self.duration is None) != (D is None) or (D is not None and D < 1):
            raise ValueError(
                "duration and max_duration, the longest block in steps, belong together; got "
                f"{self.duration!r} and {D!r}"
            )
        if self.duration is not None and self.inputs is not None and self.num_tasks == 2:
            raise ValueError(
                "inputs should drive where blocks lead, but of two tasks each can lead to the "
                "other alone: leave inputs out, or duration"
            )

    def __call__(self, *args: Any, **kwargs: Any) -> TaskChain:
        """Return the chain at the present values of the parameters."""
        K, initial = self.num_tasks, self.initial
        if K == 1:
            return TaskChain(torch.zeros(1), torch.zeros(1, 1), time=self.time)
        log_A = self._log_transition()
        start: Any = initial
        if isinstance(initial, str) and initial == "free":
            start = self._rows("initial", torch.full((K,), 1 / K, dtype=F64)).log()
        options: dict[str, Any] = {}
        if self.inputs is not None:
            u = torch.as_tensor(self.inputs(*args, **kwargs)).double()
            options = {"inputs": u, "slopes": self._slopes(u.shape[-1]), "of": self.of}
        if self.duration is not None:
            options["log_duration"] = self._log_duration()
        return TaskChain(start, log_A, time=self.time, **options)

    def _rows(self, what: str, start: Tensor) -> Tensor:
        found: Tensor = pyro.param(f"{self.name}_{what}", start, constraint=constraints.simplex)
        return found

    def _log_transition(self) -> Tensor:
        K = self.num_tasks
        if self.duration is None:
            rows = torch.full((K, K), (1 - self.stay) / (K - 1), dtype=F64)
            return self._rows("transition", rows.fill_diagonal_(self.stay)).log()
        rows = torch.full((K, K - 1), 1 / (K - 1), dtype=F64)
        if K > 2:
            rows = self._rows("transition", rows)
        return _to_others(rows.log(), -torch.inf)

    def _slopes(self, D: int) -> Tensor:
        K, to_self = self.num_tasks, self.duration is None
        zeros = torch.zeros((D, K, K - 1 if to_self else K - 2), dtype=F64)
        slopes = torch.nn.functional.pad(pyro.param(f"{self.name}_slopes", zeros), (1, 0))
        return slopes if to_self else _to_others(slopes, 0.0)

    def _log_duration(self) -> Tensor:
        K, D, mean = self.num_tasks, self.max_duration, 1 / (1 - self.stay)
        assert D is not None
        means, ones = torch.full((K,), mean, dtype=F64), torch.ones(K, dtype=F64)
        if self.duration == "free":
            return self._rows("duration", negative_binomial(means, ones, D).exp()).log()
        site = f"{self.name}_duration"
        means = pyro.param(f"{site}_mean", means, constraint=constraints.greater_than(1.0))
        r = pyro.param(f"{site}_dispersion", ones, constraint=constraints.positive)
        return negative_binomial(means, r, D)


def negative_binomial(mean: Tensor, dispersion: Tensor, max_duration: int) -> Tensor:
    """Return log p(a block lasts d steps), d = 1..D: negative binomial, cut off and normalised.

    Args:
        mean: m > 1 of the law that is not cut off, ``(K,)``.
        dispersion: r > 0; d - 1 has variance (m - 1) + (m - 1)^2 / r, ``(K,)``.
        max_duration: D.

    Returns:
        ``(K, D)``.

    >>> negative_binomial(torch.tensor([2.0]), torch.tensor([1.0]), 4).exp()  # geometric
    tensor([[0.5333, 0.2667, 0.1333, 0.0667]])
    """
    more = torch.arange(max_duration, dtype=mean.dtype, device=mean.device)  # d - 1
    m, r = (mean - 1).unsqueeze(-1), dispersion.unsqueeze(-1)
    m = m.clamp_min(torch.finfo(m.dtype).eps)  # 0 log 0 where every block lasts one step
    # What does not depend on d goes with the normalisation.
    log_p = (more + r).lgamma() - (more + 1).lgamma() - more * (r / m).log1p()
    return log_p.log_softmax(-1)


def _to_others(rows: Tensor, own: float) -> Tensor:
    """Put rows over the other tasks, ``(..., K, K - 1)``, beside ``own`` at the task itself."""
    K = rows.shape[-2]
    others = [[j for j in range(K) if j != i] for i in range(K)]
    whole = torch.full((*rows.shape[:-1], K), own, dtype=rows.dtype)
    return whole.scatter(-1, torch.tensor(others).expand(rows.shape), rows)
