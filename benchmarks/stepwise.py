"""Evidence of single steps of a recurrent network, in forward passes of the same network."""

from __future__ import annotations

import torch

from benchmarks.rows import ratio_rows
from gbi_pyro import OneStepGradient, stepwise
from gbi_pyro.models.sequence import SequenceLSTM
from studies.core.table import Row, Target

STEPS = 1000
STATES, ONE_STEP = 3.0, 5.0
"""Limits that notice a return to the slow recursion (5.4 and 7.8): set after both were measured."""


def stepwise_evidence(seconds: float) -> list[Row]:
    """Compare 1 and 8 sequences of 1000 steps.

    Args:
        seconds: for each batch.
    """
    draw = torch.Generator().manual_seed(0)
    network, rows = SequenceLSTM(2, generator=draw).eval().requires_grad_(False), []
    for batch in (1, 8):
        x, z = torch.randn(batch, STEPS, generator=draw), network.uniform(batch, STEPS)

        def forward(x: torch.Tensor = x, z: torch.Tensor = z) -> torch.Tensor:
            return network.mean(x, z)

        jobs = {
            "carried states": (lambda x=x: network.carried_states(x), Target(STATES)),
            "one step": (lambda x=x: OneStepGradient()(stepwise(network, x)), Target(ONE_STEP)),
        }
        for name, (job, target) in jobs.items():
            what = f"stepwise, {batch} x {STEPS}, {name}"
            limits = {"forward pass": target} if batch == 1 else None
            rows += ratio_rows(what, job, {"forward pass": forward}, seconds, limits)
    return rows
