"""Maximum likelihood of hidden states with Gaussian data."""

from __future__ import annotations

from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from gbi_pyro.inference import LearnedChain, marginalize
from gbi_pyro.learning import Fit, fit_marginal, order_tasks

TOLERANCE = 1e-6  # of the gradient, per number
CHAIN = "chain_initial", "chain_transition"
PSEUDO_COUNT, PSEUDO_VARIANCE = 0.01, 0.01  # of moves between states, and of features in a state


class GaussianStates(NamedTuple):
    """Fitted hidden states.

    Attributes:
        start: ``(K,)``.
        transitions: ``(K, K)``.
        means: ``(K, d)``.
        scales: ``(K, d)``.
        fit: how the fit ended.
    """

    start: Tensor
    transitions: Tensor
    means: Tensor
    scales: Tensor
    fit: Fit


def fit_gaussian_states(
    x: Tensor, real: Tensor, num_states: int, prior_weight: float, starts: int, seed: int
) -> GaussianStates:
    """Fit hidden states to sequences, from means that are drawn among the steps.

    States are ordered by their means, by the first feature that differs. Pyro's parameter store is
    left as it was.

    Args:
        x: ``(S, T, d)``, features of about unit size.
        real: which steps are no padding, ``(S, T)``.
        num_states: K.
        prior_weight: of what is added to the log likelihood: each move between states was seen
            ``PSEUDO_COUNT`` times, each state once with ``PSEUDO_VARIANCE``.
        starts: how many.
        seed: of the starts.
    """
    K, d, steps = num_states, x.shape[-1], x[real]

    def draw_means(generator: torch.Generator) -> Tensor:
        return steps[torch.randperm(len(steps), generator=generator)[:K]].clone()

    first = draw_means(torch.Generator().manual_seed(seed))

    def model(x: Tensor) -> None:
        means = pyro.param("means", first)
        scales = pyro.param("scales", torch.ones_like(first), constraint=constraints.positive)
        if prior_weight:
            variance = scales.square()
            penalty = 0.5 * (variance.log() + PSEUDO_VARIANCE / variance).sum()
            for name in CHAIN if K > 1 else ():
                penalty = penalty - PSEUDO_COUNT * pyro.param(name).log().sum()
            pyro.factor("prior", -prior_weight * penalty)
        plates = pyro.plate("session", len(x), dim=-2), pyro.plate("time", x.shape[1], dim=-1)
        with plates[0], plates[1]:
            prior = dist.OneHotCategorical(torch.ones(K, dtype=torch.float64))
            z = pyro.sample("z", prior, infer={"task": True})
            with poutine.mask(mask=real):
                pyro.sample("x", dist.Normal(z @ means, z @ scales).to_event(1), obs=x)

    with pyro.get_param_store().scope():
        fit = fit_marginal(
            marginalize(model, LearnedChain(K, time="time"), check=False),
            x,
            starts=starts,
            seed=seed,
            draw_start=lambda generator: {"means": draw_means(generator)},
            num_observations=len(steps) * d,
            tolerance=TOLERANCE,
        )
    found = fit.estimates
    means, one = found["means"], torch.ones(1, 1, dtype=torch.float64)
    order = torch.arange(K)
    for feature in reversed(range(d)):  # stable: the first feature decides
        order = order[order_tasks(means[order, feature])]
    start, transitions = (found[name] for name in CHAIN) if K > 1 else (one[0], one)
    return GaussianStates(
        start[order], transitions[order][:, order], means[order], found["scales"][order], fit
    )
