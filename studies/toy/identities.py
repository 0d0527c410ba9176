"""Statements of the method checked on a trained network, to the last bit (M1, M4, M8)."""

from __future__ import annotations

import torch
from pyro import poutine

from studies.toy.config import ToyConfig
from studies.toy.evidence import test_stream
from studies.toy.training import Trained
from gbi_pyro.inference.stepwise import stepwise
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.logjoint import relaxed_log_joint


def method_identities(config: ToyConfig, seed: int, trained: Trained) -> dict[str, float]:
    """Measure what must not differ on one network and its test stream.

    Returns:
        ``observed``: relative difference of log p(x, z) between the task observed as data and the
        same task as a point of the simplex (M1). ``weights``: the largest change of a weight by a
        latent update (M4). ``future``: the largest change of the evidence before the middle of the
        stream when everything after it is replaced (M8).
    """
    network, data = trained.network, test_stream(config, seed, trained.stream)
    z = data.one_hot(trained.stream.num_tasks)
    observed = poutine.trace(network).get_trace(data.x, z).log_prob_sum()
    clamped = relaxed_log_joint(network, {"z": z}, data.x).total

    before = [p.clone() for p in network.parameters()]
    evidence = OneStepGradient()(stepwise(network, data.x)).logits()
    moved = max(
        (p - b).abs().max().item() for p, b in zip(network.parameters(), before, strict=True)
    )
    half = data.x.shape[1] // 2
    other = torch.cat([data.x[:, :half], 1 - data.x[:, half:]], 1)
    changed = OneStepGradient()(stepwise(network, other)).logits()
    return {
        "observed": ((observed - clamped) / observed).abs().item(),
        "weights": moved,
        "future": (evidence - changed)[:, :half].abs().max().item(),
    }
