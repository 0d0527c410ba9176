"""A posterior fitted to the data at hand by trajectory balance, without training data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from gbi_pyro.inference._combinations import Scorer, check_same_elements
from gbi_pyro.inference._conditionals import TableConditionals
from gbi_pyro.inference._options import check_numbers
from gbi_pyro.inference.autoregressive_joint import AutoregressiveJoint
from gbi_pyro.inference.joint_losses import JointLoss, TrainingBatch, TrajectoryBalance
from gbi_pyro.logjoint import RelaxedModel
from gbi_pyro.posterior import TaskPosterior, detached
from gbi_pyro.relax import Model
from gbi_pyro.sites import TaskSiteError

LAST_RATE = 0.02  # the share of the learning rate that is left at the last update


@dataclass(frozen=True)
class TrajectorySampler:
    r"""Infer several task sites jointly by a policy that is trained on the data at hand.

    The policy draws the tasks site by site. It is a table for each element and site: the logits
    of a site's tasks given each combination of those before it. Adam fits it by trajectory balance
    (Malkin et al. 2022, arXiv 2201.13259; Hu et al. 2024, arXiv 2310.04363 amortise intractable
    posteriors with it), with rewards p(x, z) from the model:

        (log Z(x) + log q(z | x) - log p(x, z))^2

    At a loss of zero q is the exact posterior. Only as many combinations are scored as are drawn,
    so it serves where there are too many to enumerate; where they are fewer than ``updates`` x
    ``loss.draws``, ``Enumeration`` is cheaper and exact.

    Args:
        updates: how many times tasks are drawn and the tables moved.
        learning_rate: of Adam; it falls to 2 % of this linearly.
        loss: of the policy, with its number of draws and its exploration.
        num_draws: how many draws of the trained policy the log evidence is estimated from, the
            mean of p(x, z) / q(z | x).
        max_joint: the largest number of combinations of tasks, which the tables hold.
        chunk_size: how many combinations are scored in one run of the model, which has to
            broadcast over them; None scores one after the other.
        check: whether independence of elements, and broadcasting, are checked.
        seed: of the draws.

    Calling it as ``TrajectorySampler()(model, *args)`` returns a ``TaskPosterior``; weights are
    constants and nothing is left behind. Where all data are masked it is the prior.

    Raises:
        TaskSiteError: for sites in different plates, more combinations than ``max_joint``,
            elements that influence each other; and see ``RelaxedModel``.
        TypeError: for options that are no numbers, a loss that cannot be called.
        ValueError: for numbers that are not positive.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("case", len(x)):
    ...         task = dist.OneHotCategorical(torch.ones(2))
    ...         a, b = (pyro.sample(n, task, infer={"task": True})[..., 0] for n in "ab")
    ...         pyro.sample("x", dist.Normal(a + b, 0.3), obs=x)
    >>> posterior = TrajectorySampler(updates=200)(model, torch.tensor([1.0, 2.0]))
    >>> posterior.table().flat.exp().round(decimals=2)
    tensor([[0.0000, 0.5000, 0.5000, 0.0000],
            [0.9900, 0.0000, 0.0000, 0.0000]], dtype=torch.float64)
    """

    updates: int = 600
    learning_rate: float = 0.1
    loss: JointLoss = TrajectoryBalance()
    num_draws: int = 64
    max_joint: int = 65536
    chunk_size: int | None = 64
    check: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        whole = ["updates", "num_draws", "max_joint"]
        whole += [] if self.chunk_size is None else ["chunk_size"]
        check_numbers(self, "learning_rate", integers=(*whole, "seed"))
        for name in (*whole, "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not callable(self.loss):
            raise TypeError(f"loss should be callable, got a {type(self.loss).__name__}")

    def __call__(self, model: Model, *args: Any, **kwargs: Any) -> TaskPosterior:
        """Infer the task sites of ``model`` called with ``args`` and ``kwargs``."""
        run = RelaxedModel(model, args, kwargs)
        at = run.log_joint(lambda site: site.uniform())
        run.count(check=1)
        sites = detached(at.sites)
        shape = check_same_elements(sites, "TrajectorySampler")
        sizes = {name: site.num_tasks for name, site in sites.items()}
        if (number := math.prod(sizes.values())) > self.max_joint:
            raise TaskSiteError(
                f"the sites {list(sizes)} have {number} combinations of tasks, more than max_joint "
                f"= {self.max_joint} of TrajectorySampler, whose tables hold them: raise it, or "
                "train an AutoregressiveRecogniser(encoder, loss=TrajectoryBalance())"
            )
        policy = TableConditionals.zeros(sites)
        joint = AutoregressiveJoint(sizes, shape, policy)
        score = Scorer(
            run, at, chunk_size=self.chunk_size, check=self.check, what="TrajectorySampler"
        )
        generator = torch.Generator().manual_seed(self.seed)
        with torch.enable_grad():
            self._fit(policy, TrainingBatch(joint, score, None), generator)
        with torch.no_grad():
            ids, log_q = joint.draw(self.num_draws, generator)
            log_weights = score(ids) - log_q
            table = joint.table()
        dtype = next(iter(sites.values())).log_prior.dtype
        first = next(iter(sites.values()))
        outside = [f.total.item() for f in at.factors.values() if not f.belongs(first)]
        return TaskPosterior(
            {name: q.to(dtype) for name, q in table.marginals().items()},
            sites,
            method="trajectory balance",
            settings={"updates": self.updates, "loss": repr(self.loss), "seed": self.seed},
            passes=run.passes,
            num_observations={n: at.num_observations(s) for n, s in sites.items()},
            log_evidence=(log_weights.logsumexp(0) - math.log(self.num_draws)).to(dtype),
            log_outside=sum(outside),
            joint=table,
        )

    def _fit(
        self, policy: TableConditionals, batch: TrainingBatch, generator: torch.Generator
    ) -> None:
        tables = [*policy.tables.values()]
        optimiser = torch.optim.Adam(tables, lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, LAST_RATE, self.updates)
        elements = batch.joint.batch_shape.numel()
        for _ in range(self.updates):
            # A sum over elements: the steps of one do not depend on how many others there are.
            loss = elements * self.loss(batch, generator)
            for table, gradient in zip(tables, torch.autograd.grad(loss, tables), strict=True):
                table.grad = gradient
            optimiser.step()
            schedule.step()
