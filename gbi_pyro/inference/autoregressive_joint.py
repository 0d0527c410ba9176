"""A joint posterior over task sites that gives each task given those before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gbi_pyro.joint import JointTable, combinations, draw_tasks, tasks_given

Conditionals = Callable[[str, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True, eq=False)
class AutoregressiveJoint:
    """A joint posterior of sites that share their elements: q(z) = prod_i q(z_i | z_1 .. z_{i-1}).

    Attributes:
        sizes: the number of tasks by site, in the order in which they are drawn.
        batch_shape: the shape of the elements.
        conditionals: called with the name of a site and ids ``lead + batch_shape`` of all sites
            before it, at least; returns log q of each of its tasks, normalised, in a shape that
            broadcasts from the right against ``lead + batch_shape + (K,)``.

    >>> log_probs = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log()  # of b, given a
    >>> def conditionals(site, ids):
    ...     return torch.tensor([0.5, 0.5]).log() if site == "a" else log_probs[ids["a"]]
    >>> joint = AutoregressiveJoint({"a": 2, "b": 2}, torch.Size(), conditionals)
    >>> joint.table().marginals()["b"].exp()
    tensor([0.5500, 0.4500], dtype=torch.float64)
    """

    sizes: dict[str, int]
    batch_shape: torch.Size
    conditionals: Conditionals = field(repr=False)

    @property
    def sites(self) -> tuple[str, ...]:
        """Its sites, in the order in which they are drawn."""
        return tuple(self.sizes)

    def sample(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw task ids together, ``(n,) + batch_shape`` for each site."""
        return self.draw(n, generator)[0]

    def draw(
        self, n: int, generator: torch.Generator | None = None, *, exploration: float = 0.0
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Draw task ids site by site, and return their log probability with its gradient.

        Args:
            n: how many draws.
            generator: a seeded generator; torch's own random state without one.
            exploration: the probability with which a task is drawn from the uniform distribution
                over those that are possible there, and not from q.

        Returns:
            Ids by site, and log q of them, float64; both ``(n,) + batch_shape``.
        """
        ids: dict[str, Tensor] = {}
        total = torch.zeros((n, *self.batch_shape), dtype=torch.float64)
        for name, size in self.sizes.items():
            log_q = self.conditionals(name, ids).expand(n, *self.batch_shape, size)
            here = log_q.detach()
            if exploration:
                possible = (~here.isneginf()).to(here)
                uniform = possible / possible.sum(-1, keepdim=True)
                here = ((1 - exploration) * here.exp() + exploration * uniform).log()
            ids[name] = draw_tasks(here, generator)
            total = total.to(log_q.device) + chosen(log_q, ids[name])
        return ids, total

    def log_prob(self, ids: Mapping[str, Tensor]) -> Tensor:
        """Return log q(all tasks) of each element, ``lead + batch_shape``, float64."""
        terms = [chosen(self.conditionals(name, ids), ids[name]) for name in self.sizes]
        return torch.stack(terms).sum(0)

    def conditional(self, site: str, given: Mapping[str, Tensor]) -> Any:
        """Return the distribution of a site's tasks, one-hot, given those of all sites before it.

        Args:
            site: its name.
            given: ids of the sites before it, each broadcasting from the right against
                ``lead + batch_shape``.
        """
        before = self.sites[: self.sites.index(site)]
        shape = torch.broadcast_shapes(self.batch_shape, *(given[n].shape for n in before))
        log_q = self.conditionals(site, {n: given[n].expand(shape) for n in before})
        return tasks_given(log_q.expand(*shape, self.sizes[site]))

    @property
    def num_combinations(self) -> int:
        """The product of the numbers of tasks."""
        return math.prod(self.sizes.values())

    def combinations(self) -> dict[str, Tensor]:
        """Return ids of all combinations, ``(prod K,) + batch_shape`` by site."""
        ones = [1] * len(self.batch_shape)
        return {
            name: k.reshape(-1, *ones).expand(-1, *self.batch_shape)
            for name, k in combinations(self.sizes).items()
        }

    def table(self) -> JointTable:
        """Return the probability of every combination."""
        return JointTable.of_scores(self.sizes, self.log_prob(self.combinations()).movedim(0, -1))

    def marginals(self, n: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Estimate log q(z_i = k) of each site from draws, ``batch_shape + (K,)``.

        The mean over draws of q(k | tasks before it): no draw of the site itself adds to the error.

        Args:
            n: how many draws.
            generator: a seeded generator; torch's own random state without one.
        """
        ids = self.sample(n, generator)
        found = {}
        for name, size in self.sizes.items():
            log_q = self.conditionals(name, ids).expand(n, *self.batch_shape, size)
            found[name] = log_q.double().logsumexp(0).log_softmax(-1)
        return found


def chosen(log_probs: Tensor, ids: Tensor) -> Tensor:
    """Return the log probability of each id, float64: the shape of the ids."""
    at = ids.to(log_probs.device).unsqueeze(-1)
    return log_probs.expand(*ids.shape, -1).gather(-1, at).squeeze(-1).double()
