"""Networks that learn the switching stream with one kind of task input (T4, C1, C5)."""

from __future__ import annotations

import time
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from studies.ablations.config import ControlsConfig, generator
from studies.ablations.task_inputs import NONE, SAME_START, Kind, TaskInput
from studies.toy.training import CHECK_EVERY, Trained
from gbi_pyro.learning.weights import clamped_loss
from gbi_pyro.models.conditioning import Conditioning, parameter_count, width_for
from gbi_pyro.models.sequence import SequenceLSTM


def equal_size(config: ControlsConfig, conditioning: Conditioning) -> int:
    """Return the hidden size at which a network comes closest to concatenation in parameters."""

    def make(hidden_size: int, conditioning: Conditioning = conditioning) -> SequenceLSTM:
        return SequenceLSTM(len(config.means), hidden_size, conditioning=conditioning)

    return width_for(make, parameter_count(make(config.hidden_size, "concat")))


def new_network(
    config: ControlsConfig, task: TaskInput, conditioning: Conditioning = "concat"
) -> SequenceLSTM:
    """Return an untrained network for a kind of task input; its weights are its seed's."""
    draw = generator(task.seed, "weights")
    if task.kind == NONE:
        return SequenceLSTM(None, config.hidden_size, generator=draw)
    size = equal_size(config, conditioning)
    told = SequenceLSTM(task.num_tasks, size, conditioning=conditioning, generator=draw)
    if task.kind != SAME_START:
        return told
    plain, weights = SequenceLSTM(None, size), told.state_dict()
    weights["embed.weight"] = weights["embed.weight"][:, :1]  # that of x
    weights["log_prior"] = plain.log_prior
    plain.load_state_dict(weights)
    return plain


@lru_cache(maxsize=256)  # networks with the true task serve several pieces of the study
def train(config: ControlsConfig, seed: int, kind: Kind, conditioning: Conditioning, /) -> Trained:
    """Train one network on the switching stream; every kind of one seed sees the same data.

    Args:
        config: the study.
        seed: of weights, data and the drawn inputs.
        kind: what the network is given in place of its task.
        conditioning: how the task enters, at equal parameter count.
    """
    task = TaskInput(kind, len(config.means), seed)
    network = new_network(config, task, conditioning)
    free = [network.log_sigma]
    decaying = [p for p in network.parameters() if p is not network.log_sigma and p.requires_grad]
    optimiser = torch.optim.AdamW(decaying, lr=config.rate, weight_decay=config.weight_decay)
    optimiser.add_param_group({"params": free, "weight_decay": 0.0})
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, 2 * (1 - step / config.updates))
    )
    data, inputs = generator(seed, "train"), generator(seed, "task input")
    held_out = config.stream.sample(
        config.test_sequences, config.test_length, generator(seed, "validate")
    )
    predicted: list[Tensor] = []
    hook = network.register_forward_hook(lambda _module, _args, mean: predicted.append(mean))
    train_mse, validation_mse, seconds = [], [], 0.0
    for update in range(config.updates):
        start = time.perf_counter()
        x, true = config.stream.sample(config.sequences, config.length, data)
        z = task(true, inputs)
        loss = clamped_loss(network, x) if z is None else clamped_loss(network, x, z)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        seconds += time.perf_counter() - start
        train_mse.append((predicted.pop().detach() - x).square().mean().item())
        if update % CHECK_EVERY == CHECK_EVERY - 1:
            with torch.no_grad():
                error = network.mean(held_out.x, task(held_out.z, inputs)) - held_out.x
            validation_mse.append(error.square().mean().item())
    hook.remove()
    best = torch.tensor(config.means)[held_out.z]
    return Trained(
        network.requires_grad_(False).eval(),
        config.stream,
        np.array(train_mse),
        np.array(validation_mse),
        (best - held_out.x).square().mean().item(),
        seconds / config.updates,
    )
