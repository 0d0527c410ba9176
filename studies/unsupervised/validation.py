"""Rates of the online form compared on streams that the study never scores.

``python -m studies.unsupervised.validation`` compares the defaults of ``UnsupervisedConfig`` with
their neighbours: the mean loss of Z accuracy to the exact filter, and the error relative to its.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from studies.unsupervised.config import NOISY, USUAL, UnsupervisedConfig
from studies.unsupervised.online import EXACT, UNLABELLED, measure_online
from studies.unsupervised.streams import Condition

FIRST_SEED = 1_000_000  # far from the seeds of any study
STREAMS = 20
RATES, DECAYS, NOISE_RATES = (0.01, 0.02, 0.03), (0.05, 0.1, 0.2), (1.0, 3.0)


def candidates(config: UnsupervisedConfig) -> list[UnsupervisedConfig]:
    """Return the configurations that are compared, on validation streams."""
    base = replace(config, seeds=STREAMS, first_seed=FIRST_SEED)
    return [
        replace(base, rate=rate, decay=decay, noise_rate=noise_rate)
        for rate, decay, noise_rate in itertools.product(RATES, DECAYS, NOISE_RATES)
    ]


def losses(config: UnsupervisedConfig, sigma: float) -> tuple[float, float]:
    """Return what two unlabelled tasks lose against the exact filter, means over streams.

    Returns:
        The loss of accuracy, and the error relative to the exact filter's.
    """
    found = measure_online(config, Condition(2, sigma), config.all_seeds, lambda _what: None)
    pairs = [(r.scores[EXACT], r.scores[UNLABELLED]) for r in found]
    values = [(best.accuracy - own.accuracy, own.error / best.error) for best, own in pairs]
    accuracy, error = np.mean(values, 0)
    return float(accuracy), float(error)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    table = Table("rate", "decay", "noise rate", "sigma", "loss of accuracy", "MSE over exact")
    for config in candidates(UnsupervisedConfig()):
        for sigma in (USUAL, NOISY):
            accuracy, error = losses(config, sigma)
            settings = config.rate, config.decay, config.noise_rate, sigma
            table.add_row(*map("{:g}".format, settings), f"{accuracy:.4f}", f"{error:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
