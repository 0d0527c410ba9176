"""Online inference of many seeds at once against one seed after another."""

from __future__ import annotations

import torch

from benchmarks.rows import ratio_rows
from gbi_pyro import OnlineGradient
from gbi_pyro.models.sequence import SequenceLSTM, SequenceLSTMStack
from studies.core.table import Row, Target

SEEDS, MEANS, STEPS = 20, 15, 300


def online(seconds: float) -> list[Row]:
    """Compare 20 networks x 15 streams x 300 steps, stacked and one network after another."""
    draw = torch.Generator().manual_seed(0)
    networks = [SequenceLSTM(2, generator=draw).eval() for _ in range(SEEDS)]
    stack = SequenceLSTMStack(networks)
    centres = torch.linspace(-0.2, 1.2, MEANS).unsqueeze(-1)
    x = centres + 0.1 * torch.randn(SEEDS, MEANS, STEPS, generator=draw)
    start = torch.full((SEEDS, MEANS, 2), 0.5)
    infer = OnlineGradient(rate=0.02, horizon=3)

    def one_after_another() -> torch.Tensor:
        rows = zip(networks, x, start, strict=True)
        return torch.stack([infer(network, row, z).mean for network, row, z in rows])

    def batched() -> torch.Tensor:
        return infer(stack, x, start).mean

    difference = (batched() - one_after_another()).abs().max().item()
    what, rival = f"online inference, {SEEDS} x {MEANS} x {STEPS}", "one after another"
    faster = {rival: Target(5.0, at_least=True)}
    rivals = {rival: one_after_another}
    return [
        *ratio_rows(f"{what}, batched", batched, rivals, seconds, faster, inverse=True),
        Row.of("", f"{what}: largest difference of a prediction", [difference], Target(1e-5)),
    ]
