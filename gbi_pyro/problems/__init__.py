"""Problems of task inference: a model with task sites, draws from it, its exact posterior."""

from gbi_pyro.inference.simulator import Drawn
from gbi_pyro.problems.problem import Problem

__all__ = ["Drawn", "Problem"]
