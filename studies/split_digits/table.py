"""The table of the split digits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from gbi_pyro.metrics.continual import Continual, continual_learning
from gbi_pyro.metrics.intervals import paired_bootstrap
from studies.core.table import Row
from studies.split_digits.measure import (
    CONCAT,
    CONDITIONED,
    GIVEN,
    INFERENCES,
    MASK,
    MIXED,
    SEQUENTIAL,
    SHUFFLED,
    SHUFFLED_MASK,
    WITHOUT,
    NetworkScores,
)

ByNetwork = Mapping[str, Sequence[NetworkScores]]
CLAIM = "C1"  # the true task compared with shuffled ones, and none


def accuracy_matrix(of_seeds: Sequence[NetworkScores], way: str) -> np.ndarray:
    """Return accuracies after each block on each task, ``(seeds, blocks, K)``, in per cent."""
    return 100 * np.stack([scores.accuracy[way] for scores in of_seeds])


def summed_up(found: ByNetwork, network: str, way: str) -> Continual:
    """Return average accuracy, forgetting and transfers of one network at one rate, in per cent.

    Forward transfer is from untrained weights with Z as in training.
    """
    untrained = 100 * np.stack([scores.untrained for scores in found[network]])
    return continual_learning(accuracy_matrix(found[network], way), untrained)


def rate_rows(rate: float, found: ByNetwork) -> Iterator[Row]:
    """Return what became of each task, of every network, and the differences to the baseline."""
    prefix = f"split digits, rate {rate:g}, "
    for network in SEQUENTIAL:
        yield from _sequence_rows(prefix, found, network)
    for way in found[MIXED][0].accuracy:
        average = summed_up(found, MIXED, way).average.values
        what = f"{prefix}{case_name(MIXED, way)}: average accuracy at the end, %"
        yield Row.of(CLAIM, what, average, note="no sequence")
    for network in CONDITIONED:
        for name in INFERENCES:
            end = [100 * scores.task_accuracy[name][-1].mean() for scores in found[network]]
            what = f"{prefix}{network}: accuracy of the task inferred at the end by {name}, %"
            yield Row.of(CLAIM, what, end, note="chance 20; uniform prior over all five")
    yield from _difference_rows(prefix, found)


def _sequence_rows(prefix: str, found: ByNetwork, network: str) -> Iterator[Row]:
    for way in found[network][0].accuracy:
        name, parts = prefix + case_name(network, way), summed_up(found, network, way)
        matrix = accuracy_matrix(found[network], way)
        learned = np.diagonal(matrix, axis1=1, axis2=2).mean(-1)
        what, chance = f"{name}: accuracy on the task just learned, %", "chance 50"
        yield Row.of(CLAIM, what, learned, note=chance)
        what = f"{name}: average accuracy at the end, %"
        yield Row.of(CLAIM, what, parts.average.values, note=chance)
        yield Row.of(CLAIM, f"{name}: forgetting, points", parts.forgetting.values)
        if way == GIVEN and parts.forward is not None:
            yield Row.of(CLAIM, f"{name}: backward transfer, points", parts.backward.values)
            yield Row.of(CLAIM, f"{name}: forward transfer, points", parts.forward.values)


def _difference_rows(prefix: str, found: ByNetwork) -> Iterator[Row]:
    given = [((n, way), WITHOUT) for n in (CONCAT, MASK) for way in (GIVEN, *INFERENCES)]
    extra_input = [((n, GIVEN), WITHOUT) for n in (SHUFFLED, SHUFFLED_MASK)]
    task = [((CONCAT, GIVEN), SHUFFLED), ((MASK, GIVEN), SHUFFLED_MASK)]
    for case, other in (*given, *extra_input, *task):
        own, plain = summed_up(found, *case), summed_up(found, other, GIVEN)
        for what, a, b in (
            ("average accuracy", own.average.values, plain.average.values),
            ("forgetting", own.forgetting.values, plain.forgetting.values),
        ):
            name = f"{prefix}{case_name(*case)} minus {other}: {what}, points"
            interval = paired_bootstrap(a, b)
            yield Row.of(CLAIM, name, np.subtract(a, b), note="paired", interval=interval)


def case_name(network: str, way: str) -> str:
    """Return a network with how Z is had at test in words."""
    return network if way == GIVEN else f"{network}; {way} at test"
