"""The joint posterior of sites that hang together as a Markov chain, one site after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from gbi_pyro.inference.hmm import HMMPosterior, log_pairwise


@dataclass(frozen=True)
class SiteChain:
    r"""A joint posterior p(z_1, .., z_n | x) = p(z_1 | x) \prod_i p(z_i | z_{i-1}, x).

    It needs no table of all combinations. See ``gbi_pyro.joint.Joint``.

    Attributes:
        sites: the names, in the order of the chain.
        hmm: its solution, the sites in place of time, ``batch_shape + (n, K)``.
        log_steps: log p(z_i+1 | z_i, x), ``batch_shape + (n - 1, K, K)``.
    """

    sites: tuple[str, ...]
    hmm: HMMPosterior = field(repr=False)
    log_steps: Tensor = field(repr=False)

    @classmethod
    def of(cls, sites: tuple[str, ...], hmm: HMMPosterior, log_transition: Tensor) -> SiteChain:
        """Return the joint posterior of a solved chain.

        Args:
            sites: the names.
            hmm: the solution.
            log_transition: of the chain's prior, ``(n - 1, K, K)``.
        """
        pairs = log_pairwise(hmm, log_transition, per_step=True)
        return cls(sites, hmm, pairs.log_softmax(-1))

    def sample(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw task ids together, ``(n,) + batch_shape`` for each site."""
        return dict(zip(self.sites, self.hmm.paths.sample(n, generator).unbind(-1), strict=True))

    def log_prob(self, ids: Mapping[str, Tensor]) -> Tensor:
        """Return log p(all tasks) of each element, ``lead + batch_shape``, float64."""
        terms = []
        for i, site in enumerate(self.sites):
            logits = self._logits(i, ids)
            at = ids[site].to(logits.device)
            shape = torch.broadcast_shapes(at.shape, logits.shape[:-1])
            logits = logits.expand(*shape, -1)
            terms.append(logits.gather(-1, at.expand(shape).unsqueeze(-1)).squeeze(-1).double())
        return torch.stack(terms).sum(0)

    def conditional(self, site: str, given: Mapping[str, Tensor]) -> Any:
        """Return the distribution of a site's tasks given those before it."""
        return dist.OneHotCategorical(logits=self._logits(self.sites.index(site), given))

    def _logits(self, i: int, ids: Mapping[str, Tensor]) -> Tensor:
        """Return log p(z_i | z_{i-1}, x), ``lead + batch_shape + (K,)``."""
        if i == 0:
            return self.hmm.log_smoothed[..., 0, :]
        steps = self.log_steps[..., i - 1, :, :]
        K, before = steps.shape[-1], ids[self.sites[i - 1]].to(steps.device)
        shape = torch.broadcast_shapes(before.shape, steps.shape[:-2])
        at = before.expand(shape)[..., None, None].expand(*shape, 1, K)
        return steps.expand(*shape, K, K).gather(-2, at).squeeze(-2)
