"""Ways to tell a network its task, compared at equal parameter count (C5)."""

from __future__ import annotations

from typing import Any

from studies.ablations.config import ControlsConfig
from studies.ablations.task_inputs import TRUE
from studies.ablations.training import equal_size, train
from studies.toy.evidence import filtered_estimates
from gbi_pyro.models.conditioning import Conditioning, parameter_count
from gbi_pyro.models.sequence import SequenceLSTM


def measure(config: ControlsConfig, conditioning: Conditioning) -> dict[str, Any]:
    """Train a network for each seed and hold its evidence against the exact posterior.

    Returns:
        ``validation``, error over the noise floor at each check of the training, ``(seeds,
        checks)``; ``divergence``, KL(exact filter || estimate) per step by estimate, see
        ``filtered_estimates``, each by seed; ``parameters`` and ``hidden_size``.
    """
    networks = [train(config, seed, TRUE, conditioning) for seed in config.all_seeds]
    found = [
        filtered_estimates(config.toy, seed, trained)
        for seed, trained in zip(config.all_seeds, networks, strict=True)
    ]
    size = equal_size(config, conditioning)
    new = SequenceLSTM(len(config.means), size, conditioning=conditioning)
    return {
        "validation": [(t.validation_mse / t.floor).tolist() for t in networks],
        "divergence": {name: [f[name][0] for f in found] for name in found[0]},
        "parameters": parameter_count(new),
        "hidden_size": size,
    }
