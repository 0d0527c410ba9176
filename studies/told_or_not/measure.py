"""One network of a kind: trained on a stream batch by batch, and scored on held-out sequences."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.data.switching import Stream
from gbi_pyro.inference.task_chain import TaskChain
from gbi_pyro.learning.labels import match_labels
from gbi_pyro.posterior import TaskPosterior
from studies.core.streams import exact_filter, exact_predictions
from studies.told_or_not.config import ToldOrNotConfig, generator
from studies.told_or_not.learners import Learner, make_learner


@dataclass(frozen=True)
class ToldOrNotSeed:
    """What one network scores, and what the generator of the data scores, by the exact filter.

    Attributes:
        held_out: log p(x) of each held-out sequence, ``(B,)``, in nats.
        held_out_best: of the generator.
        cost: code length of each batch of the training stream, ``(rounds,)``, in nats.
        cost_best: of the generator.
        error: mean squared error of the next step, held-out.
        error_best: of the generator.
        accuracy: of the filter's task, over held-out steps; NaN without tasks.
        milliseconds: of the processor for a weight update, median.
        weights: of the network at the end.
        chain: of its tasks; None without tasks.
        order: which of its tasks is the first, second, ... of the stream, ``(K,)``.
    """

    held_out: np.ndarray
    held_out_best: np.ndarray
    cost: np.ndarray
    cost_best: np.ndarray
    error: float
    error_best: float
    accuracy: float
    milliseconds: float
    weights: dict[str, Tensor]
    chain: TaskChain | None
    order: Tensor


class Trained(NamedTuple):
    """A learner at the end of its stream.

    Attributes:
        learner: what has learned.
        cost: what each batch cost it before it was learned, in nats, ``(rounds,)``.
        cost_best: what each batch costs the generator.
        order: which of its tasks is the first, second, ... of the stream, ``(K,)``.
        milliseconds: of the processor for a weight update, median.
    """

    learner: Learner
    cost: np.ndarray
    cost_best: np.ndarray
    order: Tensor
    milliseconds: float


def train(config: ToldOrNotConfig, seed: int) -> Trained:
    """Let a network predict and then learn the batches of a stream, each of them once.

    The code length of the stream is the sum over batches of -log p(x | weights learned from the
    batches before it), each step given its own past within the sequence and tasks summed out: the
    prequential code with weights that change after each batch. Labels, where there are any, are
    given after a batch is predicted, so that the code is one of x alone, given the labels of the
    past.
    """
    draw, learner = generator(seed, "train"), make_learner(config, seed)
    cost, seconds, batches = [], [], []
    for _ in range(config.rounds):
        batch = config.stream.sample(config.sequences, config.length, draw)
        batches.append(batch.x)
        predicted = learner.predictor.infer(batch.x)
        cost.append(-log_evidence(predicted).sum().item())
        start = time.process_time()  # not affected by what else the machine does
        learner.learn(batch)
        seconds.append(time.process_time() - start)
    best = -log_evidence(exact_filter(config.stream, torch.cat(batches)))
    probs = learner.predictor.infer(batch.x).probs()
    labels = batch.z if probs.shape[-1] > 1 else torch.zeros_like(batch.z)
    return Trained(
        learner,
        np.array(cost),
        best.reshape(config.rounds, -1).sum(-1).numpy(),
        match_labels(probs, labels)[:-1],
        1000 * float(np.median(seconds)),
    )


def held_out_data(config: ToldOrNotConfig, seed: int) -> Stream:
    """Return the held-out sequences of a seed."""
    return config.stream.sample(config.test_sequences, config.test_length, generator(seed, "test"))


def measure(config: ToldOrNotConfig, seed: int) -> ToldOrNotSeed:
    """Train the network of a seed, and score it on held-out sequences."""
    trained, test = train(config, seed), held_out_data(config, seed)
    predictor = trained.learner.predictor
    posterior = predictor.infer(test.x)
    tasks = posterior.logits()[..., trained.order].argmax(-1)
    accuracy = (tasks == test.z).double().mean().item() if predictor.chain else math.nan
    error, error_best = (
        (mean - test.x).double().square().mean().item()
        for mean in (predictor.mean(test.x), exact_predictions(config.stream, test.x))
    )
    return ToldOrNotSeed(
        held_out=log_evidence(posterior).numpy(),
        held_out_best=log_evidence(exact_filter(config.stream, test.x)).numpy(),
        cost=trained.cost,
        cost_best=trained.cost_best,
        error=error,
        error_best=error_best,
        accuracy=accuracy,
        milliseconds=trained.milliseconds,
        weights=predictor.network.state_dict(),
        chain=predictor.chain,
        order=trained.order,
    )


def log_evidence(posterior: TaskPosterior) -> Tensor:
    """Return log p(x) of each sequence, which enumeration knows."""
    assert posterior.log_evidence is not None
    return posterior.log_evidence.double()
