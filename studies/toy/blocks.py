"""One stream learned block after block: learning, sharing, forgetting (T5-T7)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.data.switching import FixedBlocks, SwitchingStream
from gbi_pyro.learning.weights import clamped_loss
from gbi_pyro.models.sequence import SequenceLSTM
from gbi_pyro.representation.units import shared_unit_ratio
from studies.core.blocks import LEFT_OUT, WINDOW
from studies.core.training import descend
from studies.toy.config import ToyConfig, generator

RATE = 0.001  # Adam's default
SILENT = 1e-3  # of activity squared: the absolute threshold of the code that the paper cites


@dataclass(frozen=True)
class BlockRun:
    """What one network did on one stream.

    Attributes:
        block_mse: error of each block without its first predictions, each made before the weights
            saw that step, ``(blocks,)``.
        shared_units: ratio of hidden units engaged in a block and the next, ``(blocks - 1,)``; NaN
            where every unit is silent by the absolute threshold ``SILENT``.
        shared_of_all: the same without that threshold. A network that is given its task hardly
            listens to the noise within a block, so that its variances are small all over: the two
            differ.
        forgetting: error on the task of the last block but one after the last one.
    """

    block_mse: np.ndarray
    shared_units: np.ndarray
    shared_of_all: np.ndarray
    forgetting: float


def learn_blocks(config: ToyConfig, seed: int, *, conditioned: bool) -> BlockRun:
    """Learn a stream of alternating blocks, one weight update per step on the last few steps.

    Args:
        config: the study.
        seed: the seed; the same stream with and without a task input.
        conditioned: whether the network is given its task.
    """
    length, blocks = config.block_length, config.num_blocks
    stream = SwitchingStream(config.means, config.sigma, FixedBlocks(length))
    data = stream.sample(1, length * blocks, generator(seed, "train"))
    z = data.one_hot(stream.num_tasks)
    network = SequenceLSTM(
        stream.num_tasks if conditioned else None, generator=generator(seed, "weights")
    )
    means: list[Tensor] = []
    hidden: list[Tensor] = []
    network.register_forward_hook(lambda _m, _a, mean: means.append(mean[0, -1].detach()))
    network.lstm.register_forward_hook(lambda _m, _a, out: hidden.append(out[0][0, -1].detach()))

    def windows() -> Iterator[tuple[Tensor, ...]]:
        for t in range(length * blocks):
            past = slice(max(0, t + 1 - WINDOW), t + 1)
            yield (data.x[:, past], z[:, past]) if conditioned else (data.x[:, past],)

    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    descend(lambda *batch: clamped_loss(network, *batch), windows(), optimiser)
    errors = (torch.stack(means) - data.x[0]).square().reshape(blocks, length)
    activity = torch.stack(hidden).reshape(blocks, length, -1)[:, LEFT_OUT:]
    pairs = [list(pair) for pair in itertools.pairwise(activity)]
    return BlockRun(
        errors[:, LEFT_OUT:].mean(-1).numpy(),
        np.array([_shared_above_threshold(pair) for pair in pairs]),
        np.array([shared_unit_ratio(pair, silent=0.0) for pair in pairs]),
        _error_on_task(config, network, int(data.z[0, -length - 1]), seed),
    )


def _shared_above_threshold(pair: list[Tensor]) -> float:
    """Return the ratio of shared units, those whose variances sum to ``SILENT`` held constant."""
    active = torch.stack([h.var(0, correction=0) for h in pair]).sum(0) > SILENT
    return shared_unit_ratio([h * active for h in pair], silent=0.0)


@torch.no_grad()
def _error_on_task(config: ToyConfig, network: SequenceLSTM, task: int, seed: int) -> float:
    shape = (config.test_sequences, config.block_length)
    noise = torch.randn(shape, generator=generator(seed, "test"))
    x = config.means[task] + config.sigma * noise
    z: Tensor | None = None
    if network.num_tasks is not None:
        z = torch.nn.functional.one_hot(torch.full(shape, task), len(config.means)).float()
    return (network.mean(x, z) - x)[:, LEFT_OUT:].square().mean().item()
