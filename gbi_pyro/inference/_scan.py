"""Markov chains over the tasks of each element, and the posterior that their states estimate."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from gbi_pyro.inference._combinations import Scorer
from gbi_pyro.inference._shortlist import Shortlist, ShortlistJoint
from gbi_pyro.joint import Joint, JointTable, draw_tasks
from gbi_pyro.posterior import TaskPosterior, detached
from gbi_pyro.sites import TaskSite


class Chains:
    """Markov chains over the tasks of all sites, several for each element.

    A scan leaves p(x, z)^power pi(z)^(1 - power) unchanged, pi the product of the sites' priors.

    Args:
        score: scores combinations exactly.
        num: how many chains; they begin at draws from pi.
        generator: for all draws.

    Attributes:
        ids: where they stand, by site, ``(num,) + batch_shape``.
        log_p: log p(x, z) there, ``(num,) + batch_shape``, float64.
        log_pi: the priors by site, ``batch_shape + (K,)``.
    """

    def __init__(self, score: Scorer, num: int, generator: torch.Generator) -> None:
        self.score, self.generator = score, generator
        self.log_pi = {
            n: s.log_prior.detach().double().log_softmax(-1) for n, s in score.sites.items()
        }
        self.ids = {
            n: draw_tasks(p.expand(num, *p.shape), generator) for n, p in self.log_pi.items()
        }
        self.log_p = score(self.ids)

    @property
    def log_prior(self) -> Tensor:
        """Log pi(z) where they stand, ``(num,) + batch_shape``."""
        terms = [
            p.expand(*self.ids[n].shape, p.shape[-1]).gather(-1, self.ids[n].unsqueeze(-1))
            for n, p in self.log_pi.items()
        ]
        return torch.cat(terms, -1).sum(-1)

    def select(self, kept: Tensor) -> None:
        """Let chains stand where others do: which ones, ``(num,) + batch_shape``."""
        self.ids = {n: k.gather(0, kept) for n, k in self.ids.items()}
        self.log_p = self.log_p.gather(0, kept)

    def scan(self, power: float = 1.0, tally: Tally | None = None) -> None:
        """Draw the tasks of each site from their conditional, one site after the other."""
        for name in self.ids:
            log_p, log_q = self._conditional(name, power)
            if tally is not None:
                tally.add_conditional(self.ids, name, log_q)
            self.ids = {**self.ids, name: draw_tasks(log_q, self.generator)}
            self.log_p = log_p.gather(-1, self.ids[name].unsqueeze(-1)).squeeze(-1)
        if tally is not None:
            tally.count(self.ids)

    def _conditional(self, name: str, power: float) -> tuple[Tensor, Tensor]:
        """Return log p(x, z) for each task of a site, and its log conditional.

        Both are ``(num,) + batch_shape + (K,)``. Of the present task the score is known.
        """
        log_pi, now = self.log_pi[name], self.ids[name]
        K = log_pi.shape[-1]
        others = (now + torch.arange(1, K, device=now.device).reshape(-1, *[1] * now.ndim)) % K
        ids = {n: k.expand_as(others).flatten(0, 1) for n, k in self.ids.items()}
        scores = self.score({**ids, name: others.flatten(0, 1)}).reshape(others.shape)
        at = torch.cat([now.unsqueeze(0), others]).movedim(0, -1)
        found = torch.cat([self.log_p.unsqueeze(0), scores]).movedim(0, -1)
        log_p = torch.empty_like(found).scatter(-1, at, found)
        target = log_p if power == 1.0 else power * log_p + (1 - power) * log_pi
        # A state all of whose neighbours are impossible would never be left: it moves by the prior.
        stuck = target.isneginf().all(-1, keepdim=True)
        return log_p, torch.where(stuck, log_pi, target).log_softmax(-1)


class Tally:
    """Counts of the states that chains visit, and the posterior that they estimate.

    Where the states come from conditionals these are counted in place of the draws from them
    (Rao-Blackwellised; Gelfand and Smith, 1990).

    Args:
        sites: the task sites.
        max_joint: the largest number of combinations that are written out as a table.
    """

    def __init__(self, sites: Mapping[str, TaskSite], max_joint: int) -> None:
        self.sites, self.num_states = detached(sites), 0
        self.sizes = {n: s.num_tasks for n, s in sites.items()}
        self.num_joint = math.prod(self.sizes.values())
        site = next(iter(sites.values()))
        zero = torch.zeros((), dtype=torch.float64, device=site.log_prior.device)
        shape = site.batch_shape
        self._marginals = {n: zero.log().expand(*shape, K) for n, K in self.sizes.items()}
        self._states: list[dict[str, Tensor]] = []
        self._table: Tensor | None = None
        if len(self.sizes) > 1 and self.num_joint <= max_joint:
            self._table = zero.repeat(*shape, self.num_joint)

    @property
    def floor(self) -> float:
        """The KL divergence that a histogram of as many independent draws is expected to have."""
        return (self.num_joint - 1) / (2 * self.num_states)

    def count(self, ids: Mapping[str, Tensor]) -> None:
        """Count states, ``(num,) + batch_shape`` by site, as so many draws."""
        self.num_states += len(next(iter(ids.values())))
        if self._table is None:
            self._states.append(dict(ids))

    def add_conditional(self, ids: Mapping[str, Tensor], name: str, log_q: Tensor) -> None:
        """Add the conditional of one site, ``(num,) + batch_shape + (K,)``, the others at ids."""
        self._marginals[name] = torch.logaddexp(self._marginals[name], log_q.logsumexp(0))
        if self._table is not None:
            weights = log_q.exp() / len(self.sizes)
            for k in range(self.sizes[name]):
                self._add_to_table({**ids, name: torch.full_like(ids[name], k)}, weights[..., k])

    def add(self, ids: Mapping[str, Tensor], weights: Tensor) -> None:
        """Add states with weights, both ``(num,) + batch_shape``."""
        for name, own in ids.items():
            log_w = weights.log().unsqueeze(-1)
            log_q = torch.full_like(log_w, -torch.inf).expand(*own.shape, self.sizes[name])
            log_q = log_q.scatter(-1, own.unsqueeze(-1), log_w)
            self._marginals[name] = torch.logaddexp(self._marginals[name], log_q.logsumexp(0))
        if self._table is not None:
            self._add_to_table(ids, weights)

    def _add_to_table(self, ids: Mapping[str, Tensor], weights: Tensor) -> None:
        assert self._table is not None
        at = torch.zeros_like(next(iter(ids.values())))
        for name, K in self.sizes.items():
            at = at * K + ids[name]
        self._table.scatter_add_(-1, at.movedim(0, -1), weights.movedim(0, -1))

    def estimate(self, prior_count: float = 0.0) -> tuple[dict[str, Tensor], Joint | None]:
        """Return the log probabilities by site, and the joint posterior of several sites.

        To the n counted states the product of the marginals is added as sqrt(n) more, which is the
        weight of the minimax estimate (Trybula, 1958); a table is then fitted to the marginals.

        Args:
            prior_count: added to the count of each task that the prior allows.
        """
        marginals = {}
        for name, log_sum in self._marginals.items():
            allowed = ~self.sites[name].log_prior.isneginf()
            count = torch.where(allowed, prior_count, 0.0).to(log_sum)
            marginals[name] = torch.logaddexp(log_sum, count.log()).log_softmax(-1)
        joint: JointTable | ShortlistJoint | None = None
        if self._table is not None:
            joint = _fitted(self._table, self.num_states, marginals)
        elif len(self.sizes) > 1:
            joint = self._of_states(marginals)
        if joint is not None:
            marginals = joint.marginals()
        return {n: q.to(self.sites[n].log_prior.dtype) for n, q in marginals.items()}, joint

    def _of_states(self, marginals: dict[str, Tensor]) -> ShortlistJoint:
        ids = {n: torch.cat([state[n] for state in self._states]) for n in self.sizes}
        n, like = self.num_states, next(iter(marginals.values()))[..., 0]
        log_total = math.log(n + math.sqrt(n))
        new = torch.full((n, *like.shape), -log_total).to(like)
        listed = Shortlist(ids, torch.full_like(new, -torch.inf))
        product = TaskPosterior(marginals, self.sites, "product of marginals")
        return ShortlistJoint(
            product, listed, new, torch.full_like(like, 0.5 * math.log(n) - log_total)
        )


def _fitted(counts: Tensor, n: int, marginals: Mapping[str, Tensor]) -> JointTable:
    """Return counts and a prior as a table, fitted to its marginals by one round of scaling."""
    sizes = {name: q.shape[-1] for name, q in marginals.items()}

    def along(q: Tensor, i: int) -> Tensor:
        return q.reshape(*q.shape[:-1], *[1] * i, q.shape[-1], *[1] * (len(sizes) - i - 1))

    product = sum(along(q, i) for i, q in enumerate(marginals.values()))
    assert isinstance(product, Tensor)
    total = torch.logaddexp(counts.log(), product.flatten(-len(sizes)) + 0.5 * math.log(n))
    for i, (name, q) in enumerate(marginals.items()):
        table = JointTable.of_scores(sizes, total)
        change = (q - table.marginals()[name]).masked_fill(q.isneginf(), -torch.inf)
        total = (table.log_probs + along(change, i)).flatten(-len(sizes))
    return JointTable.of_scores(sizes, total)
