"""The most probable combinations of tasks, and a posterior in which those have been corrected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gbi_pyro.joint import JointTable, draw_tasks, tasks_given
from gbi_pyro.posterior import TaskPosterior


class Shortlist(NamedTuple):
    """Combinations of tasks, the most probable first, each element its own.

    Attributes:
        ids: of every site, ``(m,) + batch_shape``.
        log_q: their log probability, ``(m,) + batch_shape``, float64.
    """

    ids: dict[str, Tensor]
    log_q: Tensor


def most_probable(
    posterior: TaskPosterior, table: JointTable | None, number: int
) -> tuple[Shortlist, Tensor]:
    """Return the most probable combinations of each element, and log q of all others together.

    They are read off the table of all combinations. Without one the list is built site by site,
    from the ``number`` most probable beginnings: this finds the best of independent sites, and is a
    beam search, which may miss some, where sites depend on each other.

    Args:
        posterior: over sites that share their elements.
        table: of it, if it can be written out.
        number: of combinations, at most all of them.
    """
    if table is not None:
        flat = table.flat.double()
        best = flat.topk(number)
        others = flat.scatter(-1, best.indices, -torch.inf).logsumexp(-1)
        ids = torch.unravel_index(best.indices.movedim(-1, 0), tuple(table.sizes.values()))
        by_site = dict(zip(table.sites, ids, strict=True))
        return Shortlist(by_site, best.values.movedim(-1, 0)), others
    found: dict[str, Tensor] = {}
    log_q = torch.zeros((), dtype=torch.float64).expand(1, *_batch_shape(posterior))
    others = torch.full_like(log_q[0], -torch.inf)
    for name in _order(posterior):
        step = _log_conditional(posterior, name, found)
        K = step.shape[-1]
        longer = (log_q.to(step.device).unsqueeze(-1) + step).movedim(-1, 1).flatten(0, 1)
        log_q, at = longer.topk(min(number, len(longer)), 0)
        dropped = longer.scatter(0, at, -torch.inf).logsumexp(0)
        others = torch.logaddexp(others.to(dropped.device), dropped)
        found = {n: ids.gather(0, at // K) for n, ids in found.items()} | {name: at % K}
    return Shortlist(found, log_q), others


@dataclass(frozen=True)
class ShortlistJoint:
    """A joint posterior in which listed combinations have probabilities of their own.

    Attributes:
        base: the posterior that gives all others, up to a factor.
        listed: the combinations, and the log probabilities under ``base`` that are taken away; -inf
            where the new ones are added to those of ``base``.
        log_probs: their new log probabilities, ``(m,) + batch_shape``.
        log_factor: of the probability that ``base`` gives, ``batch_shape``.
    """

    base: TaskPosterior = field(repr=False)
    listed: Shortlist = field(repr=False)
    log_probs: Tensor = field(repr=False)
    log_factor: Tensor = field(repr=False)

    @property
    def sites(self) -> tuple[str, ...]:
        """Its sites, in the order of ``base``."""
        return _order(self.base)

    def marginals(self) -> dict[str, Tensor]:
        """Return log p(z = k) by site, ``batch_shape + (K,)``, float64."""
        found = {}
        for name, q in self.base.log_probs.items():
            chosen = one_hot(self.listed.ids[name], q.shape[-1])
            total = (q.double() + self.log_factor.unsqueeze(-1)).exp()
            old = (self.listed.log_q + self.log_factor).exp().unsqueeze(-1) * chosen
            new = self.log_probs.exp().unsqueeze(-1) * chosen
            found[name] = (_others(total, old.sum(0)) + new.sum(0)).log()
        return {name: p.log_softmax(-1) for name, p in found.items()}

    def sample(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw task ids together, ``(n,) + batch_shape`` for each site."""
        drawn: dict[str, Tensor] = {}
        for name in self.sites:
            logits = self.conditional(name, drawn).logits
            drawn[name] = draw_tasks(
                logits.expand(n, *_batch_shape(self.base), logits.shape[-1]), generator
            )
        return drawn

    def log_prob(self, ids: Mapping[str, Tensor]) -> Tensor:
        """Return log p(all tasks) of each element, ``lead + batch_shape``."""
        same = self._same(ids, self.sites)
        at = same.ndim - len(_batch_shape(self.base)) - 1
        total = self.base.log_prob(ids) + self.log_factor
        new, old = (
            p.masked_fill(~same, -torch.inf).logsumexp(at)
            for p in (self.log_probs, self.listed.log_q + self.log_factor)
        )
        left = _others(torch.ones_like(total), (old - total).exp().nan_to_num(0.0))
        return torch.logaddexp(total + left.log(), new)

    def conditional(self, site: str, given: Mapping[str, Tensor]) -> Any:
        """Return the distribution of a site's tasks given those of the sites before it."""
        batch, before = _batch_shape(self.base), self.sites[: self.sites.index(site)]
        lead_and_batch = torch.broadcast_shapes(batch, *(given[n].shape for n in before))
        ids = {n: given[n].to(self.log_probs.device).expand(lead_and_batch) for n in before}
        log_q = _log_conditional(self.base, site, ids).expand(*lead_and_batch, -1)
        for name in before:
            step = _log_conditional(self.base, name, ids).expand(*lead_and_batch, -1)
            log_q = log_q + step.gather(-1, ids[name].unsqueeze(-1))
        log_q = log_q + self.log_factor.unsqueeze(-1)
        same = self._same(ids, before).expand(*lead_and_batch[: -len(batch) or None], -1, *batch)
        at = same.ndim - len(batch) - 1
        new = self.log_probs.masked_fill(~same, -torch.inf)
        old = (self.listed.log_q + self.log_factor).masked_fill(~same, -torch.inf)
        scale = torch.maximum(log_q.amax(-1), new.amax(at)).clamp_min(torch.finfo(log_q.dtype).min)
        chosen = one_hot(self.listed.ids[site], log_q.shape[-1])
        in_list = [
            ((p - scale.unsqueeze(at)).exp().unsqueeze(-1) * chosen).sum(at) for p in (old, new)
        ]
        total = _others((log_q - scale.unsqueeze(-1)).exp(), in_list[0]) + in_list[1]
        return tasks_given(total.log())

    def _same(self, ids: Mapping[str, Tensor], names: tuple[str, ...]) -> Tensor:
        """Return which of the list agree with ids: ``lead + (m,) + batch_shape``."""
        same = torch.ones_like(self.log_probs, dtype=torch.bool)
        rank = len(_batch_shape(self.base))
        for name in names:
            here = ids[name].to(same.device)
            same = same & (here.unsqueeze(here.ndim - rank) == self.listed.ids[name])
        return same


def _others(total: Tensor, listed: Tensor) -> Tensor:
    """Return what is left of a probability without the listed part, rounding errors aside."""
    left = total - listed
    return left.masked_fill(left < 1e-14 * total, 0.0)


def _order(posterior: TaskPosterior) -> tuple[str, ...]:
    return tuple(posterior.log_probs) if posterior.joint is None else posterior.joint.sites


def _batch_shape(posterior: TaskPosterior) -> torch.Size:
    return next(iter(posterior.log_probs.values())).shape[:-1]


def _log_conditional(q: TaskPosterior, site: str, given: Mapping[str, Tensor]) -> Tensor:
    """Return log q(task of a site | those before it), ``lead + batch_shape + (K,)``."""
    logits = q.log_probs[site] if q.joint is None else q.joint.conditional(site, given).logits
    return logits.double()
