"""Problems of task inference: a model with task sites, draws from it, its exact posterior."""

from gbi_pyro.inference.simulator import Drawn
from gbi_pyro.problems.catalogue import PROBLEMS
from gbi_pyro.problems.components import components
from gbi_pyro.problems.coupled import coupled_chain, coupled_graph, frustrated_graph, graph_chain
from gbi_pyro.problems.hyperteacher import hyperteacher, hyperteacher_pair
from gbi_pyro.problems.meta_hmm import MetaHMM, meta_hmm
from gbi_pyro.problems.model_choice import model_choice
from gbi_pyro.problems.of_data import from_data
from gbi_pyro.problems.problem import Problem
from gbi_pyro.problems.regression import regression_weights
from gbi_pyro.problems.rules import rules
from gbi_pyro.problems.summed_hmm import SummedHMM
from gbi_pyro.problems.switching import switching

__all__ = [
    "PROBLEMS",
    "Drawn",
    "MetaHMM",
    "Problem",
    "SummedHMM",
    "components",
    "coupled_chain",
    "coupled_graph",
    "from_data",
    "frustrated_graph",
    "graph_chain",
    "hyperteacher",
    "hyperteacher_pair",
    "meta_hmm",
    "model_choice",
    "regression_weights",
    "rules",
    "switching",
]
