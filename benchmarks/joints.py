"""The joint posterior over several task sites: from the curvature, and by enumeration."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.timing import processor_times
from gbi_pyro import Enumeration, TaskPosterior
from gbi_pyro.inference import SecondOrderJoint
from studies.core.table import Row, Target

CASES, STEPS, STATES = 100, 40, 10
LARGE = 40
Infer = Callable[..., TaskPosterior]


def site_chain(sizes: Sequence[int], x: Tensor) -> None:
    """Tasks with levels from -1 to 1, neighbours coupled, each observed with noise."""
    with pyro.plate("case", len(x)):
        levels = []
        for i, K in enumerate(sizes):
            prior = dist.OneHotCategorical(torch.ones(K))
            z = pyro.sample(f"z{i}", prior, infer={"task": True})
            levels.append(z @ torch.linspace(-1.0, 1.0, K))
        for i, (left, right) in enumerate(pairwise(levels)):
            pyro.factor(f"pair{i}", left * right)
        for i, level in enumerate(levels):
            pyro.sample(f"x{i}", dist.Normal(level, 1.0), obs=x[..., i])


def filtered(tables: Tensor, likelihoods: Tensor) -> None:
    """Three tasks that together set the transitions of a hidden Markov chain.

    Args:
        tables: transitions by task, ``sizes + (STATES, STATES)``.
        likelihoods: of each state, ``(case, STEPS, STATES)``.
    """
    with pyro.plate("case", len(likelihoods)):
        a, b, c = (
            pyro.sample(f"z{i}", dist.OneHotCategorical(torch.ones(K)), infer={"task": True})
            for i, K in enumerate(tables.shape[:3])
        )
        transition = torch.einsum("...i,...j,...k,ijkst->...st", a, b, c, tables)
        belief, total = torch.full((STATES,), 1 / STATES), torch.zeros(())
        for likelihood in likelihoods.unbind(-2):
            joint = torch.einsum("...s,...st->...t", belief, transition) * likelihood
            evidence = joint.sum(-1, keepdim=True)
            belief, total = joint / evidence, total + evidence.squeeze(-1).log()
        pyro.factor("evidence", total)


def joints(seconds: float) -> list[Row]:
    """Compare processor time on 100 cases, with and without the checks of both.

    The cost of the curvature grows with the number of tasks summed over sites, and that of
    enumeration, 64 combinations a run, with their product. Where the combinations are few, and the
    likelihood is a long recursion rather than many Pyro sites, enumeration is the cheaper one.

    Args:
        seconds: for each model.
    """
    draw = torch.Generator().manual_seed(0)
    rows = []
    for sizes in ((2,) * 8, (3, 2, 4)):
        x = torch.randn(CASES, len(sizes), generator=draw)
        model = partial(site_chain, sizes)
        exact, found = (
            infer(model, x).table().flat for infer in (Enumeration(), SecondOrderJoint())
        )
        if not float((exact.exp() * (exact - found)).sum(-1).max()) < 1e-6:
            raise AssertionError("the two posteriors differ: nothing to compare")
        target = Target(1.0) if len(sizes) == 8 else None
        what = f"{len(sizes)} sites, {math.prod(sizes)} combinations"
        rows += _compare(what, (model, x), seconds, target)
    tables = torch.randn(3, 2, 4, STATES, STATES, generator=draw).softmax(-1)
    likelihoods = torch.rand(CASES, STEPS, STATES, generator=draw)
    what = f"3 sites, 24 combinations, {STEPS} steps"
    rows += _compare(what, (filtered, tables, likelihoods), seconds)
    x = torch.randn(CASES, LARGE, generator=draw)
    job = partial(SecondOrderJoint(), partial(site_chain, (2,) * LARGE), x)
    (taken,) = processor_times([job], seconds)
    rows.append(Row.of("", f"{LARGE} sites, 2^{LARGE} combinations: ms", [1e3 * median(taken)]))
    return rows


def _compare(
    what: str, given: tuple[Any, ...], seconds: float, target: Target | None = None
) -> list[Row]:
    """Compare the two on a model and its data, both in ``given``."""
    rivals: dict[str, tuple[Infer, Infer]] = {
        "with checks": (SecondOrderJoint(), Enumeration(chunk_size=64)),
        "without": (SecondOrderJoint(check=False), Enumeration(chunk_size=64, check=False)),
    }
    jobs = [partial(infer, *given) for pair in rivals.values() for infer in pair]
    times, rows = processor_times(jobs, seconds), []
    for i, checks in enumerate(rivals):
        ours, theirs = times[2 * i : 2 * i + 2]
        ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
        note = f"{1e3 * median(ours):.1f} ms against {1e3 * median(theirs):.1f} ms"
        name = f"{what}, {checks}: curvature / enumeration"
        rows.append(Row.of("", name, [ratio], target, note=note))
    return rows
