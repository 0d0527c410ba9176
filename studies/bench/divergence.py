"""An estimated joint posterior compared with the exact one, and with the true tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from gbi_pyro.joint import JointTable
from gbi_pyro.metrics.agreement import kl
from gbi_pyro.metrics.scores import accuracy, expected_calibration_error
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.sites import TaskSiteError

DRAWS = 200  # of each case's tasks, where its combinations are too many for a table
TIE = 1e-4  # nats: combinations that differ by less are equally probable, but for rounding
UNKNOWN = float("nan")
BY_TABLE, BY_DRAWS = "", f"KL from {DRAWS} draws; accuracy and agreement are shares of sites"


class Divergence(NamedTuple):
    """An estimated joint posterior compared with the exact one and with the true tasks.

    Attributes:
        kl: KL(exact || estimate) of each case, ``(N,)``, nats.
        reverse_kl: KL(estimate || exact), likewise.
        marginal_kl: the sum over sites of KL(exact || estimate) of their marginals, likewise.
        log_score: -log q(true tasks), likewise.
        accuracy: share of cases whose most probable combination of tasks is the true one.
        agreement: share of cases whose most probable combination is one of the exact posterior.
        calibration_error: of the most probable combination; NaN where it is not known.
        how: what was not done by the table of all combinations, in words.
    """

    kl: Tensor
    reverse_kl: Tensor
    marginal_kl: Tensor
    log_score: Tensor
    accuracy: float
    agreement: float
    calibration_error: float
    how: str = BY_TABLE


def compare_joints(
    exact: TaskPosterior,
    estimate: TaskPosterior,
    tasks: Mapping[str, Tensor],
    generator: torch.Generator,
) -> Divergence:
    """Compare joint posteriors over all sites, case by case.

    Where there are too many combinations for a table, divergences are means over draws, and the
    most probable tasks are those of each site.

    Args:
        exact: the exact posterior.
        estimate: of the same cases.
        tasks: the true tasks, ids by site.
        generator: of the draws.

    Raises:
        ValueError: for other sites or cases than those of the exact posterior.
    """
    names = list(exact.log_probs)
    if estimate.log_probs.keys() != exact.log_probs.keys():
        raise ValueError(
            f"its posterior should have the task sites {names}; got {list(estimate.log_probs)}"
        )
    estimate = estimate.in_model_order()
    sites = [kl(exact.logits(name), estimate.logits(name)).flatten() for name in names]
    marginal_kl = torch.stack(sites).sum(0)
    try:
        tables = exact.table(), estimate.table()
    except TaskSiteError:
        return _by_draws(exact, estimate, tasks, marginal_kl, generator)
    p, q = (_rows(table, names) for table in tables)
    true = _ids(tasks, tables[0].sizes, names)
    best = p.gather(-1, q.argmax(-1, keepdim=True)).squeeze(-1)
    return Divergence(
        kl(p, q),
        kl(q, p),
        marginal_kl,
        -q.gather(-1, true.unsqueeze(-1)).squeeze(-1),
        accuracy(q, true),
        (best >= p.amax(-1) - TIE).double().mean().item(),
        expected_calibration_error(q, true),
    )


def _rows(table: JointTable, names: list[str]) -> Tensor:
    """Return log probabilities ``(cases, combinations)`` in float64, sites in a given order."""
    log_probs = table.ordered(names).flat.detach().cpu().double()
    return log_probs.flatten(0, -2).log_softmax(-1)  # exact answers differ by rounding alone


def _ids(tasks: Mapping[str, Tensor], sizes: Mapping[str, int], names: list[str]) -> Tensor:
    """Return the number of each case's combination, ``(cases,)``."""
    ids = torch.zeros((), dtype=torch.long)
    for name in names:
        ids = ids * sizes[name] + tasks[name].cpu()
    return ids.flatten()


def _by_draws(
    exact: TaskPosterior,
    estimate: TaskPosterior,
    tasks: Mapping[str, Tensor],
    marginal_kl: Tensor,
    generator: torch.Generator,
) -> Divergence:
    def divergence(p: TaskPosterior, q: TaskPosterior) -> Tensor:
        ids = p.sample(DRAWS, generator=generator)
        return (p.log_prob(ids) - q.log_prob(ids)).mean(0).flatten()

    def share(ids: Mapping[str, Tensor]) -> float:
        right = [(estimate.mode(name) == ids[name]).double() for name in exact.log_probs]
        return torch.stack(right).mean().item()

    return Divergence(
        divergence(exact, estimate),
        divergence(estimate, exact),
        marginal_kl,
        -estimate.log_prob(tasks).flatten(),
        share(tasks),
        share({name: exact.mode(name) for name in exact.log_probs}),
        UNKNOWN,
        BY_DRAWS,
    )
