"""The next symbol predicted by Monte Carlo over tasks, from good and bad posteriors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.inference.curvature import SecondOrderJoint
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.inference.rescoring import Rescored
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.problems import meta_hmm
from studies.bench.papers.config import PREDICTOR, PapersConfig, generator
from studies.bench.papers.prefixes import (
    averaged,
    both_ways,
    combination,
    model_of,
    read_prefixes,
)
from studies.core.protocol import Report
from studies.core.table import Row, Target

DRAWS = tuple(2**i for i in range(9))
"""K, numbers of tasks that are drawn: 1, 2, 4, .., 256."""
EXACT, ONE_STEP, SECOND = "exact posterior", "one step", "second-order joint"
SHORTLIST = "second-order joint, 16 rescored"
ESTIMATES: dict[str, Callable[..., TaskPosterior]] = {
    ONE_STEP: OneStepGradient(),
    SECOND: SecondOrderJoint(),
    SHORTLIST: Rescored(SecondOrderJoint(), num_scored=16, warn=False),
}


@dataclass(frozen=True)
class Predictor:
    """KL both ways between the predictor and the exact p(x_T+1 | x), mean over cases, nats.

    Attributes:
        drawn: by length T and by posterior, for each number of draws in ``DRAWS``.
        limit: by length and posterior, with all combinations weighted: no error of Monte Carlo.
    """

    drawn: dict[str, dict[str, np.ndarray]]
    limit: dict[str, dict[str, float]]


def measure(seed: int, config: PapersConfig, report: Report) -> Predictor:
    """Measure the predictor for every length and posterior."""
    drawn: dict[str, dict[str, np.ndarray]] = {}
    limit: dict[str, dict[str, float]] = {}
    for length in config.lengths:
        report(f"Monte-Carlo predictor, {length} symbols")
        problem = meta_hmm(seed, length=length)
        data, model = problem.draw(config.cases, generator(seed, "data")), model_of(problem)
        prefixes = read_prefixes(model, *data.args)
        exact, symbols = prefixes.predictive()[:, -1], prefixes.next_symbol[:, -1]
        here, end = drawn.setdefault(str(length), {}), limit.setdefault(str(length), {})
        for name, infer in {EXACT: problem.exact, **ESTIMATES}.items():
            posterior = infer(model, *data.args)
            draw = generator(seed, "draws")
            errors = [
                _errors(model.sizes, posterior, symbols, exact, draw) for _ in range(config.repeats)
            ]
            here[name] = torch.stack(errors).mean(0).numpy()
            q = posterior.table().ordered(list(model.sizes)).flat.double().exp()
            end[name] = both_ways(exact, averaged(q, symbols)).mean().item()
    return Predictor(drawn, limit)


def _errors(
    sizes: Mapping[str, int],
    posterior: TaskPosterior,
    symbols: Tensor,
    exact: Tensor,
    draw: torch.Generator,
) -> Tensor:
    """Return the error for every number of draws, ``(len(DRAWS),)``."""
    at = combination(sizes, posterior.sample(DRAWS[-1], generator=draw))
    chosen = symbols.gather(1, at.T.unsqueeze(-1).expand(-1, -1, symbols.shape[-1]))
    counts = torch.arange(1, DRAWS[-1] + 1).unsqueeze(-1)
    running = chosen.cumsum(1) / counts  # the first K of the same draws
    rows = [both_ways(exact, running[:, K - 1]).mean() for K in DRAWS]
    return torch.stack(rows)


def slope(errors: np.ndarray) -> float:
    """Return the slope of log error over log K: -1 where the error is 1 / K.

    >>> round(slope(1 / np.array(DRAWS)), 6)
    -1.0
    """
    return float(np.polyfit(np.log(DRAWS[: len(errors)]), np.log(errors), 1)[0])


def rows(found: Sequence[Predictor]) -> list[Row]:
    """Return slopes, errors at the largest K, and the errors that more draws cannot remove."""
    made = []
    between = Target(-0.9, "worst", also=Target(-1.1, "worst", at_least=True))
    for length, by_name in found[0].drawn.items():
        for name in by_name:
            of = f"Monte-Carlo predictor ({name}), T {length}"
            slopes = [slope(r.drawn[length][name]) for r in found]
            made.append(
                Row.of(
                    PREDICTOR,
                    f"{of}: slope of log error over log K, K = 1 to {DRAWS[-1]}",
                    slopes,
                    between if name == EXACT else None,
                )
            )
            last = [r.drawn[length][name][-1] for r in found]
            made.append(
                Row.of(
                    PREDICTOR,
                    f"{of}: KL both ways to the exact predictive at K {DRAWS[-1]}, nats",
                    last,
                    better="lower",
                )
            )
            if name != EXACT:
                end = [r.limit[length][name] for r in found]
                made.append(
                    Row.of(
                        PREDICTOR,
                        f"{of}: the same without Monte Carlo, nats",
                        end,
                        note="what more draws cannot remove",
                        better="lower",
                    )
                )
    return made
