"""The ways a task enters a network, compared at equal parameter count (C5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gbi_pyro.models.conditioning import Conditioning, parameter_count
from gbi_pyro.models.sequence import SequenceLSTM
from studies.ablations.config import AblationsConfig, frozen_generator
from studies.ablations.task_inputs import TRUE
from studies.ablations.training import equal_size, train
from studies.core.protocol import Report
from studies.core.streams import calibrate_network, filtered_estimates


@dataclass(frozen=True)
class ConditionerSeed:
    """A network with the true task, which enters in one way.

    Attributes:
        validation: error over the noise floor at each check of the training, ``(checks,)``.
        divergence: KL(exact filter || estimate) per step by estimate, in nats.
        parameters: of the network.
        hidden_size: of its LSTM.
    """

    validation: np.ndarray
    divergence: dict[str, float]
    parameters: int
    hidden_size: int


def measure_conditioner(
    config: AblationsConfig, conditioning: Conditioning, seed: int, report: Report
) -> ConditionerSeed:
    """Train the network of one seed and compare its filters with the exact one."""
    network, curve = train(config, seed, TRUE, conditioning)
    x, other = (
        config.stream.sample(config.test_sequences, config.test_length, draw).x
        for draw in (frozen_generator(seed, "test"), frozen_generator(seed, "calibrate"))
    )
    calibration = calibrate_network(config.stream, network, other)
    found = filtered_estimates(config.stream, network, x, calibration)
    size = equal_size(config, conditioning)
    return ConditionerSeed(
        curve.validation_mse / curve.floor,
        {name: divergence for name, (divergence, _passes) in found.items()},
        parameter_count(SequenceLSTM(len(config.means), size, conditioning=conditioning)),
        size,
    )
