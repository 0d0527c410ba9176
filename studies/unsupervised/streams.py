"""The streams of the study, and their exact posterior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gbi_pyro.data.switching import (
    BlockLaw,
    BoundedBlocks,
    GeometricBlocks,
    Stream,
    SwitchingStream,
)
from gbi_pyro.inference.hmm import HMMPosterior, hsmm_posterior
from studies.unsupervised.config import NOISY, USUAL, UnsupervisedConfig, generator

MEANS = {1: (0.5, 0.5), 2: (0.2, 0.8), 3: (0.2, 0.5, 0.8), 5: (0.1, 0.3, 0.5, 0.7, 0.9)}
"""By the number of tasks; a stream of one task is one of two with the same mean."""
WIDER = {**MEANS, 3: (0.1, 0.5, 0.9)}  # of the streams whose number of tasks is chosen
LONGER = {2: 1, 3: 2, 5: 4}  # how many times longer an online stream of K tasks is
OTHER_BLOCKS = (
    BoundedBlocks(minimum=20, maximum=60, hazard=0.03),
    GeometricBlocks(0.01),
    GeometricBlocks(0.1),
)


@dataclass(frozen=True)
class Condition:
    """One kind of stream, and how its tasks are inferred.

    Attributes:
        num_tasks: K.
        sigma: the noise.
        blocks: the law of the blocks; None is geometric with the study's hazard.
        order: of the library's gradient E-step; None takes K forward passes.
    """

    num_tasks: int
    sigma: float
    blocks: BlockLaw | None = None
    order: int | None = None

    @property
    def name(self) -> str:
        """The condition in words."""
        words = f"K = {self.num_tasks}, sigma {self.sigma:g}"
        if isinstance(self.blocks, BoundedBlocks):
            words += f", blocks of {self.blocks.minimum}-{self.blocks.maximum} steps"
        elif isinstance(self.blocks, GeometricBlocks):
            words += f", hazard {self.blocks.hazard:g}"
        return words if self.order is None else f"{words}, gradient E-step of order {self.order}"

    @property
    def several(self) -> bool:
        """Whether several hypotheses are compared with one learner: where one falls short."""
        noisy = self.blocks is not None and self.sigma == NOISY
        return self.order is None and (self.num_tasks == 5 or noisy)

    def stream(self, config: UnsupervisedConfig) -> SwitchingStream:
        """Return the generator of the stream."""
        return config.stream(MEANS[self.num_tasks], self.sigma, self.blocks)

    def sample(self, config: UnsupervisedConfig, seed: int) -> Stream:
        """Draw the online stream of a seed, ``(1, T)``."""
        steps = config.steps * LONGER[self.num_tasks]
        return self.stream(config).sample(1, steps, generator(seed, "stream"))


def online_conditions(config: UnsupervisedConfig) -> list[Condition]:
    """Return the streams that are learned online, K forward passes first."""
    laws = [Condition(2, sigma, law) for law in OTHER_BLOCKS for sigma in (USUAL, NOISY)]
    # With K = 2 the paper's one step is exact here; with more tasks its second order is.
    gradient = [Condition(2, sigma, order=1) for sigma in (USUAL, NOISY)]
    return [*batch_conditions(config), *laws, *gradient, Condition(3, USUAL, order=2)]


def batch_conditions(config: UnsupervisedConfig) -> list[Condition]:
    """Return the streams whose tasks are found by EM on a batch."""
    return [Condition(K, sigma) for K in LONGER for sigma in config.sigmas]


def number_conditions(config: UnsupervisedConfig) -> list[Condition]:
    """Return the streams whose number of tasks is chosen; their means are ``WIDER``."""
    return [Condition(K, sigma) for sigma in config.sigmas if sigma <= USUAL for K in WIDER]


def label_conditions(config: UnsupervisedConfig) -> list[Condition]:
    """Return the streams with some labels: five tasks at every noise, fewer at the usual."""
    return [*(Condition(5, s) for s in config.sigmas), Condition(2, USUAL), Condition(3, USUAL)]


def exact_posterior(stream: SwitchingStream, x: Tensor) -> HMMPosterior:
    """Return the exact posterior of a stream in double precision, for ``(..., T)``."""
    chain = stream.log_initial, stream.log_transition
    emission = stream.log_emission(x.double())
    return hsmm_posterior(*chain, emission, stream.log_duration, viterbi=False)


def draw_sets(
    config: UnsupervisedConfig,
    stream: SwitchingStream,
    sequences: int,
    seeds: Sequence[int],
    role: str,
) -> Stream:
    """Draw the data set of each seed: x and z, ``(N, B, T)``."""
    drawn = [stream.sample(sequences, config.length, generator(seed, role)) for seed in seeds]
    return Stream(*(torch.stack(parts) for parts in zip(*drawn, strict=True)))
