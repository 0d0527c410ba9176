"""What each kind of task input does to learning, generalisation and the units (C1, T4, T6, T9)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.models.sequence import SequenceLSTM
from gbi_pyro.representation.units import shared_unit_sweep, task_variance
from studies.ablations.config import AblationsConfig, generator
from studies.ablations.generalisation import UnseenErrors, generalise
from studies.ablations.task_inputs import InputKind, TaskInput
from studies.ablations.training import train
from studies.core.unseen_means import Rate


@dataclass(frozen=True)
class Units:
    """How the hidden units of a network are divided among the tasks.

    No unit counts as silent: one whose input is the task hardly moves within it.

    Attributes:
        task_share: the variance between task means over the whole variance, both summed over units.
        shared: the ratio of units engaged in both tasks at each of ``THRESHOLDS``.
        area: under that ratio.
    """

    task_share: float
    shared: np.ndarray
    area: float


@dataclass(frozen=True)
class InputSeed:
    """A network with one kind of task input.

    Attributes:
        validation: error over the noise floor at each check of the training, ``(checks,)``.
        unseen: errors on unseen means, see ``generalise``.
        units: on test streams.
        weights: of the trained network.
    """

    validation: np.ndarray
    unseen: dict[str, UnseenErrors]
    units: Units
    weights: dict[str, Tensor]


def measure_input(config: AblationsConfig, kind: InputKind, rate: Rate, seed: int) -> InputSeed:
    """Train the network of one seed and measure it; ``rate`` is that of a moved input."""
    network, curve = train(config, seed, kind)
    return InputSeed(
        curve.validation_mse / curve.floor,
        generalise(config, kind, rate, seed, network),
        measure_units(config, kind, seed, network),
        dict(network.state_dict()),
    )


@torch.no_grad()
def measure_units(
    config: AblationsConfig, kind: InputKind, seed: int, network: SequenceLSTM
) -> Units:
    """Return how the hidden units of one network are divided among the tasks on test streams."""
    draw, tasks = generator(seed, "test"), range(len(config.means))
    x, z = config.stream.sample(config.test_sequences, config.test_length, draw)
    hidden: list[Tensor] = []
    hook = network.lstm.register_forward_hook(lambda _m, _a, out: hidden.append(out[0]))
    network.mean(x, TaskInput(kind, len(tasks), seed)(z, draw))
    hook.remove()
    activity = hidden[0]
    sweep = shared_unit_sweep([activity[z == k] for k in tasks], silent=0.0)
    whole = activity.flatten(0, 1).var(0, correction=0).sum()
    share = (task_variance(activity, z).sum() / whole).item()
    return Units(share, sweep.ratio.numpy(), sweep.area)
