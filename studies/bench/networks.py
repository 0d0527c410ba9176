"""A shortlist on networks that were trained on real data: exact scores of the best few tasks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gbi_pyro.inference.calibration import calibrate
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.inference.rescoring import Rescored
from gbi_pyro.metrics.agreement import kl
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.problems import Drawn, Problem
from studies.bench.data_problems import data_problems
from studies.bench.measure import generator
from studies.bench.methods import CALIBRATED, EXACT, ONE_STEP, Infer, rescored
from studies.core.protocol import Found, Part, Report
from studies.core.table import Row, Target

NETWORKS = "B10"
CASES = {"corpora": 3000}
MOST, BATCH = 10_000, {"corpora": 100}
SCORED = (3, 5)
FITTED = 1000  # cases of the validation split that the calibration is fitted on
LOST, DIVERGENCE = 0.003, 0.3  # targets: share of cases, nats


@dataclass(frozen=True)
class Way:
    """A way to infer the tasks of a network's test cases.

    Attributes:
        accuracy: share of cases whose most probable task is the true one.
        divergence: KL(exact || it), nats, mean over cases.
        log_score: -log q(true task), nats, mean over cases.
        passes: forward and backward, of one case.
        seconds: processor seconds for all cases.
    """

    accuracy: float
    divergence: float
    log_score: float
    passes: int
    seconds: float


@dataclass(frozen=True)
class OnNetwork:
    """All ways on one trained network.

    Attributes:
        ways: by name.
        cases: how many test cases.
        training: processor seconds of the network's training.
    """

    ways: dict[str, Way] = field(default_factory=dict)
    cases: int = 0
    training: float = 0.0


def network_parts(data: Path) -> list[Part[Any]]:
    """Return a part for each problem with real data in a folder."""
    return [
        Part.of_seed(_part(name), OnNetwork, partial(_measured, name, data))
        for name in data_problems(data)
    ]


def network_rows(found: Found, names: Sequence[str]) -> list[Row]:
    """Return the rows of all networks."""
    return [row for name in names for row in _rows(name, found[_part(name)])]


def _measured(name: str, data: Path, seed: int, report: Report) -> OnNetwork:
    make = data_problems(data)[name]
    report(f"network of {name}")
    start = time.process_time()
    problem, validation = make(seed), make(seed, split="validation")
    seconds = time.process_time() - start
    found = measure(problem, validation, seed, CASES.get(name, MOST), BATCH.get(name, 1000), FITTED)
    return OnNetwork(found, CASES.get(name, MOST), seconds)


def measure(
    problem: Problem, validation: Problem, seed: int, cases: int, batch: int, fitted: int
) -> dict[str, Way]:
    """Measure every way on the test cases of a network.

    Args:
        problem: of the test split.
        validation: of the split that the calibration is fitted on.
        seed: of the draws.
        cases, fitted: how many cases of each.
        batch: how many at a time.
    """
    drawn = problem.draw(cases, generator(seed, "data"))
    exact, truth, seconds, passes = _in_batches(problem.exact, problem, drawn, batch)
    found = {EXACT: _way(exact, exact, truth, passes, seconds)}
    one_step = OneStepGradient()
    other = validation.draw(fitted, generator(seed, "fit"))
    parts = [part for part, _ in _batches(other, batch)]
    calibration = calibrate(
        [one_step(problem.model, *part) for part in parts],
        [problem.exact(problem.model, *part) for part in parts],
    )
    ways: dict[str, Infer] = {
        ONE_STEP: one_step,
        CALIBRATED: OneStepGradient(calibration=calibration),
    }
    for base, infer in list(ways.items()):
        ways |= {rescored(base, m): Rescored(infer, m, warn=False) for m in SCORED}
    for name, infer in ways.items():
        log_q, _, seconds, passes = _in_batches(infer, problem, drawn, batch)
        found[name] = _way(exact, log_q, truth, passes, seconds)
    return found


def _batches(drawn: Drawn, size: int) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    """Give arguments and true tasks of some cases at a time."""
    (tasks,) = drawn.tasks.values()
    for start in range(0, len(tasks), size):
        at = slice(start, start + size)
        yield tuple(part[at] for part in drawn.args), tasks[at]


def _in_batches(
    infer: Callable[..., TaskPosterior], problem: Problem, drawn: Drawn, size: int
) -> tuple[Tensor, Tensor, float, int]:
    """Return log probabilities, true tasks, processor seconds and passes of a case."""
    rows, truth, passes = [], [], 0
    start = time.process_time()
    for args, tasks in _batches(drawn, size):
        found = infer(problem.model, *args)
        passes = found.passes.forward + found.passes.backward
        rows.append(found.logits().double().flatten(0, -2))
        truth.append(tasks.flatten())
    return torch.cat(rows), torch.cat(truth), time.process_time() - start, passes


def _way(exact: Tensor, log_q: Tensor, truth: Tensor, passes: int, seconds: float) -> Way:
    return Way(
        accuracy=(log_q.argmax(-1) == truth).double().mean().item(),
        divergence=kl(exact.log_softmax(-1), log_q.log_softmax(-1)).mean().item(),
        log_score=-log_q.gather(-1, truth.unsqueeze(-1)).mean().item(),
        passes=passes,
        seconds=seconds,
    )


def _rows(name: str, found: Sequence[OnNetwork]) -> Iterator[Row]:
    """Return the rows of one network, targets at the shortlists of one step."""
    short, longer = (rescored(ONE_STEP, m) for m in SCORED)
    cases = f"{found[0].cases} cases"
    for way in found[0].ways:
        each = [record.ways[way] for record in found]
        note = f"{each[0].passes} passes, {cases}"
        what = f"{name}, trained network: {way}"
        yield Row.of(
            NETWORKS, f"{what}: accuracy", [w.accuracy for w in each], note=note, better="higher"
        )
        target = Target(DIVERGENCE) if way == longer else None
        words = f"{what}: KL(exact || it), nats"
        yield Row.of(NETWORKS, words, [w.divergence for w in each], target, better="lower")
        words = f"{what}: -log q(true task), nats"
        yield Row.of(NETWORKS, words, [w.log_score for w in each], better="lower")
        words = f"{what}: processor seconds for all cases"
        yield Row.of(NETWORKS, words, [w.seconds for w in each], better="lower")
    lost = [r.ways[EXACT].accuracy - r.ways[short].accuracy for r in found]
    words = f"{name}, trained network: {short}: accuracy less than that of the {EXACT}"
    yield Row.of(NETWORKS, words, lost, Target(LOST))
    seconds = [r.training for r in found]
    yield Row.of(NETWORKS, f"{name}: processor seconds of the network's training", seconds)


def _part(name: str) -> str:
    return f"networks: {name}"
