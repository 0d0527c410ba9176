"""Entropy against L2 on the logits as the regulariser of the latent update (C2, M6)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from gbi_pyro.inference.iterative import IterativeGradient
from gbi_pyro.inference.stepwise import stepwise
from gbi_pyro.metrics.agreement import kl
from gbi_pyro.models.sequence import SequenceLSTM
from studies.ablations.config import FOUR_MEANS, UPDATE_SEEDS, AblationsConfig, generator
from studies.ablations.task_inputs import TRUE
from studies.ablations.training import train
from studies.core.streams import exact_filter, in_filter

RATES = (0.1, 0.5, 2.0)
WEIGHTS = (1.0, 0.1, 0.01)
VALIDATION_SEQUENCES, VALIDATION_STEPS = 4, 150  # what rates are chosen on
ENTROPY, L2, L2_CHOSEN = "entropy", "L2, weight 1", "L2, weight chosen"
METHODS = {ENTROPY: (1.0,), L2: (1.0,), L2_CHOSEN: WEIGHTS}  # weights to choose from


@dataclass(frozen=True)
class LatentUpdate:
    """Plain gradient ascent on the logits of single steps, with a regulariser.

    Attributes:
        regularizer: the entropy, or L2 on the logits.
        rate: step size.
        weight: of the regulariser.
    """

    regularizer: Literal["entropy", "l2"]
    rate: float
    weight: float

    def ascent(self, config: AblationsConfig) -> IterativeGradient:
        """Return the inference."""
        return IterativeGradient(
            config.latent_steps, self.rate, "sgd", self.weight, self.regularizer
        )

    def __str__(self) -> str:
        return f"rate {self.rate:g}, weight {self.weight:g}"


@dataclass(frozen=True)
class LatentScores:
    """How close a latent update comes to the exact posterior, on test streams.

    Attributes:
        divergence: KL(exact || q) of single steps, in nats.
        filtered: the same inside the Bayes filter.
        accuracy: of the filter's most probable task.
        cosine: of both regularisers' gradients where the update led, mean.
    """

    divergence: float
    filtered: float
    accuracy: float
    cosine: float


@dataclass(frozen=True)
class RegularizerSeed:
    """The latent updates of one network with the true task, by name in ``METHODS``."""

    scores: dict[str, LatentScores]


def cases(config: AblationsConfig) -> dict[str, AblationsConfig]:
    """Return the streams: two tasks, for which both gradients have one direction, and four."""
    return {
        f"K = {len(means)}": replace(config, means=means) for means in (config.means, FOUR_MEANS)
    }


def choose_update(config: AblationsConfig, method: str) -> LatentUpdate:
    """Choose rate and weight: those whose steps come closest to the exact ones.

    On networks and streams of the validation seeds.
    """
    networks = [train(config, seed, TRUE).network for seed in UPDATE_SEEDS]
    shape = VALIDATION_SEQUENCES, VALIDATION_STEPS
    draws = [generator(seed, "validate") for seed in UPDATE_SEEDS]
    streams = [config.stream.sample(*shape, draw).x for draw in draws]

    def divergence(update: LatentUpdate) -> float:
        pairs = zip(networks, streams, strict=True)
        return sum(step_divergence(config, n, x, update).item() for n, x in pairs)

    regularizer: Literal["entropy", "l2"] = "entropy" if method == ENTROPY else "l2"
    options = itertools.product(RATES, METHODS[method])
    return min((LatentUpdate(regularizer, *option) for option in options), key=divergence)


def measure_regularizers(
    config: AblationsConfig, updates: dict[str, LatentUpdate], seed: int
) -> RegularizerSeed:
    """Ascend the log likelihood of single steps with each regulariser, and filter it."""
    network = train(config, seed, TRUE).network
    return RegularizerSeed({m: _score(config, seed, network, u) for m, u in updates.items()})


def step_divergence(
    config: AblationsConfig, network: SequenceLSTM, x: Tensor, update: LatentUpdate
) -> Tensor:
    """Return KL(exact || q) of single steps of streams ``(sequence, time)``, mean, in nats."""
    exact = config.stream.log_emission(x.double()).log_softmax(-1)
    return kl(exact, update.ascent(config)(stepwise(network, x)).logits()).mean()


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
    config: AblationsConfig, seed: int, network: SequenceLSTM, update: LatentUpdate
) -> LatentScores:
    stream = config.stream
    x, z = stream.sample(config.test_sequences, config.test_length, generator(seed, "test"))
    steps = stepwise(network, x)
    ascended = update.ascent(config)(steps)
    log_q = ascended.logits().double()
    filtered = in_filter(stream, lambda _model: ascended)(steps).logits()
    return LatentScores(
        kl(stream.log_emission(x.double()).log_softmax(-1), log_q).mean().item(),
        kl(exact_filter(stream, x).logits(), filtered).mean().item(),
        (filtered.argmax(-1) == z).double().mean().item(),
        penalty_cosine(log_q).nanmean().item(),
    )
