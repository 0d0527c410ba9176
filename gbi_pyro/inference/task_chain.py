"""Tasks that switch over time: a hidden (semi-)Markov chain, constant or driven by inputs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any, Literal

import torch
from pyro.poutine.util import is_validation_enabled
from torch import Tensor

from gbi_pyro._arrays import as_tensor, check_order
from gbi_pyro.inference._counts import (
    Counts,
    Explained,
    check_counts,
    checked_log_probs,
    forbid,
    most_probable,
    real_elements,
    times_log,
    where_allowed,
)
from gbi_pyro.inference.hmm import (
    HMMPosterior,
    hmm_log_evidence,
    hmm_posterior,
    hsmm_posterior,
    log_pairwise,
)
from gbi_pyro.posterior import entropy

STARTS = ("uniform", "stationary")
LearnTransition = Literal["nothing", "hazard", "full"]


@dataclass(frozen=True)
class TaskChain:
    r"""Tasks that switch over time, a hidden Markov chain: z_1 ~ pi, z_t ~ A[z_t-1], learnable.

    Inputs u_t may drive it: A_t[i, j] = softmax_j(log A[i, j] + u_t . b[:, i, j]). Blocks may have
    explicit lengths; A is then between blocks (see ``hsmm_posterior``).

    A sticky prior over A, ``stay`` and ``switch`` pseudo-counts, tells blocks from noise before
    there is any data: a Beta prior of the hazard, or a Dirichlet prior of each row of A.

    Args:
        initial: log pi, ``(K,)``; ``"uniform"``; or ``"stationary"``, the pi with pi A = pi.
        log_transition: log A, rows the task left, ``(K, K)``. K may be 1, no switching at all.
        learn_initial: whether EM updates pi. One sequence says little of it.
        learn_transition: ``"nothing"``; ``"hazard"``, one probability of leaving any task, where to
            as it is; or ``"full"``, every row of A.
        stay, switch: pseudo-counts >= 0 of steps that keep the task and of steps that leave it, in
            all for the hazard and per row for ``"full"`` (spread over the other tasks).
        time: the name of the plate over time; without it the plate named ``"time"``, or the only
            plate of the task site.
        slopes: b, ``(D, K, K)``, where inputs drive the transitions.
        inputs: u, ``(..., T, D)``: a row for each step.
        of: whose input drives the move from step t to t + 1: ``"left"``, u_t, as depmixS4 has it,
            or ``"entered"``, u_t+1, as regressions of the present state have it.
        log_duration: log p(a block of task k lasts d steps), ``(K, D)``.

    Raises:
        ValueError: for rows that are not probabilities, negative pseudo-counts, slopes without
            inputs, a stationary start or learned transitions where inputs drive them.

    >>> chain = TaskChain.sticky(3, hazard=0.1, learn_transition="hazard")
    >>> left = torch.tensor([[8.0, 1.0, 1.0], [0.0, 8.0, 2.0], [0.0, 0.0, 20.0]])
    >>> round(chain.updated(Counts(torch.zeros(3), left)).hazard, 3)
    0.1
    """

    initial: Tensor | Literal["uniform", "stationary"] = field(repr=False)
    log_transition: Tensor = field(repr=False)
    learn_initial: bool = False
    learn_transition: LearnTransition = "nothing"
    stay: float = 0.0
    switch: float = 0.0
    time: str | None = None
    slopes: Tensor | None = field(default=None, repr=False)
    inputs: Tensor | None = field(default=None, repr=False)
    of: Literal["left", "entered"] = "left"
    log_duration: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        A = checked_log_probs("log_transition", self.log_transition, 2)
        object.__setattr__(self, "log_transition", A)
        if not isinstance(self.initial, str):
            object.__setattr__(self, "initial", checked_log_probs("initial", self.initial, 1))
        elif self.initial not in STARTS or (self.initial == "stationary" and self.driven):
            raise ValueError(
                "initial should be log probabilities, 'uniform', or, without inputs, "
                f"'stationary'; got {self.initial!r}"
            )
        elif self.learn_initial:
            raise ValueError(f"learn_initial is for log probabilities; got {self.initial!r}")
        K = len(A) if isinstance(self.initial, str) else len(self.initial)
        if A.shape != (K, K):
            raise ValueError(
                f"log_transition has shape {tuple(A.shape)}, expected {(K, K)}, a row for each "
                "task of initial"
            )
        if self.log_duration is not None:
            durations = checked_log_probs("log_duration", self.log_duration, 2)
            object.__setattr__(self, "log_duration", durations)
        self._check_inputs(K)
        if self.learn_transition not in ("nothing", "hazard", "full"):
            raise ValueError(
                "learn_transition must be 'nothing', 'hazard' or 'full', got "
                f"{self.learn_transition!r}"
            )
        check_counts(stay=self.stay, switch=self.switch)

    @classmethod
    def sticky(cls, num_tasks: int, hazard: float, **options: Any) -> TaskChain:
        """Return the chain that leaves its task with probability ``hazard``, for any other."""
        if not (isinstance(num_tasks, Integral) and isinstance(hazard, Real)):
            raise TypeError(
                "a sticky chain takes num_tasks, an integer, and hazard, a number, got a "
                f"{type(num_tasks).__name__} and a {type(hazard).__name__}"
            )
        if num_tasks < 1 or not 0 < hazard < 1:
            raise ValueError(
                f"a sticky chain takes num_tasks >= 1 and 0 < hazard < 1, got {num_tasks} and "
                f"{hazard}: use 1 / (mean block length)"
            )
        if num_tasks == 1:
            return cls(torch.zeros(1), torch.zeros(1, 1), **options)
        transition = torch.full((num_tasks, num_tasks), hazard / (num_tasks - 1))
        initial = torch.full((num_tasks,), 1 / num_tasks)
        return cls(initial.log(), transition.fill_diagonal_(1 - hazard).log(), **options)

    @property
    def num_tasks(self) -> int:
        """K, the number of tasks."""
        return len(self.log_transition)

    @property
    def hazard(self) -> float:
        """The probability of leaving a task, averaged over the tasks that are allowed."""
        leaving = 1 - self.log_transition.diagonal().exp()
        return leaving[self.allowed].mean().item()

    @property
    def log_initial(self) -> Tensor:
        """Log pi, ``(K,)``."""
        if not isinstance(self.initial, str):
            return self.initial
        A = self.log_transition.exp()
        K = len(A)
        if self.initial == "uniform":
            return A.new_full((K,), 1 / K).log()
        # pi (A - 1) = 0 and sum pi = 1: the last of the K dependent equations makes way.
        equations = torch.cat([(A - torch.eye(K).to(A)).mT[:-1], A.new_ones(1, K)])
        unit = torch.eye(K).to(A)[-1]
        pi: Tensor = torch.linalg.solve(equations, unit)
        return pi.clamp_min(0.0).log().log_softmax(-1)

    def _check_inputs(self, K: int) -> None:
        if self.of not in ("left", "entered"):
            raise ValueError(f"of should be 'left' or 'entered', got {self.of!r}")
        if (self.slopes is None) != (self.inputs is None):
            raise ValueError(
                "slopes and inputs belong together: expected both or neither, got "
                f"{'inputs' if self.slopes is None else 'slopes'} alone"
            )
        if self.slopes is None or self.inputs is None:
            return
        slopes = as_tensor(self.slopes, "slopes").to(self.log_transition)
        inputs = as_tensor(self.inputs, "inputs").to(self.log_transition)
        if slopes.ndim != 3 or slopes.shape[1:] != (K, K) or inputs.shape[-1:] != slopes.shape[:1]:
            raise ValueError(
                f"slopes should be (D, {K}, {K}) and inputs (..., T, D), got {tuple(slopes.shape)} "
                f"and {tuple(inputs.shape)}: one input takes unsqueeze(-1)"
            )
        if is_validation_enabled() and not bool(inputs.isfinite().all()):
            raise ValueError("inputs should be finite: fill what is missing or padded, with 0 say")
        object.__setattr__(self, "slopes", slopes)
        object.__setattr__(self, "inputs", inputs)
        if self.learn_transition != "nothing":
            raise ValueError(
                f"learn_transition={self.learn_transition!r} is for constant transitions; those "
                "that inputs drive are fitted by gradient: fit_marginal"
            )

    @property
    def driven(self) -> bool:
        """Whether inputs drive the transitions."""
        return self.slopes is not None

    @property
    def transitions(self) -> Tensor:
        """Log A, ``(K, K)``; where inputs drive it ``(..., T - 1, K, K)``."""
        if self.inputs is None:
            return self.log_transition
        return self.transitions_at(
            self.inputs[..., :-1, :] if self.of == "left" else self.inputs[..., 1:, :]
        )

    def transitions_at(self, inputs: Tensor) -> Tensor:
        """Return log A where inputs are u, ``(..., D)``: ``(..., K, K)``.

        Raises:
            ValueError: for a chain that no input drives, or inputs of another D.
        """
        if self.slopes is None:
            raise ValueError("this chain has no slopes: no input drives it")
        u = as_tensor(inputs, "inputs").to(self.slopes)
        if u.shape[-1:] != self.slopes.shape[:1]:
            raise ValueError(
                f"inputs should be (..., {len(self.slopes)}), a column for each slope; got "
                f"{tuple(u.shape)}: one input takes unsqueeze(-1)"
            )
        driven = torch.einsum("...d,dij->...ij", u, self.slopes)
        return (self.log_transition + driven).log_softmax(-1)

    def posterior(self, log_likelihoods: Tensor, *, viterbi: bool = False) -> HMMPosterior:
        """Return the exact posterior of the chain, from log p(x_t | k), ``(..., T, K)``.

        Args:
            log_likelihoods: ``(..., T, K)``.
            viterbi: whether to look for the most probable path too.
        """
        x = as_tensor(log_likelihoods, "log_likelihoods")
        initial, transition = self.log_initial.to(x), self.transitions.to(x)
        if self.log_duration is None:
            return hmm_posterior(initial, transition, x, per_step=self.driven, viterbi=viterbi)
        lengths = self.log_duration.to(x)
        return hsmm_posterior(
            initial, transition, x, lengths, per_step=self.driven, viterbi=viterbi
        )

    def log_evidence(self, log_likelihoods: Tensor) -> Tensor:
        """Return log p(x_1..T) alone, ``(...)``, from log p(x_t | k), ``(..., T, K)``."""
        x = as_tensor(log_likelihoods, "log_likelihoods")
        if self.log_duration is not None:
            return self.posterior(x).log_evidence
        initial, transition = self.log_initial.to(x), self.transitions.to(x)
        return hmm_log_evidence(initial, transition, x, per_step=self.driven)

    def explain(self, log_likelihoods: Tensor, padding: Tensor | None = None) -> Explained:
        """Return the smoothed posterior p(z_t | x_1..T), from log p(x_t | k), ``(..., T, K)``.

        Steps after the last of a sequence, ``padding`` ``(..., T)``, are neither counted nor
        uncertain.
        """
        return self.explained(self.posterior(log_likelihoods), padding)

    def explained(self, found: HMMPosterior, padding: Tensor | None = None) -> Explained:
        """Return what ``explain`` does, of a posterior of this chain."""
        if self.log_duration is not None:
            raise ValueError(
                "blocks of explicit lengths cannot be counted step by step, as EM does: take "
                "fit_marginal, or BayesFilter for the posterior"
            )
        log_transition = self.transitions.to(found.log_smoothed)
        q = found.log_smoothed.exp()
        log_pairs = log_pairwise(found, log_transition, per_step=self.driven)
        real = real_elements(q, padding)
        # H(z_1..T) = H(z_1) + the sum of H(z_t+1 | z_t) = H(z_t, z_t+1) - H(z_t).
        steps = entropy(found.log_smoothed)
        turns = entropy(log_pairs.flatten(-2)) - steps[..., :-1]
        H = (steps[..., 0] * real[..., 0]).sum() + (turns * real[..., 1:]).sum()
        pairs = (log_pairs.exp() * real[..., 1:, None, None]).reshape(
            -1, *log_transition.shape[-2:]
        )
        counts = Counts(_first(q, real), pairs.sum(0))
        return Explained(found.log_smoothed, found.log_evidence, H, counts)

    def counts(self, q: Tensor, padding: Tensor | None = None) -> Counts:
        """Return the counts of known tasks q, ``(..., T, K)``, one-hot or independent."""
        K, real = self.num_tasks, real_elements(q, padding)
        before, after = q[..., :-1, :], q[..., 1:, :] * real[..., 1:, None]
        return Counts(_first(q, real), before.reshape(-1, K).mT @ after.reshape(-1, K))

    def expected(self, counts: Counts) -> Tensor:
        """Return E_q log p(z_1..T), a scalar, from the counts of q."""
        return times_log(counts.initial, self.log_initial) + times_log(
            counts.transition, self.log_transition
        )

    @property
    def log_density(self) -> float:
        """The log density of the hazard, or of A, under its sticky prior, up to a constant."""
        if self.learn_transition == "hazard":
            stay_or_leave = self.log_transition.new_tensor([1 - self.hazard, self.hazard])
            pseudo = self.log_transition.new_tensor([self.stay, self.switch])
            return times_log(pseudo, stay_or_leave.log()).item()
        if self.learn_transition == "full":
            return times_log(self._pseudo_counts(), self.log_transition).item()
        return 0.0

    def updated(self, counts: Counts) -> TaskChain:
        """Return the chain that these counts make most probable."""
        initial, log_transition = self.initial, self.log_transition
        if self.learn_initial:
            initial = most_probable(counts.initial, self.log_initial, 0.0)
        if self.learn_transition == "full":
            log_transition = most_probable(counts.transition, log_transition, self._pseudo_counts())
        if self.learn_transition == "hazard":
            stays = counts.transition.diagonal().sum().item()
            switches = counts.transition.sum().item() - stays
            total = stays + switches + self.stay + self.switch
            if total > 0:
                hazard = torch.where(self.allowed, (switches + self.switch) / total, 1.0)
                log_transition = _with_hazard(log_transition, hazard)
        return replace(self, initial=initial, log_transition=log_transition)

    def reordered(self, order: Any) -> TaskChain:
        """Return the chain with its tasks in another order.

        Args:
            order: at k the present id of the task that becomes k, ``(K,)``; see
                ``gbi_pyro.learning.order_tasks``.

        Raises:
            ValueError: for an order that does not hold each task once.

        >>> A = torch.tensor([[0.9, 0.1], [0.4, 0.6]])
        >>> TaskChain("uniform", A.log()).reordered([1, 0]).log_transition.exp()
        tensor([[0.6000, 0.4000], [0.1000, 0.9000]], dtype=...)
        """
        ids = check_order(order, self.num_tasks).to(self.log_transition.device)
        slopes, durations = self.slopes, self.log_duration
        return replace(
            self,
            initial=self.initial if isinstance(self.initial, str) else self.initial[ids],
            log_transition=self.log_transition[ids][:, ids],
            slopes=None if slopes is None else slopes[:, ids][:, :, ids],
            log_duration=None if durations is None else durations[ids],
        )

    def without(self, tasks: list[int]) -> TaskChain:
        """Return the chain with some tasks forbidden: they keep their number and never occur.

        The others are left as often as before, for those that remain.
        """
        leaving = 1 - self.log_transition.diagonal().exp()
        leaving[tasks] = 1.0
        return replace(
            self,
            initial=forbid(self.log_initial, tasks),
            log_transition=_with_hazard(forbid(self.log_transition, tasks), leaving),
        )

    @property
    def allowed(self) -> Tensor:
        """Which tasks can occur after the first step, ``(K,)``."""
        return ~self.log_transition.isneginf().all(0)

    def _pseudo_counts(self) -> Tensor:
        K = self.num_tasks
        pseudo = torch.full((K, K), self.switch / max(K - 1, 1)).fill_diagonal_(self.stay)
        return where_allowed(pseudo.to(self.log_transition), self.log_transition)


def _first(q: Tensor, real: Tensor) -> Tensor:
    """Return how often each task begins a sequence, ``(K,)``."""
    return (q[..., 0, :] * real[..., 0, None]).reshape(-1, q.shape[-1]).sum(0)


def _with_hazard(log_transition: Tensor, hazard: Tensor | float) -> Tensor:
    """Return A with other probabilities of leaving, shared out among the tasks as before.

    ``hazard`` is one for all, or ``(K,)``; a task with nowhere to go stays.
    """
    others = log_transition.exp().fill_diagonal_(0)
    total = others.sum(-1)
    leaving = torch.where(total > 0, hazard, 0.0)
    shares = others / total.masked_fill(total == 0, 1.0).unsqueeze(-1)
    return (shares * leaving.unsqueeze(-1) + torch.diag_embed(1 - leaving)).log()
