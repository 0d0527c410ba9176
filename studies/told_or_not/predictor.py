"""A network as a predictor: the density of each step given those before it, tasks summed out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gbi_pyro.inference.chain import BayesFilter
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.stepwise import stepwise
from gbi_pyro.inference.task_chain import TaskChain
from gbi_pyro.models.sequence import SequenceLSTM
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.sites import Plate, TaskSite


@dataclass(frozen=True)
class Predictor:
    """A network that predicts x from its past alone.

    Attributes:
        network: its weights.
        chain: of its tasks, which the Bayes filter infers, K passes a step; None without tasks.
    """

    network: SequenceLSTM
    chain: TaskChain | None

    @torch.no_grad()
    def infer(self, x: Tensor) -> TaskPosterior:
        """Return p(z_t | x_1..t), and log p(x) of each sequence, tasks summed out.

        Without tasks it is that of a single one, which is always going on.
        """
        if self.chain is not None:
            infer, past = self._filter(self.chain, x)
            return infer(stepwise(self.network, x, tasks={"z": past}))
        predicted = torch.distributions.Normal(self.network.mean(x, None), self.network.sigma)
        certain = x.new_zeros(*x.shape, 1)
        plates = (Plate(name, n, n) for name, n in zip(("sequence", "time"), x.shape, strict=True))
        return TaskPosterior(
            {"z": certain},
            {"z": TaskSite("z", certain, tuple(plates))},
            method="without a task",
            log_evidence=predicted.log_prob(x).sum(-1),
        )

    @torch.no_grad()
    def mean(self, x: Tensor) -> Tensor:
        """Return E[x_t | x_1..t-1] = sum_k p(z_t = k | x_1..t-1) m_k, ``(B, T)``."""
        if self.chain is None:
            return self.network.mean(x, None)
        infer, past = self._filter(self.chain, x)
        steps = stepwise(self.network, x, tasks={"z": past})
        predicted = replace(infer, output="predicted")(steps).probs()
        corners = torch.eye(predicted.shape[-1]).expand(*predicted.shape, -1).movedim(-2, 0)
        return torch.stack(
            [q * steps(z) for q, z in zip(predicted.movedim(-1, 0), corners, strict=True)]
        ).sum(0)

    def _filter(self, chain: TaskChain, x: Tensor) -> tuple[BayesFilter, Tensor]:
        """Return the filter, and the tasks under which the past of a step is carried.

        They are the filter's own posterior of that past, so that the prediction of x_t remains one
        from x before t; carried at maximum entropy the network would be where it never learned.
        """
        infer = BayesFilter(Enumeration(check=False), chain)
        return infer, infer(stepwise(self.network, x)).probs()
