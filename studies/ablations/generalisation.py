"""Frozen networks of every kind of task input on means they never saw (T9, C1, C6)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from studies.ablations.config import ControlsConfig, generator
from studies.ablations.task_inputs import TRUE, Kind, TaskInput
from studies.toy.adaptation import (
    BETWEEN,
    EDGE,
    UNSEEN,
    OptimisedInput,
    choose,
    new_blocks,
)
from studies.toy.training import Trained
from gbi_pyro.models.sequence import SequenceLSTMStack

AS_TRAINED = "input as in training"  # zero-shot: nothing moves
MOVED = "input optimised"  # adaptation


def generalise(
    config: ControlsConfig, kind: Kind, networks: Sequence[Trained]
) -> dict[str, dict[str, list[float]]]:
    """Predict blocks of unseen means, which follow a known one, with frozen networks.

    Zero-shot, a network is given what it was given in training; the true task of an unseen mean
    does not exist, so the network with the true task has no zero-shot value. Adapting, its Z moves
    freely by the gradient from maximum entropy on; of the plain LSTM a number that is added to its
    input moves instead. Rate and horizon of what moves are chosen on other means.

    Args:
        config: the study.
        kind: of their task input.
        networks: by seed.

    Returns:
        By way, squared error ``"block"`` over the whole new block and ``"end"`` over its last
        steps, one mean over the unseen means for each seed.
    """
    x, K = new_blocks(config.toy, UNSEEN, "test"), len(config.means)
    unknown = torch.zeros(x.shape[1:]).long()
    found = {}
    if kind != TRUE:
        given = [
            t.network.mean(row, TaskInput(kind, K, s).on_one_task(unknown, generator(s, "test")))
            for s, t, row in zip(config.all_seeds, networks, x, strict=True)
        ]
        found[AS_TRAINED] = _errors(config, torch.stack(given), x)
    stack = SequenceLSTMStack([t.network for t in networks])
    plain = networks[0].network.num_tasks is None
    start = torch.zeros(1) if plain else torch.full((K,), 1 / K)
    between = new_blocks(config.toy, BETWEEN, "validate")
    network = OptimisedInput(stack) if plain else stack
    adapter = choose(network, start, "free", between, config.block_length)
    found[MOVED] = _errors(config, adapter(x).mean, x)
    return found


def _errors(config: ControlsConfig, mean: Tensor, x: Tensor) -> dict[str, list[float]]:
    error = (mean - x).square()[..., config.block_length :].numpy()
    return {
        "block": np.mean(error, (1, 2)).tolist(),
        "end": np.mean(error[..., -EDGE:], (1, 2)).tolist(),
    }
