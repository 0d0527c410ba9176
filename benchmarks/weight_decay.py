"""How weight decay makes one gradient step exact: ``python -m benchmarks.weight_decay``.

The choice for the toy study was made by this, on seeds and streams that none of its results uses.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from gbi_pyro import OneStepGradient, stepwise
from gbi_pyro.metrics.agreement import kl
from studies.core.streams import exact_filter, in_filter
from studies.toy.config import ToyConfig, generator
from studies.toy.training import train_network

SEEDS = range(100, 106)


def main() -> None:
    """Print the filtered KL of one step on validation streams, by weight decay and noise."""
    torch.set_num_threads(1)
    for sigma in (0.1, 0.3):
        for decay in (0.0, 0.2, 0.5, 1.0, 2.0):
            config = replace(ToyConfig(), weight_decay=decay)
            divergences, updates = [], []
            for seed in SEEDS:
                trained = train_network(config, seed, config.stream(sigma=sigma))
                updates.append(trained.curve.updates_to_floor)
                shape = config.test_sequences, config.test_length
                x = trained.stream.sample(*shape, generator(seed, "validate")).x
                found = in_filter(trained.stream, OneStepGradient())(stepwise(trained.network, x))
                exact = exact_filter(trained.stream, x)
                divergences.append(kl(exact.logits(), found.logits()).mean().item())
            print(
                f"sigma {sigma}, weight decay {decay}: filtered KL median "
                f"{np.median(divergences):.5f}, largest {max(divergences):.5f} nats per step; "
                f"within 2 % of the noise floor after {np.median(updates):.0f} updates, at most "
                f"{max(updates):.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
