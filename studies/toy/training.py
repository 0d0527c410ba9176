"""The networks of the toy study, and how they are trained (T4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gbi_pyro.data.switching import Stream, SwitchingStream
from gbi_pyro.models.sequence import SequenceLSTM
from studies.core.sequence_training import Batch, LearningCurve, train_on_stream
from studies.toy.config import ToyConfig, generator


@dataclass(frozen=True)
class Trained:
    """A trained network, frozen, with the stream it was trained on and how it learned."""

    network: SequenceLSTM
    stream: SwitchingStream
    curve: LearningCurve


def test_stream(config: ToyConfig, seed: int, stream: SwitchingStream) -> Stream:
    """Return the test sequences of a seed."""
    return stream.sample(config.test_sequences, config.test_length, generator(seed, "test"))


def train_network(
    config: ToyConfig,
    seed: int,
    stream: SwitchingStream,
    *,
    conditioned: bool = True,
    mixtures: bool = False,
) -> Trained:
    """Train one network on a switching stream.

    Args:
        config: the study.
        seed: its seed; the same seed sees the same data with and without a task input.
        stream: what to draw from.
        conditioned: whether the network is given its task; else it is the plain LSTM.
        mixtures: whether half of its sequences carry mixtures, Z ~ Dirichlet(1) at each step and
            x ~ Normal(Z . mu, sigma), so that it knows the inside of the simplex too.
    """
    draw, num_tasks = generator(seed, "train"), stream.num_tasks
    network = SequenceLSTM(num_tasks if conditioned else None, generator=generator(seed, "weights"))
    held_out = stream.sample(config.test_sequences, config.test_length, generator(seed, "validate"))
    held_out_z = held_out.one_hot(num_tasks) if conditioned else None

    def batch() -> Batch:
        x, z = draw_batch(config, stream, draw, mixtures)
        return x, z if conditioned else None

    curve = train_on_stream(
        network,
        stream,
        batch,
        held_out,
        lambda: held_out_z,
        updates=config.updates,
        rate=config.rate,
        weight_decay=config.weight_decay,
    )
    return Trained(network, stream, curve)


def draw_batch(
    config: ToyConfig, stream: SwitchingStream, draw: torch.Generator, mixtures: bool
) -> tuple[Tensor, Tensor]:
    """Draw training sequences and their task input, mixtures of tasks for the first half of them.

    Returns:
        ``(sequences, length)`` and ``(sequences, length, K)``.
    """
    batch = stream.sample(config.sequences, config.length, draw)
    x, z = batch.x, batch.one_hot(stream.num_tasks)
    if not mixtures:
        return x, z
    half = config.sequences // 2
    # Dirichlet(1) is the normalised vector of independent exponentials.
    soft = torch.empty_like(z[:half]).exponential_(generator=draw)
    soft = soft / soft.sum(-1, keepdim=True)
    noise = torch.randn(x[:half].shape, generator=draw)
    soft_x = soft @ torch.tensor(stream.means) + stream.sigma * noise
    return torch.cat([soft_x, x[half:]]), torch.cat([soft, z[half:]])
