"""The networks of the toy study and how they learn (T4)."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gbi_pyro.data.switching import GeometricBlocks, SwitchingStream
from studies.toy.config import ToyConfig
from gbi_pyro.learning.weights import clamped_loss
from gbi_pyro.models.sequence import SequenceLSTM

ROLES = ("weights", "train", "validate", "calibrate", "test")
CHECK_EVERY = 5


def generator(seed: int, role: str) -> torch.Generator:
    """Return the generator of one seed and one role; no data serve two of them."""
    return torch.Generator().manual_seed(seed * len(ROLES) + ROLES.index(role))


def make_stream(
    config: ToyConfig, means: tuple[float, ...] | None = None, sigma: float | None = None
) -> SwitchingStream:
    """Return the stream that the study draws from, with other means or noise where given."""
    return SwitchingStream(
        means=means or config.means,
        sigma=sigma or config.sigma,
        blocks=GeometricBlocks(config.hazard),
    )


@dataclass(frozen=True)
class Trained:
    """A trained network and the story of its training.

    Attributes:
        network: frozen, in eval mode.
        stream: what it was trained on.
        train_mse: squared error on the batch of each update, before it, ``(updates,)``.
        validation_mse: on a fixed validation set, every ``CHECK_EVERY`` updates.
        floor: the error of a predictor that knows the means and the tasks, on the same set.
        seconds: time spent per update, without validation.
    """

    network: SequenceLSTM
    stream: SwitchingStream
    train_mse: np.ndarray
    validation_mse: np.ndarray
    floor: float
    seconds: float

    @property
    def updates_to_floor(self) -> float:
        """Updates until the validation error is within 2 % of the noise floor; NaN if never."""
        near = np.flatnonzero(self.validation_mse <= 1.02 * self.floor)
        return float((near[0] + 1) * CHECK_EVERY) if len(near) else float("nan")


def train_network(
    config: ToyConfig,
    seed: int,
    stream: SwitchingStream,
    *,
    told: bool = True,
    mixtures: bool = False,
) -> Trained:
    """Train one network on a switching stream.

    Args:
        config: the study.
        seed: its seed; the same seed sees the same data with and without a task.
        stream: what to draw from.
        told: whether the network is told its task; else it is the plain LSTM.
        mixtures: whether half of its sequences carry mixtures, Z ~ Dirichlet(1) at each step and
            x ~ Normal(Z . mu, sigma), so that it knows the inside of the simplex too.
    """
    draw = generator(seed, "train")
    network = SequenceLSTM(stream.num_tasks if told else None, generator=generator(seed, "weights"))
    decaying = [p for p in network.parameters() if p is not network.log_sigma]
    optimiser = torch.optim.AdamW(decaying, lr=config.rate, weight_decay=config.weight_decay)
    optimiser.add_param_group({"params": [network.log_sigma], "weight_decay": 0.0})
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, 2 * (1 - step / config.updates))
    )
    held_out = stream.sample(config.test_sequences, config.test_length, generator(seed, "validate"))
    held_out_z = held_out.one_hot(stream.num_tasks) if told else None
    predicted: list[Tensor] = []
    hook = network.register_forward_hook(lambda _module, _args, mean: predicted.append(mean))
    train_mse, validation_mse, seconds = [], [], 0.0
    for update in range(config.updates):
        start = time.perf_counter()
        x, z = _batch(config, stream, draw, mixtures)
        loss = clamped_loss(network, x, z) if told else clamped_loss(network, x)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        seconds += time.perf_counter() - start
        train_mse.append((predicted.pop().detach() - x).square().mean().item())
        if update % CHECK_EVERY == CHECK_EVERY - 1:
            with torch.no_grad():
                error = network.mean(held_out.x, held_out_z) - held_out.x
            validation_mse.append(error.square().mean().item())
    hook.remove()
    best = torch.tensor(stream.means)[held_out.z]
    return Trained(
        _frozen(network),
        stream,
        np.array(train_mse),
        np.array(validation_mse),
        (best - held_out.x).square().mean().item(),
        seconds / config.updates,
    )


def _batch(
    config: ToyConfig, stream: SwitchingStream, draw: torch.Generator, mixtures: bool
) -> tuple[Tensor, Tensor]:
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


def _frozen(network: nn.Module) -> SequenceLSTM:
    network.requires_grad_(False)
    return network.eval()  # type: ignore[return-value]
