"""A model of two tasks that depend on each other, for the tests of samplers and mean field."""

import pyro
import pyro.distributions as dist
import torch
from pyro_models import TASK, normal, random_log_prior
from torch import Tensor

from gbi_pyro import TaskPosterior

F64 = torch.float64


def coupled(x: Tensor, log_prior: Tensor, given_a: Tensor, effects: Tensor) -> None:
    """b given a, and the log likelihood x . effects[a, b] of each element."""
    with pyro.plate("case", len(x)):
        a = pyro.sample("a", dist.OneHotCategorical(logits=log_prior), infer=TASK)
        b = pyro.sample("b", dist.OneHotCategorical(logits=a @ given_a), infer=TASK)
        pyro.factor("x", torch.einsum("...i,...j,ijd,...d->...", a, b, effects, x))


def coupled_data(generator: torch.Generator, n: int, *, same: bool = False) -> tuple[Tensor, ...]:
    """Return what the model takes: n elements, or n times the same one."""
    x = normal(generator, 1 if same else n, 2).expand(n, 2)
    given_a = normal(generator, 2, 3).log_softmax(-1)
    return x, random_log_prior(generator, 2), given_a, normal(generator, 2, 3, 2)


def divergence(exact: TaskPosterior, other: TaskPosterior) -> Tensor:
    """KL(exact || other) of the joint posteriors, element by element."""
    p, q = exact.table(), other.table()
    assert p.sites == q.sites
    terms = p.flat.exp() * (p.flat - q.flat)
    return torch.where(p.flat.exp() > 0, terms, 0.0).sum(-1)


def standard_scores(counts: Tensor, probs: Tensor) -> Tensor:
    """How many standard errors counts are from what independent draws are expected to give."""
    n = counts.sum()
    return (counts - n * probs) / (n * probs * (1 - probs)).sqrt()
