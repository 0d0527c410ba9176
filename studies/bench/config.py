"""The configuration of the benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gbi_pyro.problems import PROBLEMS
from studies.bench.learned import COMPARED_ON, LEARNED, OTHERS
from studies.bench.measure import Maker
from studies.bench.methods import GRADIENT_GIBBS, METHODS, Method
from studies.bench.own import own_method, own_problem
from studies.core.protocol import Seeds

NONE = "none"
FEWER_CASES = {"metahmm-12288-T40": 16, "chain-40": 20}
"""Cases at most, of problems whose exact posterior or whose 40 tasks take seconds."""
LEFT_OUT = {("chain-40", GRADIENT_GIBBS): "left out: moves of 40 tasks one by one take minutes"}
"""Pairs of problem and method that are not measured, and why."""
SMOKE = 10  # cases up to which a run is a smoke test


@dataclass(frozen=True)
class BenchConfig(Seeds):
    """What the benchmark depends on, and what it compares.

    Attributes:
        seeds: how often each problem is drawn, parameters and data.
        first_seed: their seeds are ``first_seed``, ``first_seed + 1``, ...
        cases: independent cases of each problem; 16 at most of metahmm-12288-T40, 20 of chain-40.
        problems: names of problems; all of them without, none for your own alone.
        methods: names of methods; all of them without, none for your own alone.
        learned: whether methods that are trained on simulated cases are compared as well.
        papers: whether what neighbouring papers train is measured again; with ``--data`` shortlists
            on trained networks too.
        problem: one of your own, as ``module:attribute``: a ``gbi_pyro.problems.Problem``, or a
            function that makes one of a seed.
        method: one of your own, as ``module:attribute``: what is called as ``infer(model, *args)``,
            or an object whose ``fit(problem, generator)`` returns that.
    """

    seeds: int = 3
    first_seed: int = 0
    cases: int = 100
    problems: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    learned: bool = False
    papers: bool = False
    problem: str = ""
    method: str = ""
    method_fields = frozenset({"methods", "learned", "papers", "method"})
    selection_fields = frozenset({"problems", "methods", "learned", "papers", "problem", "method"})

    def __post_init__(self) -> None:
        self.check_at_least_one("seeds", "cases")
        _check_names("problem", self.problems, self.problem, PROBLEMS)
        _check_names("method", self.methods, self.method, {**METHODS, **LEARNED})

    def fast(self) -> BenchConfig:
        """Return a smoke test: everything runs in seconds, and the numbers are meaningless."""
        few = tuple(PROBLEMS)[:2]
        return replace(self, seeds=min(self.seeds, 2), cases=SMOKE, problems=self.problems or few)

    def num_cases(self, problem: str) -> int:
        """Return how many cases of a problem are drawn."""
        return min(self.cases, FEWER_CASES.get(problem, self.cases))

    @property
    def smoke(self) -> bool:
        """Whether this is a smoke test, in which nothing is trained to its end."""
        return self.cases <= SMOKE

    def left_out(self, problem: str, method: str) -> str:
        """Return why a pair is not measured; empty if it is."""
        if problem in PROBLEMS and problem not in COMPARED_ON.get(method, (problem,)):
            return OTHERS
        return LEFT_OUT.get((problem, method), "")

    def all_problems(self) -> dict[str, Maker]:
        """Return what makes each problem of a seed, by name; your own is called as you gave it."""
        found: dict[str, Maker] = {n: PROBLEMS[n] for n in _chosen(self.problems, PROBLEMS)}
        return {**found, **({self.problem: own_problem(self.problem)} if self.problem else {})}

    def all_methods(self) -> dict[str, Method]:
        """Return the methods by name; your own is called as you gave it."""
        known = {**METHODS, **LEARNED}
        found = {n: known[n] for n in _chosen(self.methods, known if self.learned else METHODS)}
        return {**found, **({self.method: own_method(self.method)} if self.method else {})}


def _chosen(names: Sequence[str], default: Mapping[str, Any]) -> Sequence[str]:
    return () if tuple(names) == (NONE,) else names or tuple(default)


def _check_names(what: str, names: Sequence[str], own: str, known: Mapping[str, Any]) -> None:
    if tuple(names) == (NONE,):
        if not own:
            raise ValueError(
                f"{what}s={NONE} leaves a {what} of your own alone, and none is given: give "
                f"{what} as module:attribute"
            )
    elif not set(names) <= known.keys() or len(set(names)) < len(names):
        raise ValueError(
            f"{what}s should be different names with commas between them, of {', '.join(known)}, "
            f"or {NONE}; got {', '.join(names)}"
        )
