"""Settings of the online form compared on streams that the study never scores.

``python -m studies.unsupervised.validation`` compares the defaults of ``UnsupervisedConfig`` with
their neighbours, for one learner and for several hypotheses: the loss of Z accuracy to the exact
filter, and the error relative to its.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from gbi_pyro.data.switching import GeometricBlocks
from studies.unsupervised.config import NOISY, USUAL, UnsupervisedConfig
from studies.unsupervised.online import EXACT, SEVERAL, UNLABELLED, measure_online
from studies.unsupervised.streams import Condition

FIRST_SEED = 1_000_000  # far from the seeds of any study
STREAMS = 20
RATES, DECAYS, NOISE_RATES = (0.01, 0.02, 0.03), (0.05, 0.1, 0.2), (1.0, 3.0)


EPSILONS = (1e-8, 1.0), (1.0, 1.0), (5.0, 5.0), (1.0, 5.0)
GUESSES = (0.04, 0.04, 0.04), (0.03, 0.01, 0.1)
HARD = Condition(5, USUAL), Condition(2, NOISY, GeometricBlocks(0.1))  # for one learner


def candidates(config: UnsupervisedConfig) -> list[UnsupervisedConfig]:
    """Return the configurations that are compared, on validation streams."""
    base = replace(config, seeds=STREAMS, first_seed=FIRST_SEED)
    return [
        replace(base, rate=rate, decay=decay, noise_rate=noise_rate)
        for rate, decay, noise_rate in itertools.product(RATES, DECAYS, NOISE_RATES)
    ]


def several(config: UnsupervisedConfig) -> list[UnsupervisedConfig]:
    """Return the configurations of several hypotheses that are compared."""
    base = replace(config, seeds=STREAMS, first_seed=FIRST_SEED)
    return [
        replace(base, hazard_guesses=guesses, adam_epsilons=epsilons)
        for guesses, epsilons in itertools.product(GUESSES, EPSILONS)
    ]


def losses(
    config: UnsupervisedConfig, condition: Condition, method: str = UNLABELLED
) -> tuple[float, float, float]:
    """Return what a learner without labels loses against the exact filter.

    Returns:
        The loss of accuracy, mean and largest, and the error relative to the exact filter's.
    """
    found = measure_online(config, condition, config.all_seeds, lambda _what: None)
    pairs = [(r.scores[EXACT], r.scores[method]) for r in found]
    loss = [best.accuracy - own.accuracy for best, own in pairs]
    relative = np.mean([own.error / best.error for best, own in pairs])
    return float(np.mean(loss)), float(np.max(loss)), float(relative)


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    measured = "mean loss of accuracy", "largest", "MSE over exact"
    table = Table("rate", "decay", "noise rate", "stream", *measured)
    for config in candidates(UnsupervisedConfig()):
        for condition in (Condition(2, USUAL), Condition(2, NOISY)):
            settings = map("{:g}".format, (config.rate, config.decay, config.noise_rate))
            values = map("{:.4f}".format, losses(config, condition))
            table.add_row(*settings, condition.name, *values)
    Console().print(table)
    table = Table("hazards", "epsilon", "stream", *measured)
    for config in several(UnsupervisedConfig()):
        for condition in HARD:
            settings = map(str, (config.hazard_guesses, config.adam_epsilons))
            values = map("{:.4f}".format, losses(config, condition, SEVERAL))
            table.add_row(*settings, condition.name, *values)
    Console().print(table)


if __name__ == "__main__":
    main()
