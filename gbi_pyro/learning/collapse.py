"""Task collapse: tasks that a network does not use, or does not distinguish."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gbi_pyro.posterior import entropy

MIN_USAGE = 0.01  # a task expected in fewer elements than this is not used
MIN_GAP = 0.1  # nats per element: tasks that differ by less are equal
MAX_FLEETING = 1.5  # steps: blocks this short are single steps, and mark switches between tasks
MIN_STICKY = 5.0  # steps: how long blocks have to be expected to be, for that to be reported


class CollapseWarning(UserWarning):
    """A network uses fewer tasks than it has."""


@dataclass(frozen=True)
class CollapseReport:
    """How many of its K tasks a network uses, and which ones.

    Attributes:
        usage: the share of elements that each task explains, ``(K,)``.
        gaps: mean |log p(x | j) - log p(x | k)| of each pair of tasks, in nats per element,
            ``(K, K)``.
        unused: tasks that explain less than ``MIN_USAGE`` of the elements.
        same: groups of used tasks whose outputs coincide (gaps below ``MIN_GAP``).
        fleeting: used tasks that last single steps where the chain expects long blocks: a recurrent
            network that follows the tasks by itself may keep one for the steps that surprise it.
        pruned: tasks that the prior forbids; they are not counted.
        carries_history: whether the network is recurrent, and may follow the task by itself.
    """

    usage: Tensor
    gaps: Tensor = field(repr=False)
    unused: list[int]
    same: list[list[int]]
    fleeting: list[int] = field(default_factory=list)
    pruned: list[int] = field(default_factory=list)
    carries_history: bool = False

    @property
    def num_tasks(self) -> int:
        """K, the number of tasks that the network has, pruned ones left out."""
        return len(self.usage) - len(self.pruned)

    @property
    def num_used(self) -> int:
        """How many different tasks are used; equal tasks count once."""
        return self.num_tasks - len(self.redundant)

    @property
    def redundant(self) -> list[int]:
        """The tasks to prune: unused, fleeting, all but the most used of those that coincide."""
        extra = [k for g in self.same for k in g if k != max(g, key=lambda i: self.usage[i])]
        return sorted({*self.unused, *self.fleeting, *extra})

    @property
    def effective_number(self) -> float:
        """The number of tasks in even use that would have this entropy of usage: exp H(usage)."""
        return entropy(self.usage.clamp_min(1e-30).log()).exp().item()

    @property
    def spread(self) -> float:
        """The largest gap between two tasks, in nats per element: 0 where Z is ignored."""
        return self.gaps.max().item()

    @property
    def ignores_task(self) -> bool:
        """Whether no two tasks differ: the output does not depend on Z at all."""
        return self.num_tasks > 1 and self.spread < MIN_GAP

    @property
    def collapsed(self) -> bool:
        """Whether fewer tasks are used than there are."""
        return self.num_used < self.num_tasks

    def __str__(self) -> str:
        if not self.collapsed:
            if self.num_tasks == 1:
                return "the only task is used"
            return f"all {self.num_tasks} tasks are used and differ"
        if self.ignores_task:
            words = (
                f"the output does not depend on the task: the {self.num_tasks} tasks differ by "
                f"{self.spread:.2g} nats per element at most"
            )
        else:
            words = f"{self.num_used} of {self.num_tasks} tasks are used"
            if self.unused:
                words += f"; {self.unused} explain less than {MIN_USAGE:.0%} of the data each"
            for group in self.same:
                words += f"; {group} are equal"
            if self.fleeting:
                words += f"; {self.fleeting} last single steps, which mark switches and no task"
        if self.num_used == 1 and self.carries_history:
            return words + (
                ". The network is recurrent: if the data do switch, it follows them by its own "
                "history. Begin with window_labels and a sticky TaskChain, add noise to the hidden "
                "state, or reset it"
            )
        return words + ". Try other starts (best_of, window_labels), or fewer tasks"


def find_collapse(
    log_likelihood: Tensor,
    q: Tensor,
    allowed: Tensor | None = None,
    *,
    padding: Tensor | None = None,
    carries_history: bool = False,
    stay: Tensor | None = None,
) -> CollapseReport:
    """Find tasks that are not used, tasks that are equal, and tasks of single steps.

    Args:
        log_likelihood: log p(x | z = k) of each element, ``batch_shape + (K,)``.
        q: the posterior, ``batch_shape + (K,)``.
        allowed: the tasks that the prior allows, ``(K,)``; all without.
        padding: which elements are no steps and do not count, ``batch_shape``; none without.
        carries_history: whether the network is recurrent.
        stay: where tasks switch by a chain, the probability that each goes on, ``(K,)``; time is
            then the last batch dimension.

    Returns:
        The report; ``str(report)`` says it in words.

    >>> import torch
    >>> log_likelihood = torch.tensor([[0.0, -3.0, -3.0], [-4.0, 0.0, 0.0]])
    >>> print(find_collapse(log_likelihood, log_likelihood.softmax(-1)))
    2 of 3 tasks are used; [1, 2] are equal. Try ...
    """
    real = torch.ones_like(q[..., 0], dtype=torch.bool) if padding is None else ~padding
    table, usage = log_likelihood[real], q[real].mean(0)
    # Both may be -inf, where the data are possible under neither task.
    gaps = (table.unsqueeze(-1) - table.unsqueeze(-2)).nan_to_num(nan=0.0).abs().mean(0)
    dwell = None if stay is None else mean_dwell_times(q, padding)
    return report_collapse(
        usage, gaps, allowed, carries_history=carries_history, stay=stay, dwell=dwell
    )


def mean_dwell_times(q: Tensor, padding: Tensor | None = None) -> Tensor:
    """Return how many steps a task lasts on average where it is the most probable, ``(K,)``.

    NaN for a task that never is.

    Args:
        q: the posterior, ``(..., T, K)``.
        padding: which steps do not count, ``(..., T)``; none without.

    >>> import torch
    >>> mean_dwell_times(torch.eye(2)[[0, 0, 0, 1, 0]])
    tensor([2., 1.])
    """
    K = q.shape[-1]
    most = torch.nn.functional.one_hot(q.argmax(-1), K)
    if padding is not None:
        most = most * (~padding).unsqueeze(-1)
    before = torch.cat([torch.zeros_like(most[..., :1, :]), most[..., :-1, :]], -2)
    begun = (most * (1 - before)).reshape(-1, K).sum(0)
    return most.reshape(-1, K).sum(0) / begun.to(q.dtype)


def report_collapse(
    usage: Tensor,
    gaps: Tensor,
    allowed: Tensor | None = None,
    *,
    carries_history: bool = False,
    stay: Tensor | None = None,
    dwell: Tensor | None = None,
) -> CollapseReport:
    """Return the report on tasks of known usage, ``(K,)``, and known gaps, ``(K, K)``.

    ``dwell`` and ``stay``, ``(K,)``, say how long tasks last and how probably they go on.
    """
    forbidden = usage.new_zeros(len(usage)).bool() if allowed is None else ~allowed.to(usage.device)
    # A pruned task differs from no other, so that it takes no part in the largest gap.
    gaps = gaps.masked_fill(forbidden | forbidden.unsqueeze(-1), 0.0)
    unused = ((usage < MIN_USAGE) & ~forbidden).nonzero().flatten().tolist()
    pruned = forbidden.nonzero().flatten().tolist()
    left = [k for k in range(len(usage)) if k not in {*unused, *pruned}]
    fleeting = []
    if stay is not None and dwell is not None:
        sticky = stay.to(dwell) > 1 - 1 / MIN_STICKY
        short = (dwell < MAX_FLEETING) & sticky
        fleeting = [k for k in short.nonzero().flatten().tolist() if k in left]
    groups = _groups(gaps, left)
    return CollapseReport(usage, gaps, unused, groups, fleeting, pruned, carries_history)


def _groups(gaps: Tensor, left: list[int]) -> list[list[int]]:
    """Return groups of two tasks or more, each close to the first of its group."""
    groups = []
    while left:
        group = [k for k in left if gaps[left[0], k] < MIN_GAP]
        left = [k for k in left if k not in group]
        groups.append(group)
    return [g for g in groups if len(g) > 1]
