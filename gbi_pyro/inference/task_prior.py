"""A prior over independent tasks, learned in closed form."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gbi_pyro._arrays import as_tensor
from gbi_pyro.inference import _counts
from gbi_pyro.inference._counts import Counts, Explained
from gbi_pyro.posterior import entropy


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
        object.__setattr__(
            self, "log_probs", _counts.checked_log_probs("log_probs", self.log_probs, 1)
        )
        _counts.check_counts(pseudo_count=self.pseudo_count)

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
        H = (entropy(log_probs) * _counts.real_elements(q, padding)).sum()
        return Explained(log_probs, log_evidence, H, self.counts(q, padding))

    def counts(self, q: Tensor, padding: Tensor | None = None) -> Counts:
        """Return the counts of known tasks q, ``(..., K)``, one-hot or independent."""
        K, real = q.shape[-1], _counts.real_elements(q, padding)
        return Counts((q * real.unsqueeze(-1)).reshape(-1, K).sum(0), q.new_zeros(K, K))

    def expected(self, counts: Counts) -> Tensor:
        """Return E_q log p(z), a scalar, from the counts of q."""
        return _counts.times_log(counts.initial, self.log_probs)

    @property
    def log_density(self) -> float:
        """The log density of pi under its Dirichlet prior, up to a constant."""
        pseudo = torch.full_like(self.log_probs, self.pseudo_count)
        return _counts.times_log(
            _counts.where_allowed(pseudo, self.log_probs), self.log_probs
        ).item()

    def updated(self, counts: Counts) -> TaskPrior:
        """Return the prior that these counts make most probable."""
        if not self.learn:
            return self
        return replace(
            self, log_probs=_counts.most_probable(counts.initial, self.log_probs, self.pseudo_count)
        )

    def without(self, tasks: list[int]) -> TaskPrior:
        """Return the prior with some tasks forbidden: they keep their number and never occur."""
        return replace(self, log_probs=_counts.forbid(self.log_probs, tasks))


def _check_explained(log_evidence: Tensor) -> None:
    bad = log_evidence.isneginf()
    if bool(bad.any()):
        raise ValueError(
            f"no task can have made the data of element {tuple(bad.nonzero()[0].tolist())}: every "
            "task is forbidden by the prior, its label or its likelihood"
        )
