"""The targets of the benchmark, which this project set before it measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from studies.bench.learned import EULER, FLOW, LOCAL, REFINER, REFINER_BLIND, SAMPLER
from studies.bench.measure import Cell
from studies.bench.methods import EXACT, JOINT, JOINT_TWICE, ONE_STEP, PRODUCT, rescored
from studies.bench.table import CURVATURE, SHORTLIST, TRAINED, Cells, mean_of
from studies.core.table import Row, Target

DOUBLE = ("rules-n1", "rules-n4", "regression-weights", "graph-8-chain", "graph-8-frustrated")
"""Problems whose log joint is quadratic in the tasks, measured in double precision as well."""
EXACTNESS = 1e-8  # nats: the rounding of a log joint in double precision, many times over
DIVERGENCES = {
    ("metahmm-24-T10", JOINT): 0.14,
    ("metahmm-24-T40", JOINT): 0.46,
    ("metahmm-24-T10", rescored(JOINT, 16)): 0.02,
    ("metahmm-24-T40", rescored(JOINT, 16)): 0.01,
}
"""Mean KL(exact || it) over seeds, nats."""
LEARNED = {
    ("hyperteacher-n4", REFINER): 0.5,
    ("metahmm-24-T10", SAMPLER): 0.001,
    ("graph-8-chain", LOCAL): 0.03,
}
"""The same of learned methods."""
OF_ONE_STEP = 0.6  # the share of one step's divergence that the flow may have
RATIOS = {"metahmm-256-T40": 1.25, "metahmm-12288-T40": 1.0}
"""KL of two rounds of the second-order joint over that of the product of exact marginals."""
HYPERTEACHER, LOST = "hyperteacher-n16", 0.01  # share of cases


def target_rows(cells: Cells, double: Mapping[str, Sequence[Cell]]) -> Iterator[Row]:
    """Return the rows that have a target, of what was measured.

    Args:
        cells: by problem and method.
        double: the second-order joint in double precision, by problem.
    """
    for problem, by_seed in double.items():
        what = f"{problem}, in double precision: {JOINT}: KL(exact || it), nats"
        target = Target(EXACTNESS, "worst")
        yield Row.of(CURVATURE, what, [mean_of(c, "kl") for c in by_seed], target)
    for (problem, method), most in DIVERGENCES.items():
        if by_seed := cells.get(problem, {}).get(method, ()):
            claim = CURVATURE if method == JOINT else SHORTLIST
            what = f"{problem}: {method}: KL(exact || it), nats, against its target"
            yield Row.of(claim, what, [mean_of(c, "kl") for c in by_seed], Target(most))
    yield from _learned_rows(cells)
    for problem, most in RATIOS.items():
        found = cells.get(problem, {})
        if JOINT_TWICE in found and PRODUCT in found:
            pairs = zip(found[JOINT_TWICE], found[PRODUCT], strict=True)
            ratios = [mean_of(a, "kl") / mean_of(b, "kl") for a, b in pairs]
            what = f"{problem}: {JOINT_TWICE}: KL(exact || it) over that of the {PRODUCT}"
            yield Row.of(CURVATURE, what, ratios, Target(most))
    found = cells.get(HYPERTEACHER, {})
    short = rescored(ONE_STEP, 8)
    if short in found and EXACT in found:
        pairs = zip(found[EXACT], found[short], strict=True)
        lost = [mean_of(a, "accuracy") - mean_of(b, "accuracy") for a, b in pairs]
        what = f"{HYPERTEACHER}: {short}: accuracy less than that of the {EXACT}, share"
        yield Row.of(SHORTLIST, what, lost, Target(LOST))


def _learned_rows(cells: Cells) -> Iterator[Row]:
    """Return the targets of learned methods, each with its control."""
    for (problem, method), most in LEARNED.items():
        if by_seed := cells.get(problem, {}).get(method, ()):
            what = f"{problem}: {method}: KL(exact || it), nats, against its target"
            yield Row.of(TRAINED, what, [mean_of(c, "kl") for c in by_seed], Target(most))
    found = cells.get("hyperteacher-n4", {})
    if REFINER_BLIND in found:
        what = f"hyperteacher-n4: {REFINER_BLIND}: KL(exact || it), nats, the control"
        yield Row.of(TRAINED, what, [mean_of(c, "kl") for c in found[REFINER_BLIND]])
    found = cells.get("switching-5", {})
    for method in (FLOW, EULER):
        if method in found and ONE_STEP in found:
            pairs = zip(found[method], found[ONE_STEP], strict=True)
            ratios = [mean_of(a, "kl") / mean_of(b, "kl") for a, b in pairs]
            what = f"switching-5: {method}: KL(exact || it) over that of {ONE_STEP}"
            target = Target(OF_ONE_STEP) if method == FLOW else None
            note = "" if method == FLOW else "the control"
            yield Row.of(TRAINED, what, ratios, target, note)
