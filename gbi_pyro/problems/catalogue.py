"""The catalogue of problems, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch

from gbi_pyro.problems.components import components
from gbi_pyro.problems.coupled import coupled_chain, frustrated_graph, graph_chain
from gbi_pyro.problems.hyperteacher import hyperteacher, hyperteacher_pair
from gbi_pyro.problems.meta_hmm import meta_hmm
from gbi_pyro.problems.model_choice import model_choice
from gbi_pyro.problems.problem import Problem
from gbi_pyro.problems.regression import regression_weights
from gbi_pyro.problems.rules import rules
from gbi_pyro.problems.switching import switching


class MakeProblem(Protocol):
    """Make a problem from the seed of its parameters."""

    def __call__(self, seed: int, /, *, dtype: torch.dtype = torch.float32) -> Problem:
        """Return the problem; data are drawn later, by its ``draw``."""


class _Fixed:
    """Make a problem without random parameters, whatever the seed."""

    def __init__(self, make: Callable[..., Problem]) -> None:
        self.make = make

    def __call__(self, seed: int, /, *, dtype: torch.dtype = torch.float32) -> Problem:
        return self.make(dtype=dtype)


_HMM_256 = partial(meta_hmm, bases=4, speeds=2, emissions=2, shifts=2)
_HMM_12288 = partial(meta_hmm, bases=4, speeds=3, families=4, emissions=4, shifts=2)

PROBLEMS: dict[str, MakeProblem] = {
    "switching-2": _Fixed(partial(switching, 2)),
    "switching-4": _Fixed(partial(switching, 4)),
    "switching-5": _Fixed(partial(switching, 5)),
    "metahmm-24-T10": partial(meta_hmm, length=10),
    "metahmm-24-T40": partial(meta_hmm, length=40),
    "metahmm-256-T40": partial(_HMM_256, length=40),
    "metahmm-12288-T40": partial(_HMM_12288, length=40),
    "hyperteacher-n1": partial(hyperteacher, num_examples=1),
    "hyperteacher-n4": partial(hyperteacher, num_examples=4),
    "hyperteacher-n16": partial(hyperteacher, num_examples=16),
    "hyperteacher-pair-n4": partial(hyperteacher_pair, num_examples=4),
    "rules-n1": _Fixed(partial(rules, 1)),
    "rules-n4": _Fixed(partial(rules, 4)),
    "components": components,
    "regression-weights": regression_weights,
    "model-index": _Fixed(model_choice),
    "graph-8-chain": _Fixed(graph_chain),
    "graph-8-frustrated": frustrated_graph,
    "chain-40": _Fixed(coupled_chain),
}
"""What makes each problem, ``PROBLEMS[name](seed, dtype=torch.float32)``, by the problem's name.

The seed is that of the parameters; switching, rules, model-index, graph-8-chain and chain-40 have
none that are random.

>>> problem = PROBLEMS["graph-8-frustrated"](0)
>>> drawn = problem.draw(2, torch.Generator().manual_seed(0))
>>> problem.posterior(drawn).probs("z0").shape
torch.Size([2, 2])
"""
