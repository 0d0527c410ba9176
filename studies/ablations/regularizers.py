"""Entropy against L2 on the logits as the regulariser of the latent update (C2, M6)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gbi_pyro.metrics.agreement import kl
from studies.ablations.config import ControlsConfig, generator
from studies.ablations.task_inputs import TRUE
from studies.ablations.training import train
from studies.toy.config import FOUR_MEANS
from studies.toy.evidence import exact_filter, in_filter
from studies.toy.training import Trained
from gbi_pyro.inference.stepwise import stepwise
from gbi_pyro.inference.iterative import IterativeGradient
from gbi_pyro.models.sequence import SequenceLSTM

RATES = (0.1, 0.5, 2.0)
WEIGHTS = (1.0, 0.1, 0.01)
CHOOSERS, VALIDATION_SEQUENCES, VALIDATION_STEPS = 3, 4, 150  # what rates are chosen on
ENTROPY, L2, L2_CHOSEN = "entropy", "L2, weight 1", "L2, weight chosen"


def cases(config: ControlsConfig) -> dict[str, ControlsConfig]:
    """Return the streams: two tasks, for which both gradients have one direction, and four."""
    return {
        f"K = {len(means)}": replace(config, means=means) for means in (config.means, FOUR_MEANS)
    }


def measure(config: ControlsConfig) -> dict[str, Any]:
    """Ascend the evidence of single steps with either regulariser, and filter it.

    Rates, and the weight of ``L2_CHOSEN``, are those with the least step divergence on validation
    streams.

    Returns:
        By method ``divergence``, KL(exact || q) of single steps; ``filtered``, the same inside the
        Bayes filter; ``accuracy`` of that; each by seed, and ``rate`` and ``weight``. For
        ``"cosine"`` the mean cosine of both regularisers' gradients where the entropy led.
    """
    networks = [train(config, seed, TRUE, "concat") for seed in config.all_seeds]
    found: dict[str, Any] = {}
    for name, weights, kind in (
        (ENTROPY, (1.0,), "entropy"),
        (L2, (1.0,), "l2"),
        (L2_CHOSEN, WEIGHTS, "l2"),
    ):
        infer = choose(config, networks[:CHOOSERS], kind, weights)
        scores = [
            _score(config, s, t, infer) for s, t in zip(config.all_seeds, networks, strict=True)
        ]
        found[name] = {key: [score[key] for score in scores] for key in scores[0]}
        found[name] |= {"rate": infer.rate, "weight": infer.temperature}
    found["cosine"] = found[ENTROPY]["cosine"]
    return found


def choose(
    config: ControlsConfig, networks: Sequence[Trained], kind: str, weights: Sequence[float]
) -> IterativeGradient:
    """Return the latent update whose steps come closest to the exact ones on validation streams."""
    options = [
        IterativeGradient(config.latent_steps, rate, "sgd", weight, kind)  # type: ignore[arg-type]
        for rate, weight in itertools.product(RATES, weights)
    ]
    drawn = [
        config.stream.sample(VALIDATION_SEQUENCES, VALIDATION_STEPS, generator(seed, "validate")).x
        for seed, _ in zip(config.all_seeds, networks, strict=False)
    ]
    loss = {
        option: sum(
            step_divergence(config, t.network, x, option).item()
            for t, x in zip(networks, drawn, strict=True)
        )
        for option in options
    }
    return min(loss, key=loss.__getitem__)


def step_divergence(
    config: ControlsConfig, network: SequenceLSTM, x: Tensor, infer: IterativeGradient
) -> Tensor:
    """Return KL(exact || q) of single steps of streams ``(sequence, time)``, mean, in nats."""
    exact = config.stream.log_emission(x.double()).log_softmax(-1)
    return kl(exact, infer(stepwise(network, x)).logits()).mean()


def penalty_cosine(log_q: Tensor) -> Tensor:
    """Return the cosine of the gradients of H(q) and of -|y - mean y|^2 in the logits y, ``(...)``.

    dH / dy_k = -q_k (log q_k + H). For two tasks both have the direction (1, -1).
    """
    q = log_q.exp()
    entropy = -(q * log_q).sum(-1, keepdim=True)
    return torch.cosine_similarity(
        -q * (log_q + entropy), log_q.mean(-1, keepdim=True) - log_q, dim=-1
    )


def _score(
    config: ControlsConfig, seed: int, trained: Trained, infer: IterativeGradient
) -> dict[str, float]:
    stream, network = config.stream, trained.network
    x, z = stream.sample(config.test_sequences, config.test_length, generator(seed, "test"))
    steps = stepwise(network, x)
    ascended = infer(steps)
    log_q = ascended.logits().double()
    filtered = in_filter(stream, lambda _model: ascended)(steps).logits()
    return {
        "divergence": kl(stream.log_emission(x.double()).log_softmax(-1), log_q).mean().item(),
        "filtered": kl(exact_filter(stream, x).logits(), filtered).mean().item(),
        "accuracy": (filtered.argmax(-1) == z).double().mean().item(),
        "cosine": penalty_cosine(log_q).nanmean().item(),
    }
