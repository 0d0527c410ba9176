"""What the toy study measures of one seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from studies.core.sequence_training import LearningCurve
from studies.toy.adaptation import UnseenBlocks
from studies.toy.blocks import BlockRun
from studies.toy.identities import Identities
from studies.toy.responses import Responses

CONDITIONED, PLAIN = "GBI-LSTM", "LSTM"


@dataclass(frozen=True)
class Estimate:
    """The divergence of one estimate from the exact filter, in nats per step, and its passes."""

    divergence: float
    forward: int
    backward: int


@dataclass(frozen=True)
class ToySeed:
    """Everything that is measured of one seed; networks are ``CONDITIONED`` and ``PLAIN``.

    Attributes:
        identities: what must hold to rounding.
        curves: how the networks learned.
        weights: of the trained networks.
        blocks: what they did on a stream learned block after block.
        responses: of the conditioned network on its test stream.
        noisy: of the one that was trained on the noisy stream, on a test stream of that noise.
        predicted: predictions of the conditioned network with Z optimised online on that stream,
            ``(sequences, time)``.
        values: that Z as it stood before x_t was seen, ``(sequences, time, K)``.
        unseen: how unseen means were predicted, by method.
        estimates: filtered divergences by kind of network and by estimate.
        semi_markov: filtered divergences on blocks that have a shortest length.
        errors: of one-step-ahead predictions on the test stream, by predictor.
    """

    identities: Identities
    curves: dict[str, LearningCurve]
    weights: dict[str, dict[str, Tensor]]
    blocks: dict[str, BlockRun]
    responses: Responses
    noisy: Responses
    predicted: np.ndarray
    values: np.ndarray
    unseen: dict[str, UnseenBlocks]
    estimates: dict[str, dict[str, Estimate]]
    semi_markov: dict[str, float]
    errors: dict[str, float]
