"""Priors over tasks that are learned in closed form: independent tasks, and tasks that switch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gbi_pyro._arrays import as_tensor
from gbi_pyro.inference.hmm import HMMPosterior, hmm_posterior
from gbi_pyro.inference.paths import Paths
from gbi_pyro.posterior import entropy
from gbi_pyro.sites import simplex_tolerance

LearnTransition = Literal["nothing", "hazard", "full"]


class Counts(NamedTuple):
    """How often each task begins and follows another, in expectation under a posterior.

    Attributes:
        initial: of the first (or the only) task, ``(K,)``.
        transition: of pairs of neighbours, rows the task left, ``(K, K)``; zero without a chain.
    """

    initial: Tensor
    transition: Tensor

    def discounted(self, rate: float, new: Counts) -> Counts:
        """Return (1 - rate) self + new: the memory of 1 / rate batches."""
        return Counts(*(n + (1 - rate) * old for old, n in zip(self, new, strict=True)))


class Explained(NamedTuple):
    """The exact posterior over tasks under a prior.

    Attributes:
        log_probs: log q(z), ``(..., K)``.
        log_evidence: log p(x) of each element, or of each sequence of a chain, ``(...)``.
        entropy: H(q) of all tasks together, a scalar.
        counts: what the prior learns from.
        paths: the joint posterior of a chain's steps.
    """

    log_probs: Tensor
    log_evidence: Tensor
    entropy: Tensor
    counts: Counts
    paths: Paths | None = None


@dataclass(frozen=True)
class TaskPrior:
    """Tasks drawn independently, z ~ Categorical(pi), with a Dirichlet prior over pi.

    Args:
        log_probs: log pi, ``(K,)``.
        learn: whether EM updates pi: pi_k proportional to its expected count + pseudo_count.
        pseudo_count: of each task, >= 0: the Dirichlet concentration minus one.

    Raises:
        ValueError: for rows that are not probabilities, or a negative pseudo-count.

    >>> prior = TaskPrior(torch.tensor([0.5, 0.5]).log(), learn=True, pseudo_count=1.0)
    >>> learned = prior.updated(Counts(torch.tensor([6.0, 2.0]), torch.zeros(2, 2)))
    >>> [round(p, 3) for p in learned.log_probs.exp().tolist()]
    [0.7, 0.3]
    """

    log_probs: Tensor = field(repr=False)
    learn: bool = False
    pseudo_count: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "log_probs", _checked("log_probs", self.log_probs, 1))
        _check_counts(pseudo_count=self.pseudo_count)

    @classmethod
    def uniform(cls, num_tasks: int, **options: Any) -> TaskPrior:
        """Return the prior that expects each of K tasks equally."""
        if num_tasks < 1:
            raise ValueError(f"num_tasks must be at least 1, got {num_tasks}")
        return cls(torch.full((num_tasks,), 1 / num_tasks).log(), **options)

    @property
    def num_tasks(self) -> int:
        """K, the number of tasks."""
        return len(self.log_probs)

    @property
    def allowed(self) -> Tensor:
        """Which tasks can occur, ``(K,)``."""
        return ~self.log_probs.isneginf()

    def explain(self, log_likelihoods: Tensor, padding: Tensor | None = None) -> Explained:
        """Return the posterior softmax_k(log p(x | k) + log pi_k), from ``(..., K)``.

        Elements without data, ``padding`` ``(...)``, are not counted.
        """
        log_likelihoods = as_tensor(log_likelihoods, "log_likelihoods")
        joint = log_likelihoods + self.log_probs.to(log_likelihoods)
        log_evidence = joint.logsumexp(-1)
        _check_explained(log_evidence)
        log_probs = joint - log_evidence.unsqueeze(-1)
        q = log_probs.exp()
        H = (entropy(log_probs) * _real(q, padding)).sum()
        return Explained(log_probs, log_evidence, H, self.counts(q, padding))

    def counts(self, q: Tensor, padding: Tensor | None = None) -> Counts:
        """Return the counts of known tasks q, ``(..., K)``, one-hot or independent."""
        K, real = q.shape[-1], _real(q, padding)
        return Counts((q * real.unsqueeze(-1)).reshape(-1, K).sum(0), q.new_zeros(K, K))

    def expected(self, counts: Counts) -> Tensor:
        """Return E_q log p(z), a scalar, from the counts of q."""
        return _times_log(counts.initial, self.log_probs)

    @property
    def log_density(self) -> float:
        """The log density of pi under its Dirichlet prior, up to a constant."""
        pseudo = torch.full_like(self.log_probs, self.pseudo_count)
        return _times_log(_where_allowed(pseudo, self.log_probs), self.log_probs).item()

    def updated(self, counts: Counts) -> TaskPrior:
        """Return the prior that these counts make most probable."""
        if not self.learn:
            return self
        return replace(
            self, log_probs=_most_probable(counts.initial, self.log_probs, self.pseudo_count)
        )

    def without(self, tasks: list[int]) -> TaskPrior:
        """Return the prior with some tasks forbidden: they keep their number and never occur."""
        return replace(self, log_probs=_forbid(self.log_probs, tasks))


@dataclass(frozen=True)
class TaskChain:
    """Tasks that switch over time, a hidden Markov chain: z_1 ~ pi, z_t ~ A[z_t-1], learnable.

    A sticky prior over A, ``stay`` and ``switch`` pseudo-counts, tells blocks from noise before
    there is any data: a Beta prior of the hazard, or a Dirichlet prior of each row of A.

    Args:
        log_initial: log pi, ``(K,)``.
        log_transition: log A, rows the task left, ``(K, K)``.
        learn_initial: whether EM updates pi. One sequence says little of it.
        learn_transition: ``"nothing"``; ``"hazard"``, one probability of leaving any task, where to
            as it is; or ``"full"``, every row of A.
        stay, switch: pseudo-counts >= 0 of steps that keep the task and of steps that leave it, in
            all for the hazard and per row for ``"full"`` (spread over the other tasks).
        time: the name of the plate over time; without it the plate named ``"time"``, or the only
            plate of the task site.

    Raises:
        ValueError: for rows that are not probabilities, or negative pseudo-counts.

    >>> chain = TaskChain.sticky(3, hazard=0.1, learn_transition="hazard")
    >>> left = torch.tensor([[8.0, 1.0, 1.0], [0.0, 8.0, 2.0], [0.0, 0.0, 20.0]])
    >>> round(chain.updated(Counts(torch.zeros(3), left)).hazard, 3)
    0.1
    """

    log_initial: Tensor = field(repr=False)
    log_transition: Tensor = field(repr=False)
    learn_initial: bool = False
    learn_transition: LearnTransition = "nothing"
    stay: float = 0.0
    switch: float = 0.0
    time: str | None = None

    def __post_init__(self) -> None:
        for name, ndim in (("log_initial", 1), ("log_transition", 2)):
            object.__setattr__(self, name, _checked(name, getattr(self, name), ndim))
        K = len(self.log_initial)
        if self.log_transition.shape != (K, K):
            raise ValueError(
                f"log_transition has shape {tuple(self.log_transition.shape)}, expected {(K, K)}, "
                "a row for each task of log_initial"
            )
        if self.learn_transition not in ("nothing", "hazard", "full"):
            raise ValueError(
                "learn_transition must be 'nothing', 'hazard' or 'full', got "
                f"{self.learn_transition!r}"
            )
        _check_counts(stay=self.stay, switch=self.switch)

    @classmethod
    def sticky(cls, num_tasks: int, hazard: float, **options: Any) -> TaskChain:
        """Return the chain that leaves its task with probability ``hazard``, for any other."""
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
        return len(self.log_initial)

    @property
    def hazard(self) -> float:
        """The probability of leaving a task, averaged over the tasks that are allowed."""
        leaving = 1 - self.log_transition.diagonal().exp()
        return leaving[self.allowed].mean().item()

    def explain(self, log_likelihoods: Tensor, padding: Tensor | None = None) -> Explained:
        """Return the smoothed posterior p(z_t | x_1..T), from log p(x_t | k), ``(..., T, K)``.

        Steps after the last of a sequence, ``padding`` ``(..., T)``, are neither counted nor
        uncertain.
        """
        log_likelihoods = as_tensor(log_likelihoods, "log_likelihoods")
        log_transition = self.log_transition.to(log_likelihoods)
        found = hmm_posterior(
            self.log_initial.to(log_likelihoods), log_transition, log_likelihoods, viterbi=False
        )
        q, log_pairs = found.log_smoothed.exp(), log_pairwise(found, log_transition)
        real = _real(q, padding)
        # H(z_1..T) = H(z_1) + the sum of H(z_t+1 | z_t) = H(z_t, z_t+1) - H(z_t).
        steps = entropy(found.log_smoothed)
        turns = entropy(log_pairs.flatten(-2)) - steps[..., :-1]
        H = (steps[..., 0] * real[..., 0]).sum() + (turns * real[..., 1:]).sum()
        pairs = (log_pairs.exp() * real[..., 1:, None, None]).reshape(-1, *log_transition.shape)
        counts = Counts(_first(q, real), pairs.sum(0))
        return Explained(found.log_smoothed, found.log_evidence, H, counts, found.paths)

    def counts(self, q: Tensor, padding: Tensor | None = None) -> Counts:
        """Return the counts of known tasks q, ``(..., T, K)``, one-hot or independent."""
        K, real = self.num_tasks, _real(q, padding)
        before, after = q[..., :-1, :], q[..., 1:, :] * real[..., 1:, None]
        return Counts(_first(q, real), before.reshape(-1, K).mT @ after.reshape(-1, K))

    def expected(self, counts: Counts) -> Tensor:
        """Return E_q log p(z_1..T), a scalar, from the counts of q."""
        return _times_log(counts.initial, self.log_initial) + _times_log(
            counts.transition, self.log_transition
        )

    @property
    def log_density(self) -> float:
        """The log density of the hazard, or of A, under its sticky prior, up to a constant."""
        if self.learn_transition == "hazard":
            stay_or_leave = self.log_transition.new_tensor([1 - self.hazard, self.hazard])
            pseudo = self.log_transition.new_tensor([self.stay, self.switch])
            return _times_log(pseudo, stay_or_leave.log()).item()
        if self.learn_transition == "full":
            return _times_log(self._pseudo_counts(), self.log_transition).item()
        return 0.0

    def updated(self, counts: Counts) -> TaskChain:
        """Return the chain that these counts make most probable."""
        log_initial, log_transition = self.log_initial, self.log_transition
        if self.learn_initial:
            log_initial = _most_probable(counts.initial, log_initial, 0.0)
        if self.learn_transition == "full":
            log_transition = _most_probable(
                counts.transition, log_transition, self._pseudo_counts()
            )
        if self.learn_transition == "hazard":
            stays = counts.transition.diagonal().sum().item()
            switches = counts.transition.sum().item() - stays
            total = stays + switches + self.stay + self.switch
            if total > 0:
                hazard = torch.where(self.allowed, (switches + self.switch) / total, 1.0)
                log_transition = _with_hazard(log_transition, hazard)
        return replace(self, log_initial=log_initial, log_transition=log_transition)

    def without(self, tasks: list[int]) -> TaskChain:
        """Return the chain with some tasks forbidden: they keep their number and never occur.

        The others are left as often as before, for those that remain.
        """
        leaving = 1 - self.log_transition.diagonal().exp()
        leaving[tasks] = 1.0
        return replace(
            self,
            log_initial=_forbid(self.log_initial, tasks),
            log_transition=_with_hazard(_forbid(self.log_transition, tasks), leaving),
        )

    @property
    def allowed(self) -> Tensor:
        """Which tasks can occur after the first step, ``(K,)``."""
        return ~self.log_transition.isneginf().all(0)

    def _pseudo_counts(self) -> Tensor:
        K = self.num_tasks
        pseudo = torch.full((K, K), self.switch / max(K - 1, 1)).fill_diagonal_(self.stay)
        return _where_allowed(pseudo.to(self.log_transition), self.log_transition)


def log_pairwise(posterior: HMMPosterior, log_transition: Tensor) -> Tensor:
    """Return log p(z_t = i, z_t+1 = j | x_1..T) of a hidden Markov chain.

    p(i, j) = p(z_t = i | x_1..t) A_ij p(z_t+1 = j | x_1..T) / p(z_t+1 = j | x_1..t): what comes
    after t says of z_t only what it says of z_t+1. No further recursion is needed.

    Args:
        posterior: of the chain, by ``hmm_posterior``.
        log_transition: log A, ``(..., K, K)``.

    Returns:
        ``(..., T - 1, K, K)``.

    >>> initial, transition = torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    >>> emission = torch.tensor([[1.0, 3.0], [1.0, 1.0]])
    >>> found = hmm_posterior(initial.log(), transition.log(), emission.log())
    >>> log_pairwise(found, transition.log()).exp()
    tensor([[[0.2250, 0.0250], [0.0750, 0.6750]]])
    """
    later = posterior.log_smoothed[..., 1:, :] - posterior.log_predicted[..., 1:, :]
    later = later.nan_to_num(nan=-torch.inf)  # a task that was never possible: 0 / 0
    filtered = posterior.log_filtered[..., :-1, :].unsqueeze(-1)
    return filtered + log_transition.unsqueeze(-3) + later.unsqueeze(-2)


def _real(q: Tensor, padding: Tensor | None) -> Tensor:
    """Return 1 for each element that counts, 0 for padding: ``q.shape[:-1]``."""
    return torch.ones_like(q[..., 0]) if padding is None else (~padding).to(q).expand(q.shape[:-1])


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


def _most_probable(counts: Tensor, log_probs: Tensor, pseudo: Tensor | float) -> Tensor:
    """Return log of (counts + pseudo), normalised; forbidden tasks stay so, empty rows as is."""
    total = (counts.to(log_probs) + pseudo).masked_fill(log_probs.isneginf(), 0.0)
    norm = total.sum(-1, keepdim=True)
    return torch.where(norm > 0, (total / norm.masked_fill(norm == 0, 1.0)).log(), log_probs)


def _times_log(counts: Tensor, log_probs: Tensor) -> Tensor:
    """Return sum counts log p, where what never happens may be forbidden."""
    log_probs = log_probs.to(counts)
    return torch.where(counts == 0, 0.0, counts * log_probs).sum()


def _where_allowed(pseudo: Tensor, log_probs: Tensor) -> Tensor:
    return pseudo.masked_fill(log_probs.isneginf(), 0.0)


def _forbid(log_probs: Tensor, tasks: list[int]) -> Tensor:
    log_probs = log_probs.clone()
    log_probs[..., tasks] = -torch.inf
    total = log_probs.logsumexp(-1, keepdim=True)
    if bool(total.isneginf().any()):
        raise ValueError(
            "no task is left: expected to keep at least one task that the prior allows, and that "
            "every kept task can be followed by one"
        )
    return log_probs - total


def _checked(name: str, value: Tensor | ArrayLike, ndim: int) -> Tensor:
    """Return log probabilities in float64: a few numbers, whose rows should sum to 1 exactly."""
    value = as_tensor(value, name)
    total = torch.tensor(1.0)
    if value.ndim == ndim and value.shape[-1] and value.is_floating_point():
        total = value.double().logsumexp(-1)
    tolerance = simplex_tolerance(value.dtype) if value.is_floating_point() else 0.0
    # Written so that a NaN fails it.
    if not bool((total.abs() < tolerance).all()):
        raise ValueError(
            f"{name} must hold log probabilities over its last dimension, with {ndim} "
            f"dimension(s); got shape {tuple(value.shape)}: apply log_softmax(-1)"
        )
    return value.double().log_softmax(-1)


def _check_counts(**counts: float) -> None:
    for name, value in counts.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a pseudo-count >= 0, got {value}")


def _check_explained(log_evidence: Tensor) -> None:
    bad = log_evidence.isneginf()
    if bool(bad.any()):
        raise ValueError(
            f"no task can have made the data of element {tuple(bad.nonzero()[0].tolist())}: every "
            "task is forbidden by the prior, its label or its likelihood"
        )
