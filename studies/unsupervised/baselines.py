"""The baselines of unsupervised learning: a plain Gaussian HMM, and a network with labels."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from gbi_pyro.inference.hmm import HMMPosterior, hmm_posterior, log_pairwise
from gbi_pyro.learning.labels import clamp_log_likelihoods
from gbi_pyro.learning.restarts import window_labels
from gbi_pyro.learning.weights import clamped_loss
from studies.core.training import descend
from studies.unsupervised.config import UnsupervisedConfig
from studies.unsupervised.networks import FLOOR, SideBySide, log_emission

RATE = 0.05  # of the network with labels, whose loss is nearly quadratic
STICKY = 9.0  # how much likelier a task is to stay, where Baum-Welch begins
TINY = 1e-9  # in place of a count of zero


class GaussianHMM(NamedTuple):
    """N hidden Markov models with one Gaussian per task, each of its own data.

    Attributes:
        log_initial: log p(z_1), ``(N, K)``.
        log_transition: ``(N, K, K)``.
        means: ``(N, K)``.
        sigma: ``(N, K)``.
    """

    log_initial: Tensor
    log_transition: Tensor
    means: Tensor
    sigma: Tensor

    @classmethod
    def sticky(cls, means: Tensor, sigma: Tensor, hazard: Tensor) -> GaussianHMM:
        """Return models in double precision, means ``(N, K)``, noise and hazard ``(N,)``."""
        N, K = means.shape
        initial = torch.full((N, K), -math.log(K)).double()
        spread = sigma.double().unsqueeze(-1).expand(N, K)
        return cls(initial, sticky_transition(hazard.double(), K), means.double(), spread)

    def posterior(self, x: Tensor, labels: Tensor | None = None) -> HMMPosterior:
        """Return the posterior over tasks of sequences ``(N, B, T)``, labels being -1 or known."""
        means, sigma = self.means.unsqueeze(1), self.sigma.unsqueeze(1)
        emission = log_emission(x.double(), means, sigma)
        if labels is not None:
            emission = clamp_log_likelihoods(emission, labels)
        chain = self.log_initial.unsqueeze(1), self.log_transition.unsqueeze(1)
        return hmm_posterior(*chain, emission, viterbi=False)

    def pairs(self, posterior: HMMPosterior) -> Tensor:
        """Return how often each task is expected to follow each, ``(N, K, K)``."""
        return log_pairwise(posterior, self.log_transition.unsqueeze(1)).exp().sum((1, 2))

    def predicted_mean(self, posterior: HMMPosterior) -> Tensor:
        """Return E[x_t | x_1..t-1], ``(N, B, T)``."""
        return (posterior.log_predicted.exp() * self.means[:, None, None]).sum(-1)


def baum_welch(x: Tensor, num_tasks: int, config: UnsupervisedConfig) -> GaussianHMM:
    """Fit a hidden Markov model to each data set by maximum likelihood, the best of some starts.

    Every parameter is updated in closed form (Rabiner 1989, A tutorial on hidden Markov models,
    Proc. IEEE 77, sec. III C): no network, no gradient. Starts are those of the networks.

    Args:
        x: data sets, ``(N, B, T)``.
        num_tasks: K.
        config: the study.
    """
    x, R, K = x.double(), config.restarts, num_tasks
    data = x.repeat_interleave(R, 0)
    starts = [window_labels(one, K, config.window, r) for one in x for r in range(R)]
    q = torch.nn.functional.one_hot(torch.stack(starts), K).to(x)
    model = _moments(data, q, q.new_ones(len(q), K, K) + STICKY * torch.eye(K).to(q))
    for _ in range(config.baseline_steps):
        found = model.posterior(data)
        model = _moments(data, found.log_smoothed.exp(), model.pairs(found))
    evidence = model.posterior(data).log_evidence.sum(-1).reshape(-1, R)
    best = evidence.argmax(-1) + R * torch.arange(len(x))
    return GaussianHMM(*(part[best] for part in model))


def _moments(x: Tensor, q: Tensor, pairs: Tensor) -> GaussianHMM:
    """Return the parameters that make the data most probable, given q and the pairs of tasks."""
    total = q.sum((1, 2)).clamp_min(TINY)  # a task that explains nothing keeps a mean
    means = (q * x.unsqueeze(-1)).sum((1, 2)) / total
    square = (q * (x.unsqueeze(-1) - means[:, None, None]).square()).sum((1, 2)) / total
    pairs = pairs.clamp_min(TINY)
    initial = q[:, :, 0].sum(1).clamp_min(TINY)
    return GaussianHMM(
        (initial / initial.sum(-1, keepdim=True)).log(),
        (pairs / pairs.sum(-1, keepdim=True)).log(),
        means,
        square.sqrt().clamp_min(FLOOR),
    )


def with_labels(x: Tensor, z: Tensor, num_tasks: int, config: UnsupervisedConfig) -> GaussianHMM:
    """Train the study's network on every label, and count how often tasks switch.

    Args:
        x: data sets, ``(N, B, T)``.
        z: task ids, ``(N, B, T)``.
        num_tasks: K.
        config: the study.
    """
    N, K = len(x), num_tasks
    network = SideBySide(x.new_full((N, K), 0.5))
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    steps = 10 * config.baseline_steps
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    flat, one_hot = x.flatten(0, 1), torch.nn.functional.one_hot(z.flatten(0, 1), K).to(x)
    batches = itertools.repeat((flat, one_hot), steps)
    descend(lambda *batch: clamped_loss(network, *batch), batches, optimiser, schedule)
    leaves = (z.diff() != 0).double().flatten(1)
    hazard = (leaves.sum(-1) + config.switch) / (leaves.shape[1] + config.switch + config.stay)
    return GaussianHMM.sticky(network.means.detach(), network.sigma.detach(), hazard)


def sticky_transition(hazard: Tensor, num_tasks: int) -> Tensor:
    """Return log A, ``(N, K, K)``, of chains that leave their task with a hazard, ``(N,)``.

    >>> sticky_transition(torch.tensor([0.25]), 2).exp()
    tensor([[[0.7500, 0.2500], [0.2500, 0.7500]]])
    """
    leave = (hazard / (num_tasks - 1))[:, None, None].expand(-1, num_tasks, num_tasks)
    stay = torch.diag_embed((1 - hazard)[:, None].expand(-1, num_tasks))
    return torch.where(torch.eye(num_tasks, dtype=torch.bool), stay, leave).log()
