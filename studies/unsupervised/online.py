"""One stream without labels, one latent and one weight update per step (the online form)."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.inference.task_chain import TaskChain
from gbi_pyro.learning.collapse import CollapseWarning
from gbi_pyro.learning.online_em import OnlineEM, OnlineEMRun
from gbi_pyro.learning.online_hypotheses import OnlineHypotheses
from studies.core.protocol import Report
from studies.unsupervised.baselines import GaussianHMM, baum_welch, with_labels
from studies.unsupervised.config import UnsupervisedConfig, generator
from studies.unsupervised.networks import TaskMeans, first_means
from studies.unsupervised.scores import Scores, match_tasks, score
from studies.unsupervised.streams import Condition, exact_posterior

UNLABELLED, SEVERAL = "no labels, online", "no labels, online, several hypotheses"
EXACT = "exact filter"
WITH_LABELS, HMM = "network with labels", "Gaussian HMM"
METHODS = (UNLABELLED, SEVERAL, EXACT, WITH_LABELS, HMM)
BIN = 50  # steps over which accuracy is averaged, for a curve
SHOWN = 400  # steps of a stream that are kept to be drawn


@dataclass(frozen=True)
class FirstSteps:
    """The first ``SHOWN`` steps of a stream as it is learned.

    Attributes:
        x: observations, ``(T,)``.
        z: true task ids, ``(T,)``.
        mean: predictions before x_t is seen, ``(T,)``.
        filtered: p(z_t | x_1..t) of the learner, its tasks matched with the true ones, ``(T, K)``.
        exact: p(z_t | x_1..t) of the stream's own generator, ``(T, K)``.
    """

    x: np.ndarray
    z: np.ndarray
    mean: np.ndarray
    filtered: np.ndarray
    exact: np.ndarray


@dataclass(frozen=True)
class OnlineSeed:
    """What was measured on the stream of one seed.

    Attributes:
        scores: by method.
        curves: accuracy of every ``BIN`` steps, by method, without labels and of the exact filter.
        steps_per_second: of processor time, by learner.
        collapsed: whether a collapse is reported at the end, by learner.
        first_steps: as the learner without labels sees them.
    """

    scores: dict[str, Scores]
    curves: dict[str, np.ndarray]
    steps_per_second: dict[str, float]
    collapsed: dict[str, bool]
    first_steps: FirstSteps


class Learned(NamedTuple):
    """A stream that was learned online, and the processor time it took, in seconds."""

    run: OnlineEMRun
    em: OnlineEM | OnlineHypotheses
    seconds: float


def learn(config: UnsupervisedConfig, condition: Condition, seed: int, x: Tensor) -> Learned:
    """Learn one stream, ``(T,)``, without labels."""
    means = first_means(condition.num_tasks, config.spread, generator(seed, "weights"))
    start = means, config.hazard_guess, config.switch
    return _run(_learner(config, condition, len(x), *start), x)


def learn_several(
    config: UnsupervisedConfig, condition: Condition, seed: int, x: Tensor
) -> Learned:
    """Learn one stream, ``(T,)``, by hypotheses of other starts and settings side by side."""
    draw, learners = generator(seed, "weights"), []
    for epsilon, hazard in itertools.product(config.adam_epsilons, config.hazard_guesses):
        means = first_means(condition.num_tasks, config.spread, draw)
        switch = hazard * (config.stay + config.switch)  # pseudo-counts of this hazard
        learners.append(_learner(config, condition, len(x), means, hazard, switch, epsilon))
    return _run(OnlineHypotheses(learners), x)


def _learner(
    config: UnsupervisedConfig,
    condition: Condition,
    steps: int,
    means: Tensor,
    hazard: float,
    switch: float,
    epsilon: float = 1e-8,
) -> OnlineEM:
    network = TaskMeans(means, config.noise_rate)
    optimiser = torch.optim.Adam(
        network.parameters(), config.rate, (0.9, 0.99), epsilon, fused=True
    )
    half = config.decay * steps
    chain = TaskChain.sticky(
        condition.num_tasks,
        hazard,
        learn_transition="hazard",
        stay=config.stay + config.switch - switch,
        switch=switch,
    )
    return OnlineEM(
        network,
        optimiser,
        chain,
        schedule=torch.optim.lr_scheduler.LambdaLR(optimiser, lambda t: 1 / (1 + t / half)),
        e_step=None if condition.order is None else OneStepGradient(order=condition.order),
    )


def _run(em: OnlineEM | OnlineHypotheses, x: Tensor) -> Learned:
    with warnings.catch_warnings():  # collapse is asked for at the end
        warnings.simplefilter("ignore", CollapseWarning)
        start = time.process_time()
        run = em.run(x)
        return Learned(run, em, time.process_time() - start)


def measure_online(
    config: UnsupervisedConfig, condition: Condition, seeds: Sequence[int], report: Report
) -> list[OnlineSeed]:
    """Learn the stream of each seed, and compare with the exact filter and the baselines.

    Baselines, which are fitted to all streams side by side, see the steps before the scored ones.
    """
    stream, tail = condition.stream(config), config.tail
    data = [condition.sample(config, seed) for seed in seeds]
    x, z = (torch.cat(parts) for parts in zip(*data, strict=True))
    exact = exact_posterior(stream, x)
    expected = exact.log_predicted.exp() @ torch.tensor(stream.means).double()
    answers = {EXACT: (exact.log_filtered.exp(), expected)}
    if condition.order is None:
        report("baselines")
        seen = slice(0, x.shape[1] - tail)
        past_x, past_z = x[:, None, seen], z[:, None, seen]
        labelled = with_labels(past_x, past_z, condition.num_tasks, config)
        answers[WITH_LABELS] = _filter(labelled, x)
        answers[HMM] = _filter(baum_welch(past_x, condition.num_tasks, config), x)
    found = []
    for i, seed in enumerate(seeds):
        report(f"stream of seed {seed}")
        learned = {UNLABELLED: learn(config, condition, seed, x[i])}
        if condition.several:
            learned[SEVERAL] = learn_several(config, condition, seed, x[i])
        means = {name: mean[i] for name, (_, mean) in answers.items()}
        filtered = {name: q[i] for name, (q, _) in answers.items()}
        for name, one in learned.items():
            assert one.run.mean is not None
            means[name], filtered[name] = one.run.mean, one.run.filtered
        matched = {name: match_tasks(q, z[i], tail) for name, q in filtered.items()}
        truth = x[i], z[i], exact.log_filtered[i], tail
        shown = x[i], z[i], means[UNLABELLED], matched[UNLABELLED], filtered[EXACT]
        found.append(
            OnlineSeed(
                scores={name: score(q, means[name], *truth) for name, q in matched.items()},
                curves={name: _curve(matched[name], z[i]) for name in (EXACT, UNLABELLED)},
                steps_per_second={n: len(x[i]) / one.seconds for n, one in learned.items()},
                collapsed={n: one.em.collapse().collapsed for n, one in learned.items()},
                first_steps=FirstSteps(*(values[:SHOWN].numpy() for values in shown)),
            )
        )
    return found


def _filter(model: GaussianHMM, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return p(z_t | x_1..t), ``(N, T, K)``, and E[x_t | x_1..t-1], ``(N, T)``."""
    found = model.posterior(x.unsqueeze(1))
    return found.log_filtered.exp().squeeze(1), model.predicted_mean(found).squeeze(1)


def _curve(matched: Tensor, z: Tensor) -> np.ndarray:
    """Return the accuracy of every ``BIN`` steps."""
    right = (matched.argmax(-1) == z).double()
    return np.array([part.mean().item() for part in right.split(BIN)])
