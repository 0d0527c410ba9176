"""Sequential Monte Carlo over the tasks of several sites, from the prior to the posterior."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gbi_pyro.inference._combinations import Scorer
from gbi_pyro.inference._options import check_chunk_size, check_numbers
from gbi_pyro.inference._scan import Chains, Tally
from gbi_pyro.logjoint import RelaxedModel
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.relax import Model
from gbi_pyro.sites import TaskSiteError


@dataclass(frozen=True)
class TaskSMC:
    r"""Infer the tasks of several sites by tempering particles from the prior to the posterior.

    Particles of each element begin at draws from the prior pi. At each of the powers b_1 < .. < b_T
    = 1, b_t = t / T, they are weighted by (p(x, z) / pi(z))^(b_t - b_(t-1)), resampled
    (systematically), and moved by Gibbs sweeps that leave p(x, z)^b_t pi(z)^(1 - b_t) unchanged
    (Del Moral et al., JRSS B 2006).

    The product of the mean weights is an unbiased estimate of the evidence. Its logarithm is in the
    settings of the result, ``log_evidence_estimate``; ``log_evidence`` is kept for exact numbers.
    The posterior is estimated from the conditionals of the last sweep, as in ``TaskGibbs``;
    ``floor`` in the settings is likewise (K - 1) / 2n, of n particles.

    Args:
        num_particles: for each element.
        temperatures: T, the number of powers.
        sweeps: through all sites, at each power; sum_i (K_i - 1) forward passes a particle each.
        chunk_size: how many combinations are scored in one run, as a leading dimension that the
            model has to broadcast over; None tries one after the other, which any model can do.
        max_joint: the largest number of combinations that are written out as a table; beyond it the
            joint posterior holds the particles.
        seed: of all draws; torch's own random state is left alone.
        check: whether independence of elements, and broadcasting over a chunk, are checked.

    Raises:
        TypeError: for options of another type.
        ValueError: for options out of range.
        TaskSiteError: for sites in different plates, elements that influence each other, and data
            that no particle can have made.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("trial", len(x)):
    ...         a = pyro.sample("a", dist.OneHotCategorical(torch.ones(2)), infer={"task": True})
    ...         b = pyro.sample("b", dist.OneHotCategorical(torch.ones(2)), infer={"task": True})
    ...         pyro.sample("x", dist.Normal(a[..., 1] + b[..., 1], 0.2), obs=x)
    >>> posterior = TaskSMC(num_particles=32)(model, torch.tensor([0.0, 1.0, 2.0]))
    >>> posterior.table().log_probs[1].exp() > 0.25  # one of the two, but not which
    tensor([[False,  True],
            [ True, False]])
    """

    num_particles: int = 16
    temperatures: int = 4
    sweeps: int = 1
    chunk_size: int | None = 64
    max_joint: int = 65536
    seed: int = 0
    check: bool = True

    def __post_init__(self) -> None:
        check_numbers(
            self, integers=("num_particles", "temperatures", "sweeps", "max_joint", "seed")
        )
        check_chunk_size(self)
        least = {"num_particles": 2, "temperatures": 1, "sweeps": 1, "max_joint": 2}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} must be at least {smallest}, got {getattr(self, name)}")

    def __call__(self, model: Model, *args: Any, **kwargs: Any) -> TaskPosterior:
        """Infer the task sites of ``model`` called with ``args`` and ``kwargs``."""
        run = RelaxedModel(model, args, kwargs)
        first = run.log_joint(lambda site: site.uniform())
        run.count(check=1)
        score = Scorer(
            run, first, chunk_size=self.chunk_size, check=self.check, what="particle sampling"
        )
        particles = Chains(score, self.num_particles, torch.Generator().manual_seed(self.seed))
        tally = Tally(first.sites, self.max_joint)
        log_evidence = torch.zeros_like(particles.log_p[0])
        for t in range(1, self.temperatures + 1):
            log_w = (particles.log_p - particles.log_prior) / self.temperatures
            log_evidence = log_evidence + log_w.logsumexp(0) - math.log(self.num_particles)
            _check_possible(log_evidence, list(first.sites))
            particles.select(_systematic(log_w.softmax(0), particles.generator))
            for sweep in range(1, self.sweeps + 1):
                last = t == self.temperatures and sweep == self.sweeps
                particles.scan(t / self.temperatures, tally if last else None)
        log_probs, joint = tally.estimate()
        return TaskPosterior(
            log_probs,
            tally.sites,
            method=f"SMC, {self.num_particles} particles, {self.temperatures} temperatures",
            settings={
                "num_particles": self.num_particles,
                "temperatures": self.temperatures,
                "sweeps": self.sweeps,
                "seed": self.seed,
                "floor": tally.floor,
                "log_evidence_estimate": log_evidence,
            },
            passes=run.passes,
            num_observations={n: first.num_observations(s) for n, s in first.sites.items()},
            joint=joint,
        )


def _systematic(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Return which particles are kept, each element its own: ``(num,) + batch_shape``.

    One uniform number an element; a particle is kept as often as its expected number, rounded up
    or down.

    >>> weights = torch.tensor([0.5, 0.0, 0.25, 0.25])
    >>> _systematic(weights, torch.Generator().manual_seed(0))
    tensor([0, 0, 2, 3])
    """
    n = len(weights)
    start = torch.rand(weights.shape[1:], generator=generator, dtype=torch.float64)
    steps = torch.arange(n, dtype=torch.float64).reshape(-1, *[1] * start.ndim)
    # Below 1, which rounding may reach, at is never beyond the last particle that has a weight.
    at = ((start + steps) / n).clamp_max(1 - torch.finfo(torch.float64).eps).movedim(0, -1)
    cumulative = weights.double().cumsum(0).movedim(0, -1)
    share = (cumulative / cumulative[..., -1:]).contiguous()
    return torch.searchsorted(share, at.to(share.device).contiguous(), right=True).movedim(-1, 0)


def _check_possible(log_evidence: Tensor, names: list[str]) -> None:
    impossible = log_evidence.isneginf()
    if bool(impossible.any()):
        raise TaskSiteError(
            f"no particle over the tasks of {names} can have made the data of element "
            f"{tuple(impossible.nonzero()[0].tolist())}; expected some that can: raise "
            "num_particles, or use Enumeration"
        )
