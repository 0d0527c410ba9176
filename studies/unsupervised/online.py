"""One stream, no labels, one latent and one weight update per step (the online form)."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gbi_pyro.data.switching import (
    BlockLaw,
    BoundedBlocks,
    GeometricBlocks,
    Stream,
    SwitchingStream,
)
from studies.unsupervised.config import (
    LONGER,
    MEANS,
    NOISY,
    OTHER_BLOCKS,
    USUAL,
    DiscoverConfig,
    generator,
)
from studies.unsupervised.networks import TaskMeans, first_means
from studies.unsupervised.rivals import GaussianHMM, baum_welch, with_labels
from studies.unsupervised.scores import Scores, score
from gbi_pyro.learning.collapse import CollapseWarning
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.inference.hmm import HMMPosterior, hsmm_posterior
from gbi_pyro.learning.labels import match_labels
from gbi_pyro.learning.online_em import OnlineEM, OnlineEMRun
from gbi_pyro.learning.task_prior import TaskChain

UNLABELLED, EXACT = "no labels, online", "exact filter"
WITH_LABELS, HMM = "network with labels", "Gaussian HMM"
METHODS = (UNLABELLED, EXACT, WITH_LABELS, HMM)
BIN = 50  # steps over which accuracy is averaged, for a curve


@dataclass(frozen=True)
class Condition:
    """One kind of stream, and how its tasks are inferred.

    Attributes:
        num_tasks: K.
        sigma: the noise.
        blocks: the law of the blocks; geometric ones without.
        order: of the library's gradient E-step; None takes K forward passes.
    """

    num_tasks: int
    sigma: float
    blocks: BlockLaw | None = None
    order: int | None = None

    @property
    def name(self) -> str:
        """The condition in words."""
        words = f"K = {self.num_tasks}, sigma {self.sigma:g}"
        if isinstance(self.blocks, BoundedBlocks):
            words += f", blocks of {self.blocks.minimum}-{self.blocks.maximum} steps"
        elif isinstance(self.blocks, GeometricBlocks):
            words += f", hazard {self.blocks.hazard:g}"
        if self.order is not None:
            words += f", gradient E-step of order {self.order}"
        return words

    def stream(self, config: DiscoverConfig) -> SwitchingStream:
        """Return the generator of the stream."""
        return config.stream(MEANS[self.num_tasks], self.sigma, self.blocks)

    def length(self, config: DiscoverConfig) -> int:
        """Return how many steps there are."""
        return config.steps * LONGER[self.num_tasks]

    def sample(self, config: DiscoverConfig, seed: int) -> Stream:
        """Draw the stream of a seed."""
        draw = generator(seed, "stream")
        return self.stream(config).sample(1, self.length(config), draw)


def conditions(config: DiscoverConfig) -> list[Condition]:
    """Return the streams of the study, K forward passes first."""
    plain = [Condition(K, sigma) for K in LONGER for sigma in config.sigmas]
    laws = [Condition(2, sigma, law) for law in OTHER_BLOCKS for sigma in (USUAL, NOISY)]
    # With K = 2 the paper's one step is exact here; with more tasks its second order is.
    gradient = [Condition(2, sigma, order=1) for sigma in (USUAL, NOISY)]
    return [*plain, *laws, *gradient, Condition(3, USUAL, order=2)]


def learner(
    config: DiscoverConfig, network: TaskMeans, length: int, e_step: Callable[..., Any] | None
) -> OnlineEM:
    """Return the online form with the study's rates."""
    optimiser = torch.optim.Adam(network.parameters(), config.rate, (0.9, 0.99), fused=True)
    half = config.decay * length
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda t: 1 / (1 + t / half))
    chain = TaskChain.sticky(
        len(network.means),
        config.hazard_guess,
        learn_transition="hazard",
        stay=config.stay,
        switch=config.switch,
    )
    return OnlineEM(network, optimiser, chain, schedule=schedule, e_step=e_step)


def exact_filter(stream: SwitchingStream, x: Tensor) -> HMMPosterior:
    """Return the posterior of who knows the generator, for ``(N, T)``."""
    chain = stream.log_initial, stream.log_transition
    return hsmm_posterior(
        *chain, stream.log_emission(x.double()), stream.log_duration, viterbi=False
    )


def learn(config: DiscoverConfig, condition: Condition, seed: int, x: Tensor) -> dict[str, Any]:
    """Learn one stream, ``(T,)``; returns the run, the learner, the network and CPU seconds."""
    means = first_means(condition.num_tasks, config.spread, generator(seed, "weights"))
    network = TaskMeans(means, config.noise_rate)
    infer = None if condition.order is None else OneStepGradient(order=condition.order)
    em = learner(config, network, len(x), infer)
    with warnings.catch_warnings():  # collapse is asked for at the end
        warnings.simplefilter("ignore", CollapseWarning)
        start = time.process_time()
        run = em.run(x)
        seconds = time.process_time() - start
    return {"run": run, "em": em, "network": network, "seconds": seconds}


def measure(config: DiscoverConfig, condition: Condition) -> dict[str, Any]:
    """Learn the stream of every seed, the rivals beside; everything as plain numbers.

    Returns:
        ``scores`` by method and seed; ``steps_per_second``, ``sigma``, ``hazard`` and ``collapsed``
        by seed; ``curves``, the accuracy of every ``BIN`` steps by seed, unlabelled and exact.
    """
    stream, tail = condition.stream(config), config.tail
    data = [condition.sample(config, seed) for seed in config.all_seeds]
    x, z = (torch.cat(parts) for parts in zip(*data, strict=True))
    exact = exact_filter(stream, x)
    expected = exact.log_predicted.exp() @ torch.tensor(stream.means).double()
    scores: dict[str, list[Scores]] = {EXACT: [], UNLABELLED: []}
    found: dict[str, Any] = {"steps_per_second": [], "sigma": [], "hazard": [], "collapsed": []}
    curves: dict[str, list[list[float]]] = {EXACT: [], UNLABELLED: []}
    for i, seed in enumerate(config.all_seeds):
        learned = learn(config, condition, seed, x[i])
        run: OnlineEMRun = learned["run"]
        assert run.mean is not None
        truth = x[i], z[i], exact.log_filtered[i], tail
        scores[UNLABELLED].append(score(run.filtered, run.mean, *truth))
        scores[EXACT].append(score(exact.log_filtered[i].exp(), expected[i], *truth))
        curves[UNLABELLED].append(_curve(run.filtered, z[i], tail))
        curves[EXACT].append(_curve(exact.log_filtered[i].exp(), z[i], tail))
        found["steps_per_second"].append(len(x[i]) / learned["seconds"])
        found["sigma"].append(learned["network"].sigma.item())
        found["hazard"].append(learned["em"].chain.hazard)
        found["collapsed"].append(learned["em"].collapse().collapsed)
    if condition.order is None:
        seen = slice(0, x.shape[1] - tail)  # what came before the scored steps
        models = {
            WITH_LABELS: with_labels(
                x[:, None, seen], z[:, None, seen], condition.num_tasks, config
            ),
            HMM: baum_welch(x[:, None, seen].double(), condition.num_tasks, config),
        }
        for name, model in models.items():
            scores[name] = _score_all(model, x, z, exact, tail)
    found["scores"] = {n: [list(s) for s in by_seed] for n, by_seed in scores.items()}
    return found | {"curves": curves}


def _score_all(
    model: GaussianHMM, x: Tensor, z: Tensor, exact: HMMPosterior, tail: int
) -> list[Scores]:
    found = model.posterior(x.unsqueeze(1).double())
    mean = model.predicted_mean(found).squeeze(1)
    q = found.log_filtered.exp().squeeze(1)
    parts = zip(q, mean, x, z, exact.log_filtered, strict=True)
    return [score(*part, tail) for part in parts]


def _curve(filtered: Tensor, z: Tensor, tail: int) -> list[float]:
    """Return the accuracy of every ``BIN`` steps, the tasks named as where they are scored."""
    naming = slice((len(z) - tail) // 2, len(z) - tail)
    names = match_labels(filtered[naming], z[naming])
    right = (filtered.argmax(-1) == names[z]).double()
    return [part.mean().item() for part in right.split(BIN) if len(part) == BIN]
