"""A head for each task on a shared trunk, learned block after block: what is forgotten (T7)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from studies.ablations.config import AblationsConfig
from studies.ablations.forgetting import (
    ForgettingSeed,
    Schedule,
    errors_while_learning,
    records_by_seed,
)
from studies.ablations.stack import LearningStack
from studies.ablations.task_inputs import TRUE, TaskInput
from studies.ablations.training import new_network
from studies.core.protocol import Report

TRAINED, FROZEN, FROZEN_SGD = (
    "a head for each task, all trained",
    "a head for each task, frozen trunk",
    "a head for each task, frozen trunk, SGD",
)
HEADS = {
    TRAINED: "the trunk is shared and moves",
    FROZEN: "no gradient reaches the other head, but Adam's momentum moves it on after the switch",
    FROZEN_SGD: "0 by construction: nothing that the other task's prediction depends on moves",
}


def measure_heads(
    config: AblationsConfig, schedule: Schedule, seeds: Sequence[int], report: Report
) -> list[ForgettingSeed]:
    """Learn one stream for each seed with a head for each task, its trunk trained or frozen.

    A frozen trunk keeps its first, random weights. Data, updates and tests are those of
    ``measure_forgetting``, but no update looks back across the start of its block, where it would
    learn the task before it too.
    """
    inputs = [TaskInput(TRUE, len(config.means), seed) for seed in seeds]
    errors = {}
    for kind in HEADS:
        stack = LearningStack([new_network(config, i, "affine") for i in inputs])
        if kind != TRAINED:
            stack.freeze_trunk()
        learned = [p for p in stack.parameters() if p.requires_grad]
        optimiser: torch.optim.Optimizer
        if kind == FROZEN_SGD:
            optimiser = torch.optim.SGD(learned, lr=schedule.rate)
        else:
            optimiser = torch.optim.Adam(learned, lr=schedule.rate, fused=True)
        errors[kind] = errors_while_learning(
            config, schedule, stack, inputs, optimiser, within_block=True
        )
    return records_by_seed(errors)
