"""Small Pyro models whose posterior has a closed form, and oracles that use Pyro alone."""

import itertools
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

TASK = {"task": True}


def normal(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def random_log_prior(generator: torch.Generator, *shape: int) -> Tensor:
    return normal(generator, *shape).log_softmax(-1)


def random_log_probs(generator: torch.Generator, *shape: int, scale: float = 2.0) -> Tensor:
    return (scale * normal(generator, *shape)).log_softmax(-1)


def drawn_labels(generator: torch.Generator, log_probs: Tensor) -> Tensor:
    return torch.multinomial(log_probs.exp(), 1, generator=generator).squeeze(-1)


def gaussian(x: Tensor, means: Tensor, sigma: float | Tensor, log_prior: Tensor) -> None:
    """x_i ~ Normal(mu_z, sigma), a task for each element; means (K,), or (K, D) for vectors."""
    with pyro.plate("sequence", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(logits=log_prior), infer=TASK)
        noise = dist.Normal(z @ means, sigma)
        pyro.sample("x", noise.to_event(means.ndim - 1), obs=x)


def gaussian_scores(x: Tensor, means: Tensor, sigma: float, log_prior: Tensor) -> Tensor:
    """log p(x_i, z = k), in closed form."""
    means = means.reshape(len(means), -1)
    x = x.reshape(len(x), 1, -1)
    return log_prior + dist.Normal(means, sigma).log_prob(x).sum(-1)


def log_joint_by_pyro(model: Callable[..., Any], tasks: dict[str, Tensor], *args: Any) -> Tensor:
    """Pyro's own log joint with the tasks observed, one-hot."""
    given = poutine.condition(model, data=tasks)
    return poutine.trace(given).get_trace(*args).log_prob_sum()


def brute_force(
    model: Callable[..., Any],
    shapes: dict[str, tuple[int, ...]],
    *args: Any,
    temperature: float = 1.0,
) -> tuple[dict[str, Tensor], Tensor]:
    """Try every task of every element together; shapes are ``batch_shape + (K,)`` by site.

    Returns each site's marginal probabilities, under p(x, z)^(1 / T) normalised, and the log
    evidence of everything.
    """
    spaces = [
        itertools.product(range(shape[-1]), repeat=torch.Size(shape[:-1]).numel())
        for shape in shapes.values()
    ]
    scores, values = [], []
    for ids in itertools.product(*spaces):
        tasks = {
            name: torch.nn.functional.one_hot(torch.tensor(i), shape[-1]).double().reshape(shape)
            for (name, shape), i in zip(shapes.items(), ids, strict=True)
        }
        scores.append(log_joint_by_pyro(model, tasks, *args))
        values.append(tasks)
    weights = (torch.stack(scores) / temperature).softmax(0)
    marginals = {
        name: sum(w * v[name] for w, v in zip(weights, values, strict=True)) for name in shapes
    }
    return marginals, torch.stack(scores).logsumexp(0)
