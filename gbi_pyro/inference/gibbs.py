"""Gibbs sampling of the tasks of several sites, and its variant with gradients as proposals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from gbi_pyro.inference._combinations import Scorer
from gbi_pyro.inference._options import check_chunk_size, check_numbers
from gbi_pyro.inference._scan import Chains, Tally
from gbi_pyro.joint import draw_tasks
from gbi_pyro.logjoint import RelaxedModel
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.relax import Model

Proposals = Literal["scan", "gradient"]


@dataclass(frozen=True)
class TaskGibbs:
    r"""Infer the tasks of several sites by Gibbs sampling, several chains for each element.

    With ``proposals="scan"`` each sweep draws every site in turn from its exact conditional, sum_i
    (K_i - 1) forward passes a chain. The conditionals are kept and not the draws alone, so that
    marginals are sharper than a histogram.

    With ``proposals="gradient"`` a sweep is as many Metropolis-Hastings moves as there are sites,
    each one forward and one backward pass a chain. A move changes the task of one site, proposed
    from the gradient g at the corner where the chain stands (Grathwohl et al., ICML 2021):

        q(z_i -> k) = softmax over all i and k of (g_i[k] - g_i[z_i]) / 2,

    and is accepted with the probability that leaves the posterior unchanged. Half the difference
    is the locally balanced choice (Zanella, JASA 2020) where the log joint is linear along each
    change of a task; where it is far from that, moves are rejected and a scan is better.

    The joint posterior of several sites is the histogram of what was counted together with sqrt(n)
    draws from the product of its marginals. Settings of the result hold ``floor``, (K - 1) / 2n of
    K combinations and n states, which is the KL divergence expected of a histogram of n independent
    draws, and ``acceptance`` of the moves.

    Args:
        num_chains: for each element; they begin at draws from the prior.
        sweeps: through all sites.
        burn_in: how many sweeps at the beginning are not counted.
        proposals: ``"scan"`` or ``"gradient"``.
        chunk_size: how many combinations are scored in one run, as a leading dimension that the
            model has to broadcast over; None tries one after the other, which any model can do.
        max_joint: the largest number of combinations that are written out as a table; beyond it the
            joint posterior holds the states.
        seed: of all draws; torch's own random state is left alone.
        check: whether independence of elements, and broadcasting over a chunk, are checked.

    Raises:
        TypeError: for options of another type.
        ValueError: for options out of range.
        TaskSiteError: for sites in different plates, and elements that influence each other.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("trial", len(x)):
    ...         a = pyro.sample("a", dist.OneHotCategorical(torch.ones(2)), infer={"task": True})
    ...         b = pyro.sample("b", dist.OneHotCategorical(torch.ones(2)), infer={"task": True})
    ...         pyro.sample("x", dist.Normal(a[..., 1] + b[..., 1], 0.2), obs=x)
    >>> posterior = TaskGibbs(num_chains=8)(model, torch.tensor([0.0, 1.0, 2.0]))
    >>> posterior.table().log_probs[1].exp() > 0.25  # one of the two, but not which
    tensor([[False,  True],
            [ True, False]])
    """

    num_chains: int = 4
    sweeps: int = 12
    burn_in: int = 2
    proposals: Proposals = "scan"
    chunk_size: int | None = 64
    max_joint: int = 65536
    seed: int = 0
    check: bool = True

    def __post_init__(self) -> None:
        check_numbers(self, integers=("num_chains", "sweeps", "burn_in", "max_joint", "seed"))
        check_chunk_size(self)
        for name, least in (("num_chains", 1), ("sweeps", 1), ("burn_in", 0), ("max_joint", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.burn_in >= self.sweeps:
            raise ValueError(
                f"burn_in must be less than sweeps = {self.sweeps}, got {self.burn_in}: no sweep "
                "would be counted"
            )
        if self.proposals not in ("scan", "gradient"):
            raise ValueError(f"proposals must be 'scan' or 'gradient', got {self.proposals!r}")

    def __call__(self, model: Model, *args: Any, **kwargs: Any) -> TaskPosterior:
        """Infer the task sites of ``model`` called with ``args`` and ``kwargs``."""
        run = RelaxedModel(model, args, kwargs)
        first = run.log_joint(lambda site: site.uniform())
        run.count(check=1)
        score = Scorer(
            run, first, chunk_size=self.chunk_size, check=self.check, what="Gibbs sampling"
        )
        chains = Chains(score, self.num_chains, torch.Generator().manual_seed(self.seed))
        tally = Tally(first.sites, self.max_joint)
        gradient = self.proposals == "gradient"
        moves = _GradientMoves(chains) if gradient else None
        for sweep in range(self.sweeps):
            counted = tally if sweep >= self.burn_in else None
            if moves is None:
                chains.scan(tally=counted)
            else:
                for _ in first.sites:
                    moves.step(counted)
        log_probs, joint = tally.estimate(prior_count=0.5 if gradient else 0.0)
        return TaskPosterior(
            log_probs,
            tally.sites,
            method=f"Gibbs sampling, {self.num_chains} chains of {self.sweeps} sweeps"
            + ", gradient proposals" * gradient,
            settings={
                "num_chains": self.num_chains,
                "sweeps": self.sweeps,
                "burn_in": self.burn_in,
                "proposals": self.proposals,
                "seed": self.seed,
                "floor": tally.floor,
                "acceptance": 1.0 if moves is None else moves.acceptance,
            },
            passes=run.passes,
            num_observations={n: first.num_observations(s) for n, s in first.sites.items()},
            joint=joint,
        )


class _GradientMoves:
    """Metropolis-Hastings moves of chains, proposed by the gradient where they stand."""

    def __init__(self, chains: Chains) -> None:
        self.chains = chains
        self._accepted: list[float] = []
        chains.log_p, self._slopes = chains.score.with_gradient(chains.ids)

    @property
    def acceptance(self) -> float:
        """The mean probability with which moves were accepted."""
        return sum(self._accepted) / len(self._accepted)

    def step(self, tally: Tally | None) -> None:
        """Propose the change of one task in each chain, and accept it or not."""
        chains = self.chains
        log_q = self._proposal(chains.ids, self._slopes)
        choice = draw_tasks(log_q, chains.generator)
        ids, back, start = {}, torch.zeros_like(choice), 0
        for name, log_pi in chains.log_pi.items():
            here = (choice >= start) & (choice < start + log_pi.shape[-1])
            ids[name] = torch.where(here, choice - start, chains.ids[name])
            back = torch.where(here, chains.ids[name] + start, back)
            start += log_pi.shape[-1]
        log_p, slopes = chains.score.with_gradient(ids)
        log_q_back = self._proposal(ids, slopes)
        log_ratio = log_p - chains.log_p + _at(log_q_back, back) - _at(log_q, choice)
        # Impossible states are left whatever the way, and never entered.
        log_ratio = torch.where(chains.log_p.isneginf(), 0.0, log_ratio)
        accept = torch.where(log_p.isneginf(), 0.0, log_ratio.clamp_max(0).exp())
        drawn = torch.rand(accept.shape, generator=chains.generator, dtype=torch.float64)
        taken = drawn.to(accept.device) < accept
        if tally is not None:  # both states, each with its probability
            tally.add(chains.ids, 1 - accept)
            tally.add(ids, accept)
        chains.ids = {n: torch.where(taken, ids[n], k) for n, k in chains.ids.items()}
        chains.log_p = torch.where(taken, log_p, chains.log_p)
        self._slopes = {
            n: torch.where(taken.unsqueeze(-1), slopes[n], g) for n, g in self._slopes.items()
        }
        self._accepted.append(float(accept.mean()))
        if tally is not None:
            tally.count(chains.ids)

    def _proposal(self, ids: Mapping[str, Tensor], slopes: Mapping[str, Tensor]) -> Tensor:
        """Return the log probability of each change, ``(num,) + batch_shape + (sum K,)``."""
        changes = []
        for name, slope in slopes.items():
            now = ids[name].unsqueeze(-1)
            change = (slope.double() - slope.double().gather(-1, now)) / 2
            changes.append(change.scatter(-1, now, -torch.inf))
        log_q = torch.cat(changes, -1)
        nowhere = log_q.isneginf().all(-1, keepdim=True)  # the proposal is impossible and rejected
        return log_q.masked_fill(nowhere, 0.0).log_softmax(-1)


def _at(log_q: Tensor, choice: Tensor) -> Tensor:
    return log_q.gather(-1, choice.unsqueeze(-1)).squeeze(-1)
