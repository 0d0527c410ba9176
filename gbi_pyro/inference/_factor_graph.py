"""The graph of a model's tasks: which factor depends on which, and an order to eliminate them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import torch

from gbi_pyro.inference.pairwise_joint import elimination_order
from gbi_pyro.logjoint import RelaxedModel
from gbi_pyro.sites import TaskSite

Scopes = Mapping[str, frozenset[str]]


@torch.enable_grad()
def factor_scopes(run: RelaxedModel, generator: torch.Generator) -> dict[str, frozenset[str]]:
    """Return the task sites that each factor of the log joint depends on.

    Read off one run at random points inside the simplices: a factor depends on a task where its
    gradient with respect to the point is not zero. Each element of the plates has a point of its
    own, so a gradient that happens to vanish for one of them hides nothing.

    Args:
        run: the model with its data.
        generator: a seeded generator, for the points.
    """

    def point(site: TaskSite) -> torch.Tensor:
        scores = torch.randn(site.log_prior.shape, generator=generator)
        return scores.to(site.log_prior).softmax(-1)

    joint = run.log_joint(point, order=1)
    run.count(forward=1)
    names, values = list(joint.values), list(joint.values.values())
    scopes = {}
    for factor, term in joint.factors.items():
        scopes[factor] = frozenset[str]()
        if term.total.requires_grad:
            found = torch.autograd.grad(term.total, values, retain_graph=True, allow_unused=True)
            run.count(backward=1)
            reached = [g is not None and bool(g.any()) for g in found]
            scopes[factor] = frozenset(n for n, r in zip(names, reached, strict=True) if r)
    return scopes


def neighbours(sites: Sequence[str], scopes: Scopes) -> dict[str, set[str]]:
    """Return the sites that share a factor with each site.

    >>> found = neighbours("abc", {"x": frozenset("ab"), "y": frozenset("bc")})
    >>> {name: sorted(others) for name, others in found.items()}
    {'a': ['b'], 'b': ['a', 'c'], 'c': ['b']}
    """
    return {
        name: set().union(*(s for s in scopes.values() if name in s)) - {name} for name in sites
    }


def elimination_parents(sizes: Mapping[str, int], scopes: Scopes) -> dict[str, tuple[str, ...]]:
    """Return the parents of each site in a directed graph that can hold the exact posterior.

    Sites are eliminated one after the other. The neighbours that a site has left are its parents,
    and are connected to each other: given them it is independent of all other sites that are left
    (Koller & Friedman 2009, Probabilistic graphical models, ch. 9).

    Args:
        sizes: K by site.
        scopes: the sites of each factor.

    Returns:
        The parents by site, in the reverse order of elimination: parents come first.

    >>> elimination_parents({"a": 2, "b": 2, "c": 2}, {"x": frozenset("ab"), "y": frozenset("bc")})
    {'a': (), 'b': ('a',), 'c': ('b',)}
    """
    left = neighbours(list(sizes), scopes)
    edges = [(name, other) for name, others in left.items() for other in others]
    last_first = {name: sizes[name] for name in reversed(list(sizes))}  # ties: the last goes first
    parents: dict[str, tuple[str, ...]] = {}
    for name in elimination_order(last_first, edges, max_joint=sys.maxsize):
        own = left.pop(name)
        parents[name] = tuple(n for n in sizes if n in own)
        for other in own:
            left[other] = (left[other] | own) - {name, other}
    return dict(reversed(parents.items()))


def colouring(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return groups of sites of which no two are neighbours, few of them, greedily.

    >>> colouring({"a": {"b"}, "b": {"a", "c"}, "c": {"b"}})
    [['a', 'c'], ['b']]
    """
    groups: list[list[str]] = []
    for name, others in graph.items():
        free = [group for group in groups if not others & {*group}]
        if free:
            free[0].append(name)
        else:
            groups.append([name])
    return groups
