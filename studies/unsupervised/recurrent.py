"""A recurrent network without labels: it must not follow the tasks by its own history."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch

from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.inference.stepwise import stepwise
from gbi_pyro.inference.task_chain import TaskChain
from gbi_pyro.learning.collapse import CollapseWarning
from gbi_pyro.learning.em import GradientEM
from gbi_pyro.learning.labels import match_labels
from gbi_pyro.learning.restarts import window_labels
from gbi_pyro.models.sequence import SequenceLSTM
from studies.core.protocol import Report
from studies.unsupervised.config import UnsupervisedConfig, generator
from studies.unsupervised.scores import found_all
from studies.unsupervised.streams import Condition, exact_posterior

NOISE_RATE = 5.0  # of sigma, as a multiple of the weights'
CLUSTERED, RANDOM = "initialised with window labels", "random start"
STARTS = (CLUSTERED, RANDOM)
RECURRENT = (2, 3)  # numbers of tasks


@dataclass(frozen=True)
class RecurrentSeed:
    """What an LSTM found in the data set of one seed.

    Attributes:
        found: whether every task has one of the network's own.
        reported: whether the collapse report says that some are missing.
        spread: of its outputs over tasks, in nats per step.
        accuracy: share of steps whose most probable task, smoothed, is the true one.
        exact: the same of the exact smoother.
    """

    found: bool
    reported: bool
    spread: float
    accuracy: float
    exact: float


def measure_recurrent(
    config: UnsupervisedConfig, condition: Condition, start: str, seed: int, report: Report
) -> RecurrentSeed:
    """Train an LSTM without labels on the data set of one seed, from one of ``STARTS``."""
    K, stream = condition.num_tasks, condition.stream(config)
    x, z = stream.sample(config.recurrent_sequences, config.length, generator(seed, "stream"))
    network = SequenceLSTM(K, config.hidden_size, generator=generator(seed, "weights"))
    weights = [p for p in network.parameters() if p is not network.log_sigma]
    rate = config.recurrent_rate
    optimiser = torch.optim.Adam(weights, rate)
    optimiser.add_param_group({"params": [network.log_sigma], "lr": NOISE_RATE * rate})
    em = GradientEM(
        network,
        OneStepGradient(order=2),
        optimiser,
        m_step="relaxed",  # through time: the network sees which task went before
        cut=stepwise,
        prior=TaskChain.sticky(K, config.hazard_guess),
    )
    labels = window_labels(x, K, config.window, seed) if start == CLUSTERED else None
    with warnings.catch_warnings():  # collapse is asked for at the end
        warnings.simplefilter("ignore", CollapseWarning)
        for step in range(config.recurrent_start + config.recurrent_steps):
            em.step(x, labels=labels if step < config.recurrent_start else None)
    collapse, q = em.collapse(x), em.infer(x).probs()
    exact = exact_posterior(stream, x).log_smoothed.argmax(-1)
    return RecurrentSeed(
        found=found_all(q, z) and not collapse.collapsed,
        reported=collapse.collapsed,
        spread=collapse.spread,
        accuracy=(q.argmax(-1) == match_labels(q, z)[z]).double().mean().item(),
        exact=(exact == z).double().mean().item(),
    )
