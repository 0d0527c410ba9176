"""Networks that learn the switching stream with one kind of task input (T4, C1, C5)."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from gbi_pyro.models.conditioning import Conditioning, parameter_count, width_for
from gbi_pyro.models.sequence import SequenceLSTM
from studies.ablations.config import AblationsConfig, generator
from studies.ablations.task_inputs import NONE, SAME_START, InputKind, TaskInput
from studies.core.sequence_training import Batch, LearningCurve, train_on_stream


class Trained(NamedTuple):
    """A trained network, frozen, and how it learned."""

    network: SequenceLSTM
    curve: LearningCurve


def equal_size(config: AblationsConfig, conditioning: Conditioning) -> int:
    """Return the hidden size at which a network comes closest to concatenation in parameters."""

    def make(hidden_size: int, conditioning: Conditioning = conditioning) -> SequenceLSTM:
        return SequenceLSTM(len(config.means), hidden_size, conditioning=conditioning)

    return width_for(make, parameter_count(make(config.hidden_size, "concat")))


def new_network(
    config: AblationsConfig, task: TaskInput, conditioning: Conditioning = "concat"
) -> SequenceLSTM:
    """Return an untrained network for a kind of task input; its weights are its seed's."""
    draw = generator(task.seed, "weights")
    if task.kind == NONE:
        return SequenceLSTM(None, config.hidden_size, generator=draw)
    size = equal_size(config, conditioning)
    conditioned = SequenceLSTM(task.num_tasks, size, conditioning=conditioning, generator=draw)
    if task.kind != SAME_START:
        return conditioned
    plain, weights = SequenceLSTM(None, size), conditioned.state_dict()
    weights["embed.weight"] = weights["embed.weight"][:, :1]  # that of x
    weights["log_prior"] = plain.log_prior
    plain.load_state_dict(weights)
    return plain


@cache  # networks with the true task serve several parts of the study
def train(
    config: AblationsConfig, seed: int, kind: InputKind, conditioning: Conditioning = "concat", /
) -> Trained:
    """Train one network on the switching stream; every kind of one seed sees the same data.

    Args:
        config: the study.
        seed: of weights, data and the drawn inputs.
        kind: what the network is given in place of its task.
        conditioning: how the task enters, at equal parameter count.
    """
    task, stream = TaskInput(kind, len(config.means), seed), config.stream
    network = new_network(config, task, conditioning)
    data, inputs = generator(seed, "train"), generator(seed, "task input")
    shape = config.test_sequences, config.test_length
    held_out = stream.sample(*shape, generator(seed, "validate"))

    def batch() -> Batch:
        x, z = stream.sample(config.sequences, config.length, data)
        return x, task(z, inputs)

    curve = train_on_stream(
        network,
        stream,
        batch,
        held_out,
        lambda: task(held_out.z, inputs),
        updates=config.updates,
        rate=config.rate,
        weight_decay=config.weight_decay,
    )
    return Trained(network, curve)
