"""Problems of task inference: a model with task sites, draws from it, its exact posterior."""

from gbi_pyro.inference.simulator import Drawn
from gbi_pyro.problems.catalogue import PROBLEMS
from gbi_pyro.problems.coupled import coupled_chain, coupled_graph, frustrated_graph, graph_chain
from gbi_pyro.problems.meta_hmm import MetaHMM, meta_hmm
from gbi_pyro.problems.problem import Problem
from gbi_pyro.problems.summed_hmm import SummedHMM
from gbi_pyro.problems.switching import switching

__all__ = [
    "PROBLEMS",
    "Drawn",
    "MetaHMM",
    "Problem",
    "SummedHMM",
    "coupled_chain",
    "coupled_graph",
    "frustrated_graph",
    "graph_chain",
    "meta_hmm",
    "switching",
]
