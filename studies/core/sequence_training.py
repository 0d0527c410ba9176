"""Sequence networks that learn a switching stream, and the record of how they learned (T4)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.data.switching import Stream, SwitchingStream
from gbi_pyro.learning.weights import clamped_loss
from gbi_pyro.models.sequence import SequenceLSTM
from studies.core.device import moved, run_device
from studies.core.training import descend

CHECK_EVERY = 5
Batch = tuple[Tensor, Tensor | None]
"""Observations and the task input, ``(sequence, time)`` and ``(sequence, time, K)``."""


@dataclass(frozen=True)
class LearningCurve:
    """How a network learned.

    Attributes:
        train_mse: squared error on the batch of each update, before it, ``(updates,)``.
        validation_mse: on a fixed validation set, every ``CHECK_EVERY`` updates.
        floor: the error of a predictor that knows the means and the tasks, on the same set.
        seconds: time spent per update, without validation.
    """

    train_mse: np.ndarray
    validation_mse: np.ndarray
    floor: float
    seconds: float

    @property
    def updates_to_floor(self) -> float:
        """Updates until the validation error is within 2 % of the noise floor; NaN if never."""
        near = np.flatnonzero(self.validation_mse <= 1.02 * self.floor)
        return float((near[0] + 1) * CHECK_EVERY) if len(near) else float("nan")

    @property
    def final_over_floor(self) -> float:
        """The last validation error over the noise floor."""
        return float(self.validation_mse[-1] / self.floor)


def train_on_stream(
    network: SequenceLSTM,
    stream: SwitchingStream,
    draw: Callable[[], Batch],
    held_out: Stream,
    held_out_input: Callable[[], Tensor | None],
    *,
    updates: int,
    rate: float,
    weight_decay: float,
) -> LearningCurve:
    """Train a network on the device of the run; leave it on the CPU, frozen, in eval mode.

    AdamW, its rate falling linearly to zero over the second half; the learned noise does not decay.

    Args:
        network: untrained.
        stream: what ``draw`` draws from.
        draw: gives a training batch.
        held_out: the validation set.
        held_out_input: gives the task input of the validation set, drawn anew at each check.
        updates: of the weights.
        rate: AdamW's.
        weight_decay: AdamW's.
    """
    network.to(run_device())
    decaying = [p for p in network.parameters() if p is not network.log_sigma and p.requires_grad]
    optimiser = torch.optim.AdamW(decaying, lr=rate, weight_decay=weight_decay)
    optimiser.add_param_group({"params": [network.log_sigma], "weight_decay": 0.0})
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, 2 * (1 - step / updates))
    )
    predicted: list[Tensor] = []
    hook = network.register_forward_hook(lambda _module, _args, mean: predicted.append(mean))
    train_mse: list[float] = []
    validation_mse: list[float] = []
    seconds = 0.0

    def batches() -> Iterator[Batch]:
        nonlocal seconds
        for update in range(updates):
            start = time.perf_counter()
            x, z = draw()
            yield x, z
            seconds += time.perf_counter() - start
            train_mse.append((predicted.pop().detach().cpu() - x).square().mean().item())
            if update % CHECK_EVERY == CHECK_EVERY - 1:
                with torch.no_grad():
                    inputs = moved((held_out.x, held_out_input()), run_device())
                    error = network.mean(*inputs).cpu() - held_out.x
                validation_mse.append(error.square().mean().item())

    def loss(x: Tensor, z: Tensor | None) -> Tensor:
        return clamped_loss(network, x) if z is None else clamped_loss(network, x, z)

    descend(loss, batches(), optimiser, schedule)
    hook.remove()
    network.cpu().requires_grad_(False).eval()
    best = torch.tensor(stream.means)[held_out.z]
    floor = (best - held_out.x).square().mean().item()
    return LearningCurve(np.array(train_mse), np.array(validation_mse), floor, seconds / updates)
