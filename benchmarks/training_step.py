"""One weight update of the Pyro model against the same network in bare torch."""

from __future__ import annotations

import torch

from benchmarks.rows import ratio_rows
from gbi_pyro import clamped_loss
from gbi_pyro.data.switching import SwitchingStream
from gbi_pyro.models.sequence import SequenceLSTM
from studies.core.table import Row, Target

LIMITS = {32: 1.05, 256: 1.02}
"""Largest ratio, by the number of sequences: of many, 1 and the noise of a ratio."""


def training_step(seconds: float) -> list[Row]:
    """Compare sequences of 100 steps; both start from the same weights and see the same data."""
    return [row for sequences in LIMITS for row in _compared(sequences, seconds)]


def _compared(sequences: int, seconds: float) -> list[Row]:
    data = SwitchingStream().sample(sequences, 100, torch.Generator().manual_seed(0))
    x, z = data.x, data.one_hot(2)
    networks = [SequenceLSTM(2, generator=torch.Generator().manual_seed(0)) for _ in range(2)]
    optimisers = [torch.optim.Adam(n.parameters(), lr=1e-3) for n in networks]
    nll = torch.nn.GaussianNLLLoss(full=True)

    def bare_loss() -> torch.Tensor:
        network = networks[0]
        variance = network.sigma.square().expand(x.shape)
        # The prior of the task is a constant, which moves no weight.
        return nll(network.mean(x, z), x, variance) + torch.tensor(2.0).log()

    def pyro_loss() -> torch.Tensor:
        return clamped_loss(networks[1], x, z)

    if not torch.allclose(bare_loss(), pyro_loss(), atol=1e-5):
        raise AssertionError("the two losses differ: nothing to compare")

    def update(which: int) -> None:
        loss = (bare_loss, pyro_loss)[which]()
        optimisers[which].zero_grad()
        loss.backward()
        optimisers[which].step()

    return ratio_rows(
        f"training step on Pyro, {sequences} x 100",
        lambda: update(1),
        {"bare torch": lambda: update(0)},
        seconds,
        {"bare torch": Target(LIMITS[sequences])},
    )
