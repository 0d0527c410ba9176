"""A head for each task on a shared trunk, learned block after block: what is forgotten (T7)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from gbi_pyro.data.switching import GeometricBlocks, SwitchingStream
from gbi_pyro.models.sequence import SequenceLSTM
from studies.ablations.config import (
    PRETRAINING_MEANS,
    AblationsConfig,
    pretraining_generator,
)
from studies.ablations.forgetting import (
    ForgettingSeed,
    Schedule,
    errors_while_learning,
    records_by_seed,
)
from studies.ablations.stack import LearningStack
from studies.ablations.task_inputs import TRUE, TaskInput
from studies.ablations.training import equal_size, new_network
from studies.core.protocol import Report
from studies.core.sequence_training import Batch, train_on_stream

HEAD = "a head for each task"
TRAINED = f"{HEAD}, all trained"
RANDOM, RANDOM_SGD = f"{HEAD}, frozen random trunk", f"{HEAD}, frozen random trunk, SGD"
PRETRAINED = f"{HEAD}, frozen pre-trained trunk"
PRETRAINED_SGD = f"{PRETRAINED}, SGD"
_MOMENTUM = "no gradient reaches the other head, but Adam's momentum moves it on after the switch"
_NOTHING = "0 by construction: nothing that the other task's prediction depends on moves"
HEADS = {
    TRAINED: "the trunk is shared and moves",
    RANDOM: _MOMENTUM,
    RANDOM_SGD: _NOTHING,
    PRETRAINED: _MOMENTUM,
    PRETRAINED_SGD: _NOTHING,
}


def measure_heads(
    config: AblationsConfig, schedule: Schedule, seeds: Sequence[int], report: Report
) -> list[ForgettingSeed]:
    """Learn one stream for each seed with a head for each task, its trunk trained or frozen.

    A frozen trunk keeps its first, random weights or those of ``pretrained_trunk``; heads begin the
    same. Data, updates and tests are those of ``measure_forgetting``, but no update looks back
    across the start of its block, where it would learn the task before it too.

    After a switch no gradient reaches the head of the task before. SGD leaves it as it is. Adam's
    momentum goes on, by about rate * beta1 / (1 - beta1) in each weight, nine times the rate:
    gradients of overlapping windows point one way, so that the whole head moves together.
    """
    inputs = [TaskInput(TRUE, len(config.means), seed) for seed in seeds]
    errors = {}
    for kind in HEADS:
        networks = [new_network(config, i, "affine") for i in inputs]
        if kind in (PRETRAINED, PRETRAINED_SGD):
            for seed, network in zip(seeds, networks, strict=True):
                network.load_state_dict(network.state_dict() | pretrained_trunk(config, seed))
        stack = LearningStack(networks)
        if kind != TRAINED:
            stack.freeze_trunk()
        learned = [p for p in stack.parameters() if p.requires_grad]
        optimiser: torch.optim.Optimizer
        if kind in (RANDOM_SGD, PRETRAINED_SGD):
            optimiser = torch.optim.SGD(learned, lr=schedule.rate)
        else:
            optimiser = torch.optim.Adam(learned, lr=schedule.rate, fused=True)
        errors[kind] = errors_while_learning(
            config, schedule, stack, inputs, optimiser, within_block=True
        )
    return records_by_seed(errors)


@cache  # one for all schedules
def pretrained_trunk(config: AblationsConfig, seed: int, /) -> dict[str, Tensor]:
    """Return embedding and LSTM of a network that learned a stream of other means.

    It has a head for each of ``PRETRAINING_MEANS``, and no weight decay: given its task the best
    prediction is a constant, the bias of its head, and decay would leave nothing of the trunk.

    Args:
        config: the study.
        seed: of weights and data.

    Returns:
        Weights by their names in ``SequenceLSTM``.
    """
    num_tasks, size = len(PRETRAINING_MEANS), equal_size(config, "affine")
    weights, data, held_out_draw = (
        pretraining_generator(seed, role) for role in pretraining_generator.names
    )
    network = SequenceLSTM(num_tasks, size, conditioning="affine", generator=weights)
    stream = SwitchingStream(PRETRAINING_MEANS, config.sigma, GeometricBlocks(config.hazard))
    held_out = stream.sample(config.test_sequences, config.test_length, held_out_draw)

    def one_hot(z: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(z, num_tasks).float()

    def batch() -> Batch:
        x, z = stream.sample(config.sequences, config.length, data)
        return x, one_hot(z)

    train_on_stream(
        network,
        stream,
        batch,
        held_out,
        lambda: one_hot(held_out.z),
        updates=config.updates,
        rate=config.rate,
        weight_decay=0.0,
    )
    return {
        name: weight
        for name, weight in network.state_dict().items()
        if name.startswith(("embed.", "lstm."))
    }
