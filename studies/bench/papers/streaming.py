"""A learned refiner carried along observations that come one by one.

Marino, Cvitkovic and Yue 2018, A general method for amortizing variational filtering, NeurIPS. The
posterior of the observations so far is the prior of the next, and one step takes it in. Controls: a
refiner that never sees the gradient, and one gradient step on all observations so far.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.inference.refiner import LearnedRefiner
from gbi_pyro.metrics.agreement import kl
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.problems import Problem, hyperteacher
from studies.bench.papers.config import STREAMING, PapersConfig, generator
from studies.core.protocol import Report
from studies.core.table import Row

CARRIED, BLIND = "carried refiner", "carried refiner without gradient"
ONE_STEP, PRIOR = "one step on all so far", "prior"
Example = tuple[Tensor, Tensor]


def one_by_one(x: Tensor, y: Tensor) -> list[Example]:
    """Return the observations of every case one after the other, each ``(N, 1, numbers)``."""
    return list(zip(x.split(1, 1), y.split(1, 1), strict=True))


def side_by_side(x: Tensor, y: Tensor) -> Tensor:
    """Return what a network reads of observations: their mean, ``(N, numbers)``."""
    return torch.cat([x, y], -1).mean(-2)


@dataclass(frozen=True)
class Streamed:
    """KL(exact || estimate) after each observation, nats, mean over cases.

    Attributes:
        divergence: by method, ``(observations,)``.
        entropy: of the exact posterior, likewise.
        seconds: processor seconds of training, by refiner.
    """

    divergence: dict[str, np.ndarray]
    entropy: np.ndarray
    seconds: dict[str, float]


def measure(seed: int, config: PapersConfig, report: Report) -> Streamed:
    """Train both refiners and follow them along the observations of new cases."""
    problem = hyperteacher(seed, num_examples=config.stream)
    data = problem.draw(config.cases, generator(seed, "data"))
    x, y = data.args
    so_far = [(x[:, :n], y[:, :n]) for n in range(1, config.stream + 1)]
    exact = [problem.exact(problem.model, *part) for part in so_far]
    (site,) = exact[0].sites.values()
    found = {
        ONE_STEP: [OneStepGradient()(problem.model, *part).logits() for part in so_far],
        PRIOR: [site.log_prior for _ in so_far],
    }
    seconds = {}
    for name, use_gradient in ((CARRIED, True), (BLIND, False)):
        report(f"streaming, {name}")
        start = time.process_time()
        refiner = LearnedRefiner(
            steps=1,
            hidden=config.width,
            updates=config.stream_updates,
            batch=config.batch // 2,
            use_gradient=use_gradient,
            features=side_by_side,
            split=one_by_one,
        ).fit(problem, generator(seed, "train"))
        seconds[name] = time.process_time() - start
        found[name] = _followed(refiner, problem, one_by_one(x, y))
    return Streamed(
        divergence={name: _divergences(exact, log_q) for name, log_q in found.items()},
        entropy=np.array([q.entropy().mean().item() for q in exact]),
        seconds=seconds,
    )


def _followed(refiner: LearnedRefiner, problem: Problem, parts: list[Example]) -> list[Tensor]:
    """Return the log probabilities after each observation."""
    posterior = refiner(problem.model, *parts[0])
    found = [posterior.logits()]
    for part in parts[1:]:
        posterior = refiner.refine(posterior, problem.model, *part)
        found.append(posterior.logits())
    return found


def _divergences(exact: list[TaskPosterior], log_q: list[Tensor]) -> np.ndarray:
    pairs = zip(exact, log_q, strict=True)
    return np.array([kl(p.logits().double(), q.double()).mean().item() for p, q in pairs])


def rows(found: Sequence[Streamed]) -> list[Row]:
    """Return the divergences after some of the observations, and their mean."""
    made, stream = [], len(found[0].entropy)
    for name in (CARRIED, BLIND, ONE_STEP, PRIOR):
        curves = [r.divergence[name] for r in found]
        of, note = f"{name}: KL(exact || it)", "" if name == CARRIED else "control"
        row = partial(Row.of, STREAMING, note=note, better="lower")
        for n in sorted({1, (stream + 3) // 4, stream}):
            made.append(
                row(f"{of} after {n} of {stream} observations, nats", [c[n - 1] for c in curves])
            )
        made.append(row(f"{of}, mean over {stream} observations, nats", [c.mean() for c in curves]))
    for name in (CARRIED, BLIND):
        seconds = [r.seconds[name] for r in found]
        made.append(Row.of(STREAMING, f"{name}: processor seconds of training", seconds))
    return made
