"""Data sets without labels, whole batches at a time: K tasks found, and how many there are."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gbi_pyro.data.switching import Stream
from studies.unsupervised.config import (
    MEANS,
    USUAL,
    WIDER,
    DiscoverConfig,
    generator,
)
from studies.unsupervised.networks import SideBySide, adam, first_means
from gbi_pyro.learning.collapse import find_collapse
from gbi_pyro.learning.em import GradientEM
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.learning.m_step import task_table
from gbi_pyro.learning.num_tasks import one_standard_error
from gbi_pyro.learning.restarts import window_labels
from gbi_pyro.learning.task_prior import TaskChain

TOLERANCE = 0.25  # of the distance of neighbouring means: a task is found within it
NEVER = 10**9  # collapse is looked for data set by data set, at the end


class Fitted(NamedTuple):
    """The best training of each data set.

    Attributes:
        network: side by side, one for each data set.
        evidence: log p(x) by data set and restart, ``(N, R)``.
        em: the training of the best, to go on with.
    """

    network: SideBySide
    evidence: Tensor
    em: GradientEM


def trainer(config: DiscoverConfig, network: SideBySide, num_tasks: int) -> GradientEM:
    """Return EM with the study's rates; one of the tasks, where two of them say the same."""
    optimiser = adam([network.means], network.log_sigma, config.batch_rate, config.batch_noise_rate)
    chain = TaskChain.sticky(network.means.shape[-1], config.hazard_guess)
    if num_tasks == 1:
        chain = chain.without([1])
    return GradientEM(network, Enumeration(check=False), optimiser, prior=chain, check_every=NEVER)


def fit(
    config: DiscoverConfig,
    x: Tensor,
    num_tasks: int,
    *,
    restarts: int,
    start_steps: int,
    steps: int,
) -> Fitted:
    """Train all restarts of all data sets side by side and keep the best of each by evidence.

    Args:
        config: the study.
        x: data sets, ``(N, B, T)``.
        num_tasks: K.
        restarts: of each data set.
        start_steps: EM steps with the tasks of ``window_labels``, before those without labels.
        steps: EM steps without labels, the rate falling to zero.
    """
    N, K = len(x), max(num_tasks, 2)  # one task is two, of which one is forbidden
    draws = [generator(seed, "weights") for seed in config.all_seeds]
    means = torch.stack(
        [first_means(K, config.spread, draw) for draw in draws for _ in range(restarts)]
    )
    em = trainer(config, SideBySide(means), num_tasks)
    data = x.repeat_interleave(restarts, 0).flatten(0, 1)
    labels = None
    if num_tasks > 1:
        starts = [window_labels(d, K, config.window, r) for d in x for r in range(restarts)]
        labels = torch.cat(starts)
    for _ in range(start_steps):
        em.step(data, labels=labels)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(em.optim, steps)
    for _ in range(steps):
        em.step(data)
        falling.step()
    evidence = evidence_of_each(em, data, N * restarts).reshape(N, restarts)
    best = evidence.argmax(-1) + restarts * torch.arange(N)
    network: Any = em.model
    kept = SideBySide(network.means.detach()[best], network.sigma.detach()[best])
    return Fitted(kept, evidence, trainer(config, kept, num_tasks))


def evidence_of_each(em: GradientEM, data: Tensor, groups: int) -> Tensor:
    """Return log p(x) of every network's own data, ``(groups,)``."""
    return evidence_by_sequence(em, data).reshape(groups, -1).sum(-1)


def evidence_by_sequence(em: GradientEM, data: Tensor) -> Tensor:
    """Return log p(x) of every sequence under the network it belongs to."""
    evidence = em.infer(data).log_evidence
    assert evidence is not None  # enumeration knows it
    return evidence


def draw_sets(
    config: DiscoverConfig, means: tuple[float, ...], sigma: float, sequences: int, role: str
) -> Stream:
    """Draw the data set of every seed: x and z, ``(N, B, T)``."""
    stream = config.stream(means, sigma)
    drawn = [
        stream.sample(sequences, config.length, generator(seed, role)) for seed in config.all_seeds
    ]
    return Stream(*(torch.stack(parts) for parts in zip(*drawn, strict=True)))


def measure_found(config: DiscoverConfig, num_tasks: int, sigma: float) -> dict[str, Any]:
    """Look for K tasks in every data set.

    Returns:
        By seed: ``means`` in order, ``sigma``, ``found`` (every mean within a quarter of the
        distance of neighbours), ``reported`` (the collapse report says that some are missing) and
        ``words``, the report.
    """
    true = MEANS[num_tasks]
    x = draw_sets(config, true, sigma, config.sequences, "stream").x
    fitted = fit(
        config,
        x,
        num_tasks,
        restarts=config.restarts,
        start_steps=config.start_steps,
        steps=config.em_steps,
    )
    means = fitted.network.means.detach().sort(-1).values
    near = TOLERANCE * (true[1] - true[0])
    found = (means - torch.tensor(true)).abs().amax(-1) < near
    reports = collapse_of_each(fitted, x)
    return {
        "means": means.tolist(),
        "sigma": fitted.network.sigma.tolist(),
        "found": found.tolist(),
        "reported": [report.collapsed for report in reports],
        "words": [str(report) for report in reports],
    }


@torch.no_grad()
def collapse_of_each(fitted: Fitted, x: Tensor) -> list[Any]:
    """Return the collapse report of every data set."""
    data, N = x.flatten(0, 1), len(x)
    q = fitted.em.infer(data).probs().unflatten(0, (N, -1))
    table = task_table(fitted.network, (data,)).likelihood.movedim(0, -1).unflatten(0, (N, -1))
    return [find_collapse(t, p) for t, p in zip(table, q, strict=True)]


def measure_number(config: DiscoverConfig, true: int, sigma: float) -> dict[str, Any]:
    """Ask every data set how many tasks it has, by evidence of held-out sequences.

    Returns:
        By seed: ``chosen``, and ``scores``, mean held-out evidence by candidate.
    """
    means = WIDER[true]
    x = draw_sets(config, means, sigma, config.sequences, "stream").x
    held_out = draw_sets(config, means, sigma, config.sequences, "held out").x
    evidence = {}
    for K in range(1, config.most_tasks + 1):
        fitted = fit(
            config,
            x,
            K,
            restarts=config.choice_restarts,
            start_steps=config.choice_start,
            steps=config.choice_steps,
        )
        evidence[K] = evidence_by_sequence(fitted.em, held_out.flatten(0, 1))
    by_seed = [
        one_standard_error({K: e.reshape(len(x), -1)[i] for K, e in evidence.items()})
        for i in range(len(x))
    ]
    return {
        "chosen": [choice.num_tasks for choice in by_seed],
        "scores": [choice.scores for choice in by_seed],
    }


def num_tasks_cases(config: DiscoverConfig) -> list[tuple[int, float]]:
    """Return the true numbers of tasks and the noise that the choice is asked for."""
    return [(true, sigma) for sigma in config.sigmas if sigma <= USUAL for true in WIDER]
