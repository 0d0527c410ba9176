"""Mean field by coordinate ascent: one site at a time, by the gradient at the others' product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gbi_pyro.inference._options import check_numbers
from gbi_pyro.logjoint import RelaxedModel
from gbi_pyro.posterior import TaskPosterior, detached
from gbi_pyro.relax import Model
from gbi_pyro.sites import TaskSite


@dataclass(frozen=True)
class CoordinateGradient:
    r"""Infer the tasks of several sites by mean field, one site after the other.

    Each update is

        log q_i = log_softmax(dl / dq_i) at the point (q_1, .., q_n),

    with l the log joint, so that its prior is included. Where l is linear in each site given the
    others this is coordinate ascent on the evidence lower bound (CAVI; Blei et al., JASA 2017,
    eq. 17), whose fixed point is the best product in KL(q || exact). Elsewhere it is its
    counterpart at mixtures of tasks. Sites begin at maximum entropy over the tasks that the prior
    allows, so that the first update of the first site is one gradient step.

    Sites are independent in the result; ``SecondOrderJoint``, ``Rescored`` and ``TaskGibbs`` keep
    the dependence between them.

    Args:
        sweeps: through all sites, at most; each site takes one forward and one backward pass.
        tolerance: sweeps end when no probability has moved by more in the last one.

    Raises:
        TypeError: for options of another type.
        ValueError: for options out of range.
        TaskSiteError: see ``RelaxedModel``.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("trial", len(x)):
    ...         a = pyro.sample("a", dist.OneHotCategorical(torch.ones(2)), infer={"task": True})
    ...         b = pyro.sample("b", dist.OneHotCategorical(torch.ones(2)), infer={"task": True})
    ...         pyro.factor("same", 2 * (a * b).sum(-1))
    ...         pyro.factor("x", x * (a[..., 1] - a[..., 0]))
    >>> posterior = CoordinateGradient(sweeps=50)(model, torch.tensor([0.2, 0.9]))
    >>> posterior.probs("b").round(decimals=2)
    tensor([[0.2200, 0.7800],
            [0.1400, 0.8600]])
    """

    sweeps: int = 5
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        check_numbers(self, "tolerance", integers=("sweeps",))
        if self.sweeps < 1:
            raise ValueError(f"sweeps must be at least 1, got {self.sweeps}")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance must not be negative, got {self.tolerance}")

    def __call__(self, model: Model, *args: Any, **kwargs: Any) -> TaskPosterior:
        """Infer the task sites of ``model`` called with ``args`` and ``kwargs``."""
        run = RelaxedModel(model, args, kwargs)
        log_q: dict[str, Tensor] = {}

        def point(site: TaskSite) -> Tensor:
            if site.name not in log_q:
                log_q[site.name] = _flat(site)
            return log_q[site.name].exp()

        joint = run.log_joint(point, order=1)
        names, made, moved = list(joint.sites), 0, float("inf")
        while made < self.sweeps and moved > self.tolerance:
            moved = 0.0
            for name in names:
                if made or name != names[0]:
                    joint = run.log_joint(point, order=1)
                run.count(forward=1)
                slope = run.likelihood_gradient(joint)[name] + joint.sites[name].log_prior.detach()
                new = slope.log_softmax(-1)
                moved = max(moved, float((new.exp() - log_q[name].exp()).abs().max()))
                log_q[name] = new
            made += 1
        return TaskPosterior(
            log_q,
            detached(joint.sites),
            method=f"mean field, {made} sweeps",
            settings={
                "sweeps": made,
                "tolerance": self.tolerance,
                "converged": moved <= self.tolerance,
            },
            passes=run.passes,
            num_observations={n: joint.num_observations(s) for n, s in joint.sites.items()},
        )


def _flat(site: TaskSite) -> Tensor:
    """Return the log of the maximum-entropy point over the tasks that the prior allows."""
    forbidden = site.log_prior.detach().isneginf()
    return torch.zeros_like(site.log_prior).masked_fill(forbidden, -torch.inf).log_softmax(-1)
