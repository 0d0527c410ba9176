"""One method on the cases of one problem: what it infers, compared, and what it costs."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.problems import Drawn, Problem
from studies.bench.divergence import BY_TABLE, UNKNOWN, compare_joints
from studies.bench.methods import Method, fitted, is_learner
from studies.core.seeds import Roles

# Parameters of problems come from the seed itself: generators of other roles begin elsewhere.
generator = Roles("data", "fit", "draws", first=100_000)
Result = TypeVar("Result")
Maker = Callable[[int], Problem]
"""Makes a problem of a seed."""


class Judged(NamedTuple):
    """A problem with the cases that methods are judged on.

    Attributes:
        problem: of one seed.
        drawn: the cases, never those that a method is fitted on.
        exact: their exact posterior.
    """

    problem: Problem
    drawn: Drawn
    exact: TaskPosterior


def judge(make: Maker, seed: int, cases: int) -> Judged:
    """Return a problem of a seed, with cases and their exact posterior."""
    problem = make(seed)
    drawn = Drawn(*problem.draw(cases, generator(seed, "data")))
    return Judged(problem, drawn, problem.posterior(drawn))


def _none() -> Tensor:
    return torch.zeros(0)


@dataclass(frozen=True)
class Cell:
    """One method on one problem, as one seed draws it.

    Attributes:
        refused: why the method cannot be used, in its own words; all else is unknown then.
        warned: the first line of its first warning.
        kl, reverse_kl, marginal_kl, log_score: see ``Divergence``, by case.
        accuracy, agreement, calibration_error, how: see ``Divergence``.
        forward, backward: passes of one call, for all cases at once.
        seconds: processor seconds of one call, for 100 cases.
        fit_seconds: processor seconds of its fit; 0 where there is none.
        floor: mean KL(exact || it) of a histogram of as many draws, if that is what it is.
    """

    refused: str = ""
    warned: str = ""
    kl: Tensor = field(default_factory=_none)
    reverse_kl: Tensor = field(default_factory=_none)
    marginal_kl: Tensor = field(default_factory=_none)
    log_score: Tensor = field(default_factory=_none)
    accuracy: float = UNKNOWN
    agreement: float = UNKNOWN
    calibration_error: float = UNKNOWN
    how: str = BY_TABLE
    forward: int = 0
    backward: int = 0
    seconds: float = UNKNOWN
    fit_seconds: float = UNKNOWN
    floor: float = UNKNOWN

    @property
    def infinite(self) -> Tensor:
        """Which cases have an infinite KL(exact || it), ``(N,)``."""
        return self.kl.isinf()


def measure(judged: Judged, method: Method, seed: int) -> Cell:
    """Fit a method if need be, and measure it; whatever it raises becomes the cell's note.

    Args:
        judged: the problem, and the cases that it is judged on.
        method: see ``studies.bench.methods``.
        seed: of what it is fitted on, and of draws.
    """
    problem, drawn, exact = judged
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            infer, fit_seconds = _timed(lambda: fitted(method, problem, generator(seed, "fit")))
            posterior = _checked(infer(problem.model, *drawn.args))  # the first call is slower
            _, seconds = _timed(lambda: infer(problem.model, *drawn.args))
        found = compare_joints(exact, posterior, drawn.tasks, generator(seed, "draws"))
    except Exception as error:  # a method that fails must not end the comparison of the others
        return Cell(refused=_in_words(error))
    return Cell(
        **found._asdict(),
        warned=_first_line(warned[0].message) if warned else "",
        forward=posterior.passes.forward,
        backward=posterior.passes.backward,
        seconds=100 * seconds / len(found.kl),
        fit_seconds=fit_seconds if is_learner(method) else 0.0,
        floor=float(posterior.settings.get("floor", UNKNOWN)),
    )


def _timed(call: Callable[[], Result]) -> tuple[Result, float]:
    """Return what a call returns, and the processor seconds it took."""
    start = time.process_time()
    result = call()
    return result, time.process_time() - start


def _checked(posterior: Any) -> TaskPosterior:
    if not isinstance(posterior, TaskPosterior):
        raise TypeError(f"a method should return a TaskPosterior; got a {type(posterior).__name__}")
    return posterior


def _in_words(error: Exception) -> str:
    """Return the first line of an error: of a refusal as it is, of any other with its type."""
    if isinstance(error, ValueError):  # as the library refuses what does not fit
        return f"not applicable: {_first_line(error)}"
    return f"failed with {type(error).__name__}: {_first_line(error)}"


def _first_line(message: object) -> str:
    return (str(message).splitlines() or [""])[0]
