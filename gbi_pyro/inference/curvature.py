"""A joint posterior over several task sites, from the curvature of the log joint at one point."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gbi_pyro.inference._combinations import Scorer, check_same_elements
from gbi_pyro.inference._curvature import Expansion, expand
from gbi_pyro.inference._options import check_numbers
from gbi_pyro.inference._shortlist import most_probable
from gbi_pyro.inference.pairwise_joint import PairwiseJoint
from gbi_pyro.joint import JointTable
from gbi_pyro.logjoint import LogJoint, RelaxedModel
from gbi_pyro.posterior import TaskPosterior, detached
from gbi_pyro.relax import Model, Point, points_at
from gbi_pyro.sites import TaskSite, TaskSiteError

# On 300 cases and more of each problem: MetaHMM with 24 and 256 tasks, where the expansion is worth
# having (KL .1 to 1), has up to 2.8 nats over the four, and at two rounds up to 7.6 in 4 of 3000
# cases; hyperteacher (tanh) 5 to 60 nats in 3 to 45 % of cases, model choice at two rounds 70 to
# 120 nats in 2 to 3 %.
NUM_SCORED = 4
"""How many combinations of an element are scored exactly, to check the expansion."""
MAX_DIVERGENCE = 3.0
"""KL(exact || expansion) over them in nats, beyond which the expansion fails in an element."""
MAX_FAILING = 0.01
"""The share of elements that may fail."""


@dataclass(frozen=True)
class SecondOrderJoint:
    r"""Infer several task sites jointly from the gradient and the Hessian at one point.

    The log joint l is expanded to second order about the maximum-entropy point u, and read at the
    corners: a pairwise Markov random field over the tasks,

        log q(z) = sum_i (g_i[z_i] + 1/2 H[i z_i, i z_i]) + sum_{i<j} H[i z_i, j z_j] - log Z,

    with g = dl/dq, the log prior in it, and H[i k, j m] = (e_k - u_i)' C_ij (e_m - u_j), C the
    Hessian of l. It is the exact posterior where l is multilinear in the sites and no factor joins
    more than two, and for one site where ``OneStepGradient(order=2)`` is, with which it then
    agrees. More rounds expand again about (1 - mix) marginals + mix uniform, which is often better
    and may diverge.

    Blocks of C that are zero in all elements, up to rounding, are no edges: the graph of the model
    is read off it, ``posterior.settings["edges"]``. Up to ``max_joint`` combinations the posterior
    is written out as a table; beyond, it is found by elimination along the graph (see
    ``PairwiseJoint``), so that the number of sites has no limit but the width of the graph.

    Where l is far from quadratic the expansion says nothing. So the four most probable
    combinations of each element are scored exactly. Over these four, KL(exact || q) should be 3
    nats or less; the posterior is refused where it is more in over 1 % of the elements.

    Args:
        rounds: how often l is expanded; each takes 1 forward and 1 + sum_i (K_i - 1) backward
            passes.
        mix: the share of the uniform point in the points of later rounds, above 0 and up to 1.
        max_joint: the largest number of combinations of a table.
        chunk_size: how many combinations are scored in one run, as a leading dimension that the
            model has to broadcast over; None scores one after the other, which any model can do.
        check: whether the expansion is checked, by 4 forward passes and one more that checks that
            elements do not influence each other. The product of Hessian and direction is taken in
            all elements at once, which is wrong where they do.

    Calling it as ``SecondOrderJoint()(model, *args)`` returns a ``TaskPosterior``; weights are
    constants and nothing is left behind. All sites have to lie in the same plates.

    Raises:
        TaskSiteError: for sites in different plates, an expansion that does not hold, a graph too
            wide for ``max_joint``; and see ``RelaxedModel``.
        ValueError: for options out of range, or without effect.
        TypeError: for an option that is no number.

    >>> import pyro, pyro.distributions as dist
    >>> signs = torch.tensor([-1.0, 1.0])
    >>> def model(x):  # two spins that tend to agree, the first of which is observed
    ...     with pyro.plate("case", len(x)):
    ...         prior, task = dist.OneHotCategorical(torch.ones(2)), {"task": True}
    ...         left = pyro.sample("left", prior, infer=task) @ signs
    ...         right = pyro.sample("right", prior, infer=task) @ signs
    ...         pyro.factor("agree", left * right)
    ...         pyro.sample("x", dist.Normal(left, 1.0), obs=x)
    >>> posterior = SecondOrderJoint()(model, torch.tensor([0.0, 1.0]))
    >>> posterior.table().log_probs.exp().round(decimals=2)
    tensor([[[0.4400, 0.0600],
             [0.0600, 0.4400]],
    <BLANKLINE>
            [[0.1000, 0.0100],
             [0.1000, 0.7800]]], dtype=torch.float64)
    >>> posterior.settings["edges"]
    [['left', 'right']]
    """

    rounds: int = 1
    mix: float = 0.3
    max_joint: int = 4096
    chunk_size: int | None = None
    check: bool = True

    def __post_init__(self) -> None:
        given = ("rounds", "max_joint") + ("chunk_size",) * (self.chunk_size is not None)
        check_numbers(self, "mix", integers=given)
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")
        if not 0 < self.mix <= 1:
            raise ValueError(f"mix must be above 0 and at most 1, got {self.mix}")
        if self.rounds == 1 and self.mix != type(self).mix:
            raise ValueError(
                f"mix has an effect from the second round on; got mix={self.mix} with rounds=1: "
                "drop it, or give rounds=2"
            )
        if self.max_joint < 2:
            raise ValueError(f"max_joint must be at least 2, got {self.max_joint}")
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1 or None, got {self.chunk_size}")
        if self.chunk_size is not None and not self.check:
            raise ValueError(
                f"chunk_size is that of the check; got chunk_size={self.chunk_size} with "
                "check=False: drop it"
            )

    def __call__(self, model: Model, *args: Any, **kwargs: Any) -> TaskPosterior:
        """Infer the task sites of ``model`` called with ``args`` and ``kwargs``."""
        run = RelaxedModel(model, args, kwargs)
        point: Point = TaskSite.uniform
        for _ in range(self.rounds):
            joint = run.log_joint(point, order=2)
            run.count(forward=1)
            check_same_elements(joint.sites, type(self).__name__)
            expansion = expand(run, joint)
            found = self._joint(expansion)
            marginals = found.marginals()
            point = points_at({n: self._mixed(joint.sites[n], q) for n, q in marginals.items()})
        sites = joint.sites
        posterior = TaskPosterior(
            {n: marginals[n].log_softmax(-1).to(s.log_prior.dtype) for n, s in sites.items()},
            detached(sites),
            method="second order, joint" + f", {self.rounds} rounds" * (self.rounds > 1),
            settings={
                "rounds": self.rounds,
                "mix": self.mix if self.rounds > 1 else None,
                "edges": [list(pair) for pair in expansion.pairwise],
            },
            passes=run.passes,
            num_observations={n: joint.num_observations(s) for n, s in sites.items()},
            joint=found if len(sites) > 1 else None,
        )
        if not self.check:
            return posterior
        self._check(run, joint, posterior)
        return replace(posterior, passes=run.passes)

    def _mixed(self, site: TaskSite, log_q: Tensor) -> Tensor:
        return (1 - self.mix) * log_q.exp().to(site.log_prior) + self.mix * site.uniform()

    def _joint(self, found: Expansion) -> JointTable | PairwiseJoint:
        sizes = {name: value.shape[-1] for name, value in found.unary.items()}
        if math.prod(sizes.values()) > self.max_joint:
            return PairwiseJoint.of_field(found.unary, found.pairwise, self.max_joint)
        scopes = {(name,): value for name, value in found.unary.items()} | found.pairwise
        total = torch.zeros(())
        for scope, value in scopes.items():
            batch = value.shape[: -len(scope)]
            ones = [sizes[n] if n in scope else 1 for n in sizes]
            total = total + value.reshape(*batch, *ones)
        return JointTable.of_scores(sizes, total.flatten(-len(sizes)))

    def _check(self, run: RelaxedModel, joint: LogJoint, posterior: TaskPosterior) -> None:
        """Check the expansion by the exact scores of a few combinations."""
        number = math.prod(site.num_tasks for site in joint.sites.values())
        table = posterior.table(self.max_joint) if number <= self.max_joint else None
        listed, _ = most_probable(posterior, table, min(NUM_SCORED, number))
        before = run.passes
        score = Scorer(run, joint, chunk_size=self.chunk_size, what=type(self).__name__)
        log_p, log_q = score(listed.ids).log_softmax(0), listed.log_q.log_softmax(0)
        used = run.passes.forward + run.passes.check - before.forward
        run.passes = before._replace(check=used)
        terms = torch.where(log_p.isneginf(), 0.0, log_p.exp() * (log_p - log_q))
        divergence = terms.sum(0).nan_to_num(nan=torch.inf)  # all are impossible, in truth
        failing = int((divergence > MAX_DIVERGENCE).sum())
        if failing > MAX_FAILING * divergence.numel():
            raise TaskSiteError(
                f"the log joint of task sites {list(joint.sites)} is far from quadratic: over the "
                f"{len(log_p)} most probable combinations KL(exact || expansion) is more than "
                f"{MAX_DIVERGENCE:g} nats in {failing} of {divergence.numel()} elements, up to "
                f"{divergence.max().item():.1f}; expected that in 1 % at most. Use Enumeration, or "
                "Rescored, which scores the combinations that matter; check=False takes it as it is"
            )
