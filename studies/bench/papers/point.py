"""The full posterior against its most probable tasks alone, by the next observation.

Mittal et al. 2025, In-context parametric inference: point or distribution estimators?, arXiv
2502.11617.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.inference.log_likelihoods import log_likelihoods
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.problems import Problem, meta_hmm, regression_weights
from studies.bench.papers.config import POINT, PapersConfig, generator
from studies.bench.papers.prefixes import model_of, read_prefixes
from studies.core.protocol import Report
from studies.core.table import Row

EXACT, ONE_STEP = "exact posterior", "one step"
FULL, MODE = "full posterior", "most probable tasks"
TEST = 10  # test cases for each case of other problems: differences between the two are small


@dataclass(frozen=True)
class PointOrDistribution:
    """Negative log likelihood of the next observation, nats, mean over cases.

    Attributes:
        nll: by problem, by inference, and by what is taken of its posterior.
    """

    nll: dict[str, dict[str, dict[str, float]]]


def measure(seed: int, config: PapersConfig, report: Report) -> PointOrDistribution:
    """Score the next observation on regression and on MetaHMM sequences."""
    found = {}
    for shots in config.shots:
        report(f"point or distribution, regression of {shots} observations")
        found[f"regression, n {shots}"] = _regression(seed, shots, config)
    for length in config.lengths:
        report(f"point or distribution, {length} symbols")
        found[f"MetaHMM, T {length}"] = _symbols(seed, length, config)
    return PointOrDistribution(found)


def _regression(seed: int, shots: int, config: PapersConfig) -> dict[str, dict[str, float]]:
    problem = regression_weights(seed, num_examples=shots + 1)
    data = problem.draw(TEST * config.cases, generator(seed, "data"))
    before = tuple(part[:, :shots] for part in data.args)
    after = tuple(part[:, shots:] for part in data.args)
    # The weights are constant, so the next observation depends on them alone.
    log_next = log_likelihoods(problem.exact(problem.model, *after)).double()
    return _scores(problem, before, log_next)


def _symbols(seed: int, length: int, config: PapersConfig) -> dict[str, dict[str, float]]:
    problem = meta_hmm(seed, length=length + 1)
    (x,) = problem.draw(TEST * config.cases, generator(seed, "data")).args
    symbols = read_prefixes(model_of(problem), x[:, :length]).next_symbol[:, -1]
    at = x[:, length, None, None].expand(-1, symbols.shape[1], 1)
    return _scores(problem, (x[:, :length],), symbols.gather(-1, at).squeeze(-1).log())


def _scores(
    problem: Problem, before: tuple[Any, ...], log_next: Tensor
) -> dict[str, dict[str, float]]:
    """Return negative log likelihoods, of log p(next | before, z), ``(N, combinations)``."""
    ways: dict[str, Callable[..., TaskPosterior]] = {
        EXACT: problem.exact,
        ONE_STEP: OneStepGradient(),
    }
    found = {}
    for name, infer in ways.items():
        q = infer(problem.model, *before).table().flat.double()
        best = log_next.gather(-1, q.argmax(-1, keepdim=True))
        found[name] = {
            FULL: -(q + log_next).logsumexp(-1).mean().item(),
            MODE: -best.mean().item(),
        }
    return found


def rows(found: Sequence[PointOrDistribution]) -> list[Row]:
    """Return the negative log likelihoods, and what the mode alone costs."""
    made = []
    for problem, by_inference in found[0].nll.items():
        for name in by_inference:
            of = f"{problem}, {name}"
            scores = {k: [r.nll[problem][name][k] for r in found] for k in (FULL, MODE)}
            for k, values in scores.items():
                what = f"{of}: negative log likelihood of the next observation, {k}, nats"
                made.append(Row.of(POINT, what, values, better="lower"))
            cost = [m - f for f, m in zip(scores[FULL], scores[MODE], strict=True)]
            made.append(Row.of(POINT, f"{of}: cost of the most probable tasks alone, nats", cost))
    return made
