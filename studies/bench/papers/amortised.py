"""Recognisers trained by the forward and by the reverse KL, against the exact posterior.

Mittal et al. 2025, Amortized in-context Bayesian posterior estimation, arXiv 2502.06601.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from gbi_pyro.inference.recogniser import Recogniser, forward_kl_loss, reverse_kl_loss
from gbi_pyro.inference.rescoring import Rescored
from gbi_pyro.metrics.agreement import kl
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.problems import Drawn, Problem, components, hyperteacher, regression_weights
from studies.bench.papers.config import AMORTISED, PapersConfig, generator
from studies.bench.papers.training import SetEncoder, train
from studies.core.protocol import Report
from studies.core.table import Row

MAKERS: dict[str, Callable[[int], Problem]] = {
    "components": components,
    "regression": regression_weights,
    "hyperteacher": partial(hyperteacher, num_examples=4),
}
FORWARD, REVERSE = "forward KL", "reverse KL"
SCORED = 4
MISSED = 1e-3  # a probability below which a task is given up


class ReadsData(nn.Module):
    """A set encoder that is called with what a model is called with.

    Args:
        encoder: reads observations with all their numbers side by side.
    """

    def __init__(self, encoder: SetEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, *args: Tensor) -> Tensor:
        """Return ``(N, K)`` of parts ``(N, n)`` or ``(N, n, numbers)``."""
        scores: Tensor = self.encoder(side_by_side(*args))
        return scores


def side_by_side(*args: Tensor) -> Tensor:
    """Return observations with all their numbers side by side, ``(N, n, numbers)``."""
    return torch.cat([part if part.ndim == 3 else part.unsqueeze(-1) for part in args], -1)


@dataclass(frozen=True)
class Recognised:
    """One trained recogniser on test cases.

    Attributes:
        divergence: KL(exact || recogniser), nats, mean over cases.
        worst: the largest of the cases.
        reverse: KL(recogniser || exact), mean over cases: what the reverse KL descends.
        missed: exact probability of the tasks that it gives less than ``MISSED``, mean over cases.
        rescored: KL(exact || recogniser with its most probable tasks scored exactly), mean.
        seconds: processor seconds of training.
    """

    divergence: float
    worst: float
    reverse: float
    missed: float
    rescored: float
    seconds: float


@dataclass(frozen=True)
class Amortised:
    """Recognisers by problem.

    Attributes:
        found: by problem and by loss.
        prior: KL(exact || prior), nats, mean over cases, by problem.
        lowest: by problem, the log probability of the least probable task of a case, mean over
            cases: how sharp posteriors are.
    """

    found: dict[str, dict[str, Recognised]]
    prior: dict[str, float]
    lowest: dict[str, float]


def measure(seed: int, config: PapersConfig, report: Report) -> Amortised:
    """Train a recogniser for every problem by each loss."""
    measured = Amortised({}, {}, {})
    for (name, make), updates in zip(MAKERS.items(), config.recogniser_updates, strict=True):
        problem = make(seed)
        data = problem.draw(config.cases, generator(seed, "data"))
        exact = problem.posterior(data)
        (site,) = exact.sites.values()
        measured.prior[name] = kl(exact.logits().double(), site.log_prior.double()).mean().item()
        measured.lowest[name] = exact.logits().amin(-1).mean().item()
        measured.found[name] = {}
        for loss, make_loss in LOSSES.items():
            report(f"recogniser of {name}, {loss}")
            start = time.process_time()
            observed, draw = side_by_side(*data.args).shape[-1], generator(seed, "weights")
            network = ReadsData(SetEncoder(observed, config.width, site.num_tasks, draw))
            recogniser = Recogniser(network)
            train(network, make_loss(recogniser, problem, seed, config), updates)
            seconds = time.process_time() - start
            measured.found[name][loss] = _compared(recogniser, problem, data, exact, seconds)
    return measured


def _forward(
    recogniser: Recogniser, problem: Problem, seed: int, config: PapersConfig
) -> Callable[[], Tensor]:
    """Return the forward KL of fresh draws: tasks of a fixed set would be learned by heart."""
    draw = generator(seed, "train")

    def loss() -> Tensor:
        data = problem.draw(config.batch, draw)
        (labels,) = data.tasks.values()
        return forward_kl_loss(recogniser, problem.model, labels, *data.args)

    return loss


def _reverse(
    recogniser: Recogniser, problem: Problem, seed: int, config: PapersConfig
) -> Callable[[], Tensor]:
    """Return the reverse KL to exact posteriors, which are computed once."""
    draw = generator(seed, "train")
    batches = [problem.draw(config.batch, draw) for _ in range(config.targets // config.batch)]
    targets = itertools.cycle([(data.args, problem.posterior(data)) for data in batches])

    def loss() -> Tensor:
        args, exact = next(targets)
        return reverse_kl_loss(recogniser, exact, *args)

    return loss


LOSSES = {FORWARD: _forward, REVERSE: _reverse}


def _compared(
    recogniser: Recogniser, problem: Problem, data: Drawn, exact: TaskPosterior, seconds: float
) -> Recognised:
    rescored = Rescored(recogniser, num_scored=SCORED, warn=False)
    p = exact.logits().double()
    q, r = (infer(problem.model, *data.args).logits().double() for infer in (recogniser, rescored))
    by_case = kl(p, q)
    return Recognised(
        divergence=by_case.mean().item(),
        worst=by_case.max().item(),
        reverse=kl(q, p).mean().item(),
        missed=torch.where(q.exp() < MISSED, p.exp(), 0.0).sum(-1).mean().item(),
        rescored=kl(p, r).mean().item(),
        seconds=seconds,
    )


def rows(found: Sequence[Amortised]) -> list[Row]:
    """Return the divergences by problem and loss, with the prior's beside them."""
    made = []
    for problem, by_loss in found[0].found.items():
        prior = [r.prior[problem] for r in found]
        lowest = [r.lowest[problem] for r in found]
        made.append(
            Row.of(AMORTISED, f"{problem}: KL(exact || prior), nats", prior, note="control")
        )
        what = f"{problem}: log probability of the least probable task, nats"
        made.append(Row.of(AMORTISED, what, lowest, note="how sharp posteriors are"))
        for loss in by_loss:
            of = f"recogniser of {problem}, {loss}"
            records = [r.found[problem][loss] for r in found]
            numbers = {
                "KL(exact || it), nats": [r.divergence for r in records],
                "KL(exact || it), nats, largest of the cases": [r.worst for r in records],
                "KL(it || exact), nats": [r.reverse for r in records],
                f"exact probability of tasks below {MISSED:g}": [r.missed for r in records],
                f"KL(exact || it, {SCORED} rescored), nats": [r.rescored for r in records],
            }
            made += [
                Row.of(AMORTISED, f"{of}: {what}", values, better="lower")
                for what, values in numbers.items()
            ]
            seconds = [r.seconds for r in records]
            made.append(Row.of(AMORTISED, f"{of}: processor seconds of training", seconds))
    return made
