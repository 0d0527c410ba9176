"""Problems crossed with methods from Python, without a folder of results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from gbi_pyro.problems import Problem
from studies.bench.files import long_table
from studies.bench.measure import Cell, Maker, judge, measure
from studies.bench.methods import Method
from studies.bench.own import Always

if TYPE_CHECKING:
    import pandas as pd


def bench(
    problems: Mapping[str, Problem | Maker],
    methods: Mapping[str, Method],
    *,
    cases: int = 100,
    seeds: int = 3,
) -> pd.DataFrame:
    """Measure every method on every problem.

    Args:
        problems: by name; a problem, or what makes one of a seed, as those of ``PROBLEMS`` do.
        methods: by name; what is called as ``infer(model, *args)``, or has
            ``fit(problem, generator)``, which returns that. See ``METHODS``.
        cases: independent cases of each problem.
        seeds: how often a problem and its cases are drawn.

    Returns:
        A row for each problem, method and seed: divergences of the joint posterior from the exact
        one, scores of the true tasks, passes and seconds. A method that is refused has a note.

    Raises:
        ValueError: for no problems, methods, cases or seeds.

    Example:
        >>> from gbi_pyro import OneStepGradient
        >>> from gbi_pyro.problems import PROBLEMS
        >>> found = bench(
        ...     {"switching-4": PROBLEMS["switching-4"]},
        ...     {"order 1": OneStepGradient(), "order 2": OneStepGradient(order=2)},
        ...     seeds=1,
        ... )
        >>> found[["method", "kl"]].round(2).values.tolist()
        [['order 1', 0.15], ['order 2', 0.0]]
    """
    given = {"problems": len(problems), "methods": len(methods), "cases": cases, "seeds": seeds}
    for name, number in given.items():
        if number < 1:
            raise ValueError(f"{name} should be at least one, got {number}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the study measures
    try:
        cells: dict[str, dict[str, list[Cell]]] = {}
        for name, made in problems.items():
            maker = Always(made) if isinstance(made, Problem) else made
            cells[name] = {method: [] for method in methods}
            for seed in range(seeds):
                judged = judge(maker, seed, cases)
                for method, found in cells[name].items():
                    found.append(measure(judged, methods[method], seed))
    finally:
        torch.set_num_threads(threads)
    return long_table(cells, range(seeds))
