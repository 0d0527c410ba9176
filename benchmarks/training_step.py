"""One weight update of the Pyro model against the same network in bare torch."""

from __future__ import annotations

import torch

from benchmarks.timing import interleave
from gbi_pyro import clamped_loss
from gbi_pyro.data.switching import SwitchingStream
from gbi_pyro.models.sequence import SequenceLSTM
from studies.core.table import Row, Target

LIMITS = {32: 1.1, 256: 1.05}
"""Largest ratio, by the number of sequences."""


def training_step(repeats: int) -> list[Row]:
    """Compare sequences of 100 steps; both start from the same weights and see the same data."""
    return [_compared(sequences, repeats * 32 // sequences) for sequences in LIMITS]


def _compared(sequences: int, repeats: int) -> Row:
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

    bare, pyro, ratio = interleave(lambda: update(0), lambda: update(1), repeats)
    note = f"{1e3 * pyro:.2f} ms against {1e3 * bare:.2f} ms"
    what = f"training step, Pyro / bare torch, {sequences} x 100"
    return Row.of("", what, [ratio], Target(LIMITS[sequences]), note)
