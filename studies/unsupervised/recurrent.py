"""A recurrent network without labels: it must not follow the tasks by its own history."""

from __future__ import annotations

import warnings
from typing import Any

from studies.unsupervised.config import MEANS, DiscoverConfig, generator
from studies.unsupervised.networks import adam
from studies.unsupervised.online import exact_filter
from studies.unsupervised.scores import found_all
from gbi_pyro.inference.stepwise import stepwise
from gbi_pyro.learning.collapse import CollapseWarning
from gbi_pyro.learning.em import GradientEM
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.learning.labels import match_labels
from gbi_pyro.learning.restarts import window_labels
from gbi_pyro.learning.task_prior import TaskChain
from gbi_pyro.models.sequence import SequenceLSTM

NOISE_RATE = 5.0  # of sigma, as a multiple of the weights'
CLUSTERED, RANDOM = "begun with windows", "random start"
RECURRENT = (2, 3)


def measure(config: DiscoverConfig, num_tasks: int, sigma: float, start: str) -> dict[str, Any]:
    """Train an LSTM without labels on every data set.

    Args:
        config: the study.
        num_tasks: K.
        sigma: the noise.
        start: ``CLUSTERED``, with the tasks of windows for the first steps, or ``RANDOM``.

    Returns:
        By seed: ``found`` (every task has one of the network's own), ``reported`` (by the collapse
        report), ``words``, ``spread`` (nats between tasks), ``accuracy`` and ``exact``, smoothed.
    """
    keys = ("found", "reported", "words", "spread", "accuracy", "exact")
    by_seed: dict[str, list[Any]] = {key: [] for key in keys}
    for seed in config.all_seeds:
        for key, value in _learn(config, num_tasks, sigma, start, seed).items():
            by_seed[key].append(value)
    return by_seed


def _learn(
    config: DiscoverConfig, num_tasks: int, sigma: float, start: str, seed: int
) -> dict[str, Any]:
    stream = config.stream(MEANS[num_tasks], sigma)
    draw = generator(seed, "stream")
    x, z = stream.sample(config.recurrent_sequences, config.length, draw)
    draw = generator(seed, "weights")
    network = SequenceLSTM(num_tasks, config.hidden_size, generator=draw)
    weights = [p for p in network.parameters() if p is not network.log_sigma]
    rate = config.recurrent_rate
    optimiser = adam(weights, network.log_sigma, rate, NOISE_RATE * rate)
    em = GradientEM(
        network,
        OneStepGradient(order=2),
        optimiser,
        m_step="relaxed",  # through time: the network sees which task went before
        cut=stepwise,
        prior=TaskChain.sticky(num_tasks, config.hazard_guess),
    )
    labels = window_labels(x, num_tasks, config.window, seed) if start == CLUSTERED else None
    with warnings.catch_warnings():  # collapse is asked for at the end
        warnings.simplefilter("ignore", CollapseWarning)
        for _ in range(config.recurrent_start):
            em.step(x, labels=labels)
        for _ in range(config.recurrent_steps):
            em.step(x)
    report = em.collapse(x)
    q = em.infer(x).probs()
    exact = exact_filter(stream, x).log_smoothed.argmax(-1)
    names = match_labels(q, z)
    return {
        "found": found_all(q, z, names) and not report.collapsed,
        "reported": report.collapsed,
        "words": str(report),
        "spread": report.spread,
        "accuracy": (q.argmax(-1) == names[z]).double().mean().item(),
        "exact": (exact == z).double().mean().item(),
    }
