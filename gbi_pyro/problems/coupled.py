"""Coupled binary tasks: an Ising model of which every spin is observed with noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.hmm import hmm_posterior
from gbi_pyro.inference.simulator import Drawn
from gbi_pyro.joint import combinations, draw_tasks
from gbi_pyro.logjoint import Passes
from gbi_pyro.posterior import TaskPosterior, detached
from gbi_pyro.problems._draws import check_count, seeded
from gbi_pyro.problems.problem import Problem
from gbi_pyro.problems.site_chain import SiteChain
from gbi_pyro.relax import Model
from gbi_pyro.sites import find_task_sites

MAX_SPINS = 16
"""Beyond it a graph's 2^n combinations are too many for a table."""


@dataclass(frozen=True, eq=False)
class CoupledModel:
    r"""Binary tasks that are coupled along the edges of a graph, each observed with noise.

        p(z, x) \propto \prod_{ij} exp(J_ij s_i s_j) \prod_i N(x_i; s_i, 1)

    with spins s_i = -1 for task 0 and +1 for task 1. Each edge is a ``pyro.factor`` of its own, and
    each observation a site of its own, so that the graph can be read off the model.

    ::

        z0 --- z1 --- z2      z_i: (case, 2)
        |      |      |
        x0     x1     x2      x_i: (case,)

    Attributes:
        num_sites: the number of tasks.
        edges: pairs of tasks.
        couplings: J of each edge, ``(edges,)``.
    """

    num_sites: int
    edges: tuple[tuple[int, int], ...]
    couplings: Tensor

    def __call__(self, x: Tensor) -> None:
        """Run the Pyro model on ``x``, ``(case, num_sites)``."""
        signs = self.couplings.new_tensor([-1.0, 1.0])
        with pyro.plate("case", len(x)):
            spins = []
            for i in range(self.num_sites):
                prior = dist.OneHotCategorical(logits=torch.zeros_like(signs))
                spins.append(pyro.sample(f"z{i}", prior, infer={"task": True}) @ signs)
            for (i, j), coupling in zip(self.edges, self.couplings, strict=True):
                pyro.factor(f"edge{i}_{j}", coupling * spins[i] * spins[j])
            for i, spin in enumerate(spins):
                pyro.sample(f"x{i}", dist.Normal(spin, 1.0), obs=x[..., i])

    def observed(self, ids: Tensor, generator: torch.Generator) -> Drawn:
        """Draw data of given tasks, ``(case, num_sites)``."""
        noise = torch.randn(ids.shape, generator=generator, dtype=self.couplings.dtype)
        tasks = {f"z{i}": column for i, column in enumerate(ids.unbind(-1))}
        return Drawn((2 * ids - 1 + noise,), tasks)


@dataclass(frozen=True, eq=False)
class GraphDraws:
    """Draw cases of any graph, from the table of all combinations."""

    model: CoupledModel

    def __call__(self, n: int, generator: torch.Generator) -> Drawn:
        """Draw ``n`` cases."""
        check_count("n", n)
        found = combinations({f"z{i}": 2 for i in range(self.model.num_sites)})
        ids = torch.stack([*found.values()], -1)
        spins = 2.0 * ids - 1
        ends = torch.tensor(self.model.edges)
        energy = (spins[:, ends[:, 0]] * spins[:, ends[:, 1]]).double()
        chosen = draw_tasks((energy @ self.model.couplings.double()).expand(n, -1), generator)
        return self.model.observed(ids[chosen], generator)


@dataclass(frozen=True, eq=False)
class ChainDraws:
    """Draw cases of a chain: a spin differs from the one before with probability 1/(1 + e^2J)."""

    model: CoupledModel

    def __call__(self, n: int, generator: torch.Generator) -> Drawn:
        """Draw ``n`` cases."""
        check_count("n", n)
        size = (n, self.model.num_sites)
        differs = torch.sigmoid(-2 * self.model.couplings.double())
        limits = torch.cat([differs.new_full((1,), 0.5), differs])
        turns = torch.rand(size, generator=generator, dtype=torch.float64) < limits
        return self.model.observed(turns.long().cumsum(-1) % 2, generator)


@dataclass(frozen=True)
class ChainExact:
    """The exact posterior of a chain of coupled binary tasks, by forward-backward.

    It takes time in proportion to the number of sites, where enumeration takes 2^n passes.

    Args:
        couplings: J of each edge from a task to the next, ``(n - 1,)``.
    """

    couplings: Tensor

    def __call__(self, model: Model, *args: Any) -> TaskPosterior:
        """Return the posterior of data ``x``, ``(case, n)``, its joint a ``SiteChain``."""
        (x,) = args
        sites = find_task_sites(model, x)
        couplings, signs = self.couplings.double(), torch.tensor([-1.0, 1.0], dtype=torch.float64)
        # exp(J s s') = 2 cosh(J) p(s' | s): both rows have the same sum, so edges are transitions
        transition = (couplings[:, None, None] * signs[:, None] * signs).log_softmax(-1)
        start = torch.full((2,), 0.5, dtype=torch.float64).log()
        emission = dist.Normal(signs, 1.0).log_prob(x.double().unsqueeze(-1))
        found = hmm_posterior(start, transition, emission, per_step=True, viterbi=False)
        dtype = next(iter(sites.values())).log_prior.dtype
        observed = torch.tensor(float(len(sites)), dtype=dtype)
        return TaskPosterior(
            dict(zip(sites, found.log_smoothed.to(dtype).unbind(-2), strict=True)),
            detached(sites),
            method="forward-backward along the sites",
            passes=Passes(check=1),
            num_observations={n: observed.expand(s.batch_shape) for n, s in sites.items()},
            log_evidence=(found.log_evidence + couplings.cosh().log().sum()).to(dtype),
            joint=SiteChain.of(tuple(sites), found, transition),
        )


def coupled_graph(
    name: str,
    edges: Sequence[tuple[int, int]],
    couplings: Tensor | Sequence[float],
    *,
    dtype: torch.dtype = torch.float32,
) -> Problem:
    """Return the problem of binary tasks coupled along the edges of a graph.

    The exact posterior is enumerated. See ``CoupledModel``.

    Args:
        name: of the problem.
        edges: pairs (i, j) of tasks 0, 1, ...; each task is in one of them at least.
        couplings: J of each edge, positive where the two tend to be alike.
        dtype: of parameters and data.

    Raises:
        ValueError: for couplings that are not one for each edge, a task that no edge names, an
            edge from a task to itself, and more than 16 tasks.

    >>> problem = coupled_graph("triangle", [(0, 1), (1, 2), (0, 2)], [1.0, 1.0, -1.0])
    >>> (x,), tasks = problem.draw(4, torch.Generator().manual_seed(0))
    >>> x.shape, list(tasks)
    (torch.Size([4, 3]), ['z0', 'z1', 'z2'])
    """
    model = _model(edges, couplings, dtype)
    if model.num_sites > MAX_SPINS:
        raise ValueError(
            f"edges name {model.num_sites} tasks, expected {MAX_SPINS} at most, since all their "
            "combinations are enumerated: take fewer, or coupled_chain for a long chain"
        )
    exact = Enumeration(chunk_size=64, max_joint=2**MAX_SPINS)
    return Problem(name, model, GraphDraws(model), exact)


def graph_chain(num_sites: int = 8, *, dtype: torch.dtype = torch.float32) -> Problem:
    """Return a short chain of coupled tasks, J = 1, enumerated.

    Args:
        num_sites: the number of tasks, 16 at most.
        dtype: of parameters and data.

    Raises:
        ValueError: for fewer than two tasks, or more than 16.

    >>> graph_chain().name
    'graph-8-chain'
    """
    check_count("num_sites", num_sites, at_least=2)
    edges = _chain(num_sites)
    return coupled_graph(f"graph-{num_sites}-chain", edges, [1.0] * len(edges), dtype=dtype)


def frustrated_graph(seed: int, *, dtype: torch.dtype = torch.float32) -> Problem:
    """Return eight tasks coupled along a chain and three more edges, with random signs.

    Where the signs around a loop multiply to -1, no combination satisfies all of its edges.

    Args:
        seed: of the signs.
        dtype: of parameters and data.

    >>> frustrated_graph(0).name
    'graph-8-frustrated'
    """
    edges = [*_chain(8), (0, 3), (2, 6), (4, 7)]
    signs = 2.0 * torch.randint(2, (len(edges),), generator=seeded(seed)) - 1
    return coupled_graph("graph-8-frustrated", edges, signs, dtype=dtype)


def coupled_chain(
    num_sites: int = 40, *, coupling: float = 1.0, dtype: torch.dtype = torch.float32
) -> Problem:
    """Return a chain of coupled tasks of any length, with its exact posterior along the chain.

    Forty sites have 2^40 combinations, beyond any table.

    Args:
        num_sites: the number of tasks.
        coupling: J of every edge.
        dtype: of parameters and data.

    Raises:
        ValueError: for fewer than two tasks.

    >>> problem = coupled_chain(40)
    >>> drawn = problem.draw(3, torch.Generator().manual_seed(0))
    >>> problem.posterior(drawn).log_prob(drawn.tasks).shape
    torch.Size([3])
    """
    check_count("num_sites", num_sites, at_least=2)
    edges = _chain(num_sites)
    model = _model(edges, [coupling] * len(edges), dtype)
    return Problem(f"chain-{num_sites}", model, ChainDraws(model), ChainExact(model.couplings))


def _chain(num_sites: int) -> list[tuple[int, int]]:
    return [(i, i + 1) for i in range(num_sites - 1)]


def _model(
    edges: Sequence[tuple[int, int]], couplings: Tensor | Sequence[float], dtype: torch.dtype
) -> CoupledModel:
    J = torch.as_tensor(couplings, dtype=dtype)
    if J.shape != (len(edges),) or not len(edges):
        raise ValueError(
            f"couplings should be a number for each of the {len(edges)} edges; got shape "
            f"{tuple(J.shape)}"
        )
    named = {i for edge in edges for i in edge}
    if named != set(range(len(named))) or any(i == j for i, j in edges):
        raise ValueError(
            "edges should join different tasks and name all of 0, 1, .. up to the last; got "
            f"{list(edges)}"
        )
    return CoupledModel(len(named), tuple((int(i), int(j)) for i, j in edges), J)
