"""Rates of the online form compared on streams that the study never scores.

``python -m studies.unsupervised.validation`` holds the defaults of ``DiscoverConfig``
against their neighbours: the mean loss of Z accuracy to the exact filter, and the error over its.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from studies.unsupervised.config import NOISY, USUAL, DiscoverConfig
from studies.unsupervised.online import Condition, exact_filter, learn
from studies.unsupervised.scores import score

FIRST_SEED = 1_000_000  # far from the seeds of any study
STREAMS = 20
RATES, DECAYS, NOISE_RATES = (0.01, 0.02, 0.03), (0.05, 0.1, 0.2), (1.0, 3.0)


def candidates(config: DiscoverConfig) -> list[DiscoverConfig]:
    """Return the configurations that are compared, on validation streams."""
    base = replace(config, seeds=STREAMS, first_seed=FIRST_SEED)
    return [
        replace(base, rate=rate, decay=decay, noise_rate=noise_rate)
        for rate, decay, noise_rate in itertools.product(RATES, DECAYS, NOISE_RATES)
    ]


def losses(config: DiscoverConfig, sigma: float) -> tuple[float, float]:
    """Return what two unlabelled tasks cost against the exact filter, means over streams.

    Returns:
        The loss of accuracy, and the error over the exact filter's.
    """
    condition, found = Condition(2, sigma), []
    stream = condition.stream(config)
    for seed in config.all_seeds:
        x, z = condition.sample(config, seed)
        exact = exact_filter(stream, x)
        best = exact.log_predicted[0].exp() @ torch.tensor(stream.means).double()
        run = learn(config, condition, seed, x[0])["run"]
        truth = x[0], z[0], exact.log_filtered[0], config.tail
        one = score(run.filtered, run.mean, *truth)
        known = score(exact.log_filtered[0].exp(), best, *truth)
        found.append((known.accuracy - one.accuracy, one.error / known.error))
    accuracy, error = np.mean(found, 0)
    return float(accuracy), float(error)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    table = Table("rate", "decay", "noise rate", "sigma", "loss of accuracy", "MSE over exact")
    for config in candidates(DiscoverConfig()):
        for sigma in (USUAL, NOISY):
            accuracy, error = losses(config, sigma)
            settings = config.rate, config.decay, config.noise_rate, sigma
            table.add_row(*map("{:g}".format, settings), f"{accuracy:.4f}", f"{error:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
