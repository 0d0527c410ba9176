"""Several online learners of one stream side by side, the best so far chosen by prediction."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gbi_pyro._arrays import as_tensor
from gbi_pyro.inference.task_chain import TaskChain
from gbi_pyro.learning.collapse import CollapseReport, CollapseWarning
from gbi_pyro.learning.online_em import MEMORY, OnlineEM, OnlineEMRun, OnlineEMStep, stack_steps


class OnlineHypotheses:
    r"""Learn from one stream by several ``OnlineEM`` side by side; the best predictor answers.

    A single online learner can miss a task, or keep the hazard that it began with. Learners that
    begin elsewhere (other weights, hazards, rates) make other mistakes, and what each predicted
    tells them apart without labels. The score of learner i forgets at the rate of ``memory``:

    .. math::
        S_i(t) = \lambda S_i(t - 1) + \log p_i(x_t | x_{1..t-1}), \qquad \lambda = 1 - 1 / memory

    the prequential log likelihood (Dawid 1984). Step t is predicted by the learner of the largest
    :math:`S_i(t - 1)`, and its task inferred by that of the largest :math:`S_i(t)`.

    Tasks of different learners come in any order. Those of a new leader are named as the tasks that
    were returned before, by the one-to-one match of most joint probability over the same memory.

    Memory is that of the learners and K x K numbers each; a step costs what theirs cost together.

    Args:
        learners: each with its own weights and optimiser, over the same K tasks. The first leads
            until another predicts better.
        memory: steps that scores and the match of tasks remember; ``math.inf`` sums the whole past.
        check_every: after how many steps a collapse of the leader is looked for; it is warned of
            once. Collapses of others are not.

    Attributes:
        scores: S, in nats, those of the best being 0, ``(H,)``.
        best: the number of the learner that leads.
        order: at k, which task of the leader is returned as k, ``(K,)``.

    Raises:
        TypeError: for learners that are not ``OnlineEM``.
        ValueError: for no learner, shared weights, different numbers of tasks, or options out of
            range.

    >>> import pyro.distributions as dist
    >>> import torch
    >>> from torch import nn
    >>> class Means(nn.Module):
    ...     def __init__(self, *means):
    ...         super().__init__()
    ...         self.means = nn.Parameter(torch.tensor(means))
    ...     def step(self, previous, z, state):
    ...         return dist.Normal(z @ self.means, 0.1), state
    ...     def initial_state(self, *batch_shape):
    ...         return None
    >>> def learner(*means):
    ...     network = Means(*means)
    ...     optim = torch.optim.SGD(network.parameters(), lr=1e-3)
    ...     return OnlineEM(network, optim, TaskChain.sticky(2, hazard=0.1))
    >>> both = OnlineHypotheses([learner(0.8, 0.81), learner(0.4, 0.6)])
    >>> run = both.run(torch.tensor([0.2, 0.2, 0.2, 0.8, 0.8, 0.8] * 20))
    >>> both.best, both.leader.network.means.data.round(decimals=2)
    (1, tensor([0.2000, 0.8000]))
    """

    def __init__(
        self, learners: Sequence[OnlineEM], *, memory: float = MEMORY, check_every: int = 1000
    ) -> None:
        if not all(isinstance(em, OnlineEM) for em in learners):
            names = [type(em).__name__ for em in learners]
            raise TypeError(f"learners should be OnlineEM, got {names}")
        if not learners:
            raise ValueError("learners should be one OnlineEM or more, got none")
        tasks = [em.chain.num_tasks for em in learners]
        if len(set(tasks)) > 1:
            raise ValueError(f"learners should have the same number of tasks, got {tasks}")
        weights = [id(w) for em in learners for w in em.weights]
        if len(set(weights)) < len(weights):
            raise ValueError(
                "learners share weights: expected a network and an optimiser of its own for each"
            )
        if not memory >= 1 or check_every < 1:
            raise ValueError(
                f"memory and check_every must be at least 1, got {memory} and {check_every}"
            )
        self.learners, self.memory, self.check_every = list(learners), memory, check_every
        H, K = len(learners), tasks[0]
        self.num_steps, self.best = 0, 0
        self.scores, self.order = np.zeros(H), np.arange(K)
        self._overlap = np.zeros((H, K, K))  # of the tasks returned (rows) with each learner's
        self._warned = False

    @property
    def leader(self) -> OnlineEM:
        """The learner of the largest score."""
        return self.learners[self.best]

    @property
    def chain(self) -> TaskChain:
        """The leader's chain, its tasks as they are returned."""
        return self.leader.chain.reordered(self.order)

    def step(self, x: Tensor | ArrayLike) -> OnlineEMStep:
        """See one observation: predict it, update every learner, choose the leader.

        Args:
            x: x_t, of the shape that the networks predict.

        Returns:
            What the leader predicted from the past, and the task by the leader that x_t leaves;
            ``log_prob`` is what the former predicted.

        Raises:
            ValueError: see ``OnlineEM``.
        """
        with warnings.catch_warnings():  # only a collapse of the leader matters
            warnings.simplefilter("ignore", CollapseWarning)
            steps = [em.step(x) for em in self.learners]
        ahead, named = steps[self.best], self.order
        keep = 1 - 1 / self.memory
        self.scores = keep * self.scores + [step.log_prob for step in steps]
        self.scores -= self.scores.max()
        if self.scores[self.best] < 0:
            self.best = int(self.scores.argmax())
            _, self.order = linear_sum_assignment(self._overlap[self.best], maximize=True)
        filtered = steps[self.best].filtered[self.order]
        every = np.stack([step.filtered for step in steps])
        self._overlap *= keep
        self._overlap += filtered.numpy()[:, None] * every[:, None]
        self._watch()
        return OnlineEMStep(ahead.predicted[named], filtered, ahead.log_prob, ahead.mean)

    def run(self, stream: Tensor | ArrayLike) -> OnlineEMRun:
        """See the observations of a stream, ``(T, ...)``, and keep what each step returns."""
        like = self.leader.weights[0]
        return stack_steps(self.step, as_tensor(stream, "stream", like=like))

    def collapse(self) -> CollapseReport:
        """Report which tasks the leader used and distinguished; ids are those of its network."""
        return self.leader.collapse()

    def _watch(self) -> None:
        self.num_steps += 1
        if self.num_steps % self.check_every == 0 and not self._warned:
            report = self.collapse()
            if report.collapsed:
                self._warned = True
                words = f"the best of {len(self.learners)} learners after {self.num_steps} steps"
                warnings.warn(f"{words}: {report}", CollapseWarning, stacklevel=3)
