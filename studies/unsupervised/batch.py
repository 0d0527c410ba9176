"""Data sets without labels, as whole batches: finding K tasks, and choosing K."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.task_chain import TaskChain
from gbi_pyro.learning.collapse import find_collapse
from gbi_pyro.learning.em import GradientEM
from gbi_pyro.learning.m_step import task_table
from gbi_pyro.learning.num_tasks import one_standard_error
from gbi_pyro.learning.restarts import window_labels
from studies.core.protocol import Report
from studies.unsupervised.config import UnsupervisedConfig, generator
from studies.unsupervised.networks import SideBySide, first_means
from studies.unsupervised.streams import MEANS, WIDER, Condition, draw_sets

TOLERANCE = 0.25  # of the distance of neighbouring means: a task is found within it
NEVER = 10**9  # collapse is looked for data set by data set, at the end


@dataclass(frozen=True)
class FoundTasks:
    """The tasks found in the data set of one seed.

    Attributes:
        means: in order, ``(K,)``.
        found: whether every mean is within a quarter of the distance of neighbours.
        reported: whether the collapse report says that some are missing.
    """

    means: np.ndarray
    found: bool
    reported: bool


@dataclass(frozen=True)
class ChosenNumber:
    """The number of tasks chosen for the data set of one seed."""

    num_tasks: int


class Fitted(NamedTuple):
    """The best network of each data set, side by side, and EM to go on with."""

    network: SideBySide
    em: GradientEM


def trainer(config: UnsupervisedConfig, network: SideBySide, num_tasks: int) -> GradientEM:
    """Return EM with the study's rates; a model of one task is one of two, the second forbidden."""
    optimiser = torch.optim.Adam([network.means], config.batch_rate)
    optimiser.add_param_group({"params": [network.log_sigma], "lr": config.batch_noise_rate})
    chain = TaskChain.sticky(network.means.shape[-1], config.hazard_guess)
    if num_tasks == 1:
        chain = chain.without([1])
    return GradientEM(network, Enumeration(check=False), optimiser, prior=chain, check_every=NEVER)


def run_em(em: GradientEM, x: Tensor, steps: int, labels: Tensor | None = None) -> None:
    """Run EM on a full batch ``(sequences, T)``, the rate falling to zero."""
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(em.optim, steps)
    for _ in range(steps):
        em.step(x, labels=labels)
        falling.step()


def fit(config: UnsupervisedConfig, seeds: Sequence[int], x: Tensor, num_tasks: int) -> Fitted:
    """Train all restarts of all data sets side by side and keep the best of each by evidence.

    Args:
        config: the study.
        seeds: of the first weights, one for each data set.
        x: data sets, ``(N, B, T)``.
        num_tasks: K.
    """
    N, K, R = len(x), max(num_tasks, 2), config.restarts
    draws = [generator(seed, "weights") for seed in seeds]
    means = [first_means(K, config.spread, draw) for draw in draws for _ in range(R)]
    network = SideBySide(torch.stack(means))
    em = trainer(config, network, num_tasks)
    data = x.repeat_interleave(R, 0).flatten(0, 1)
    labels = None
    if num_tasks > 1:
        labels = torch.cat([window_labels(d, K, config.window, r) for d in x for r in range(R)])
    for _ in range(config.start_steps):
        em.step(data, labels=labels)
    run_em(em, data, config.em_steps)
    evidence = log_evidence(em, data).reshape(N, R, -1).sum(-1)
    best = evidence.argmax(-1) + R * torch.arange(N)
    kept = SideBySide(network.means.detach()[best], network.sigma.detach()[best])
    return Fitted(kept, trainer(config, kept, num_tasks))


def log_evidence(em: GradientEM, data: Tensor) -> Tensor:
    """Return log p(x) of every sequence under the network it belongs to."""
    evidence = em.infer(data).log_evidence
    assert evidence is not None  # enumeration knows it
    return evidence


def measure_found(
    config: UnsupervisedConfig, condition: Condition, seeds: Sequence[int], report: Report
) -> list[FoundTasks]:
    """Look for K tasks in the data set of each seed."""
    true = MEANS[condition.num_tasks]
    x = draw_sets(config, condition.stream(config), config.sequences, seeds, "stream").x
    fitted = fit(config, seeds, x, condition.num_tasks)
    means = fitted.network.means.detach().sort(-1).values
    near = TOLERANCE * (true[1] - true[0])
    found = (means - torch.tensor(true)).abs().amax(-1) < near
    parts = means.numpy(), found.tolist(), _collapsed(fitted, x)
    return [FoundTasks(*values) for values in zip(*parts, strict=True)]


@torch.no_grad()
def _collapsed(fitted: Fitted, x: Tensor) -> list[bool]:
    """Return of which data sets a collapse is reported."""
    data, N = x.flatten(0, 1), len(x)
    q = fitted.em.infer(data).probs().unflatten(0, (N, -1))
    table = task_table(fitted.network, (data,)).likelihood.movedim(0, -1).unflatten(0, (N, -1))
    return [find_collapse(t, p).collapsed for t, p in zip(table, q, strict=True)]


def measure_number(
    config: UnsupervisedConfig, condition: Condition, seeds: Sequence[int], report: Report
) -> list[ChosenNumber]:
    """Choose the number of tasks of the data set of each seed by evidence of held-out sequences."""
    stream = config.stream(WIDER[condition.num_tasks], condition.sigma)
    x = draw_sets(config, stream, config.sequences, seeds, "stream").x
    held_out = draw_sets(config, stream, config.sequences, seeds, "held out").x
    start, steps = config.choice_start, config.choice_steps
    shorter = replace(config, restarts=config.choice_restarts, start_steps=start, em_steps=steps)
    evidence: dict[int, Tensor] = {}
    for K in range(1, config.most_tasks + 1):
        report(f"{K} tasks")
        fitted = fit(shorter, seeds, x, K)
        evidence[K] = log_evidence(fitted.em, held_out.flatten(0, 1)).reshape(len(x), -1)
    by_seed = [{K: values[i] for K, values in evidence.items()} for i in range(len(x))]
    return [ChosenNumber(one_standard_error(values).num_tasks) for values in by_seed]
