"""What each kind of task input does to learning, generalisation and the units (C1, T4, T6, T9)."""

from __future__ import annotations

from typing import Any

import torch

from gbi_pyro.metrics.modularity import shared_unit_sweep, task_variance
from studies.ablations.config import ControlsConfig, generator
from studies.ablations.generalisation import generalise
from studies.ablations.task_inputs import Kind, TaskInput
from studies.ablations.training import train
from studies.toy.training import Trained
from gbi_pyro.models.conditioning import parameter_count
from gbi_pyro.models.sequence import SequenceLSTM


def measure(config: ControlsConfig, kind: Kind) -> dict[str, Any]:
    """Train a network for each seed and measure it.

    Returns:
        ``validation``, error over the noise floor at each check of the training, ``(seeds,
        checks)``; ``generalisation``, see ``generalise``; ``modularity``, see ``modularity``, by
        seed; and ``parameters``.
    """
    networks = [train(config, seed, kind, "concat") for seed in config.all_seeds]
    units = [
        modularity(config, kind, s, t) for s, t in zip(config.all_seeds, networks, strict=True)
    ]
    new = SequenceLSTM(networks[0].network.num_tasks, config.hidden_size)
    return {
        "validation": [(t.validation_mse / t.floor).tolist() for t in networks],
        "generalisation": generalise(config, kind, networks),
        "modularity": {name: [u[name] for u in units] for name in units[0]},
        "parameters": parameter_count(new),
    }


@torch.no_grad()
def modularity(config: ControlsConfig, kind: Kind, seed: int, trained: Trained) -> dict[str, Any]:
    """Return how the hidden units of one network are divided among the tasks on test streams.

    Returns:
        ``task_share``, the variance between task means over the whole variance, both summed over
        units; ``shared``, the ratio of units engaged in both tasks at each of ``THRESHOLDS``;
        ``area`` under it. No unit counts as silent: one that is told its task hardly moves within
        it.
    """
    draw = generator(seed, "test")
    x, z = config.stream.sample(config.test_sequences, config.test_length, draw)
    hidden: list[torch.Tensor] = []
    hook = trained.network.lstm.register_forward_hook(lambda _m, _a, out: hidden.append(out[0]))
    trained.network.mean(x, TaskInput(kind, len(config.means), seed)(z, draw))
    hook.remove()
    activity = hidden[0]
    by_task = [activity[z == k] for k in range(len(config.means))]
    sweep = shared_unit_sweep(by_task, silent=0.0)
    whole = activity.flatten(0, 1).var(0, correction=0).sum()
    return {
        "task_share": (task_variance(activity, z).sum() / whole).item(),
        "shared": sweep.ratio.tolist(),
        "area": sweep.area,
    }
