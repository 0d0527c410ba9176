"""Log joints of a problem by Pyro alone, and combinations of its tasks."""

import math

import torch
from pyro import poutine
from torch import Tensor
from torch.nn.functional import one_hot

from gbi_pyro.inference.simulator import Drawn
from gbi_pyro.joint import combinations
from gbi_pyro.problems import Problem
from gbi_pyro.sites import TaskSite

F64 = torch.float64


def log_joint(problem: Problem, drawn: Drawn, data: dict[str, Tensor]) -> Tensor:
    """log p(x, z) of each case with its tasks given one-hot, by a trace of the model."""
    trace = poutine.trace(poutine.condition(problem.model, data=data)).get_trace(*drawn.args)
    trace.compute_log_prob()
    terms = [node["log_prob"] for node in trace.nodes.values() if node["type"] == "sample"]
    return torch.stack([t for t in terms if t.ndim]).sum(0)


def some_combinations(sites: dict[str, TaskSite], most: int, otherwise: int) -> dict[str, Tensor]:
    """Ids ``(m,)`` by site: all combinations up to a number, else some random ones."""
    sizes = {name: site.num_tasks for name, site in sites.items()}
    if math.prod(sizes.values()) <= most:
        return combinations(sizes)
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randint(K, (otherwise,), generator=generator) for n, K in sizes.items()}


def one_hots(sites: dict[str, TaskSite], tasks: dict[str, Tensor]) -> dict[str, Tensor]:
    """One-hot tasks, the same in all cases."""
    return {
        name: one_hot(tasks[name].expand(site.batch_shape), site.num_tasks).to(F64)
        for name, site in sites.items()
    }
