"""The methods that are trained on simulated cases, and the problems that each is compared on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gbi_pyro.inference.autoregressive import AutoregressiveRecogniser
from gbi_pyro.inference.flow import GradientFlow
from gbi_pyro.inference.joint_losses import ReverseKL, TrainingBatch, TrajectoryBalance
from gbi_pyro.inference.local import LocalRecogniser
from gbi_pyro.inference.refiner import LearnedRefiner
from gbi_pyro.inference.trajectory import TrajectorySampler
from gbi_pyro.problems import Problem
from studies.bench.methods import Infer, Method
from studies.bench.papers.amortised import ReadsData, side_by_side
from studies.bench.papers.training import SetEncoder

Features = Callable[..., Tensor]
WIDTH, LAGS = 96, 3


@dataclass(frozen=True)
class WithFeatures:
    """A learner that is made when the data of its problem are known.

    Attributes:
        make: from features of the data to the learner.
        trained: whether the features are a network that is trained with the rest, where the data
            are a set of observations; else they are the observations' mean.
    """

    make: Callable[[Features], Any]
    trained: bool = False

    def fit(self, problem: Problem, generator: torch.Generator) -> Infer:
        """Fit the learner."""
        args = problem.draw(2, generator).args
        learner = self.make(features_of(args, generator if self.trained else None))
        fitted: Infer = learner.fit(problem, generator)
        return fitted


def features_of(args: tuple[Tensor, ...], generator: torch.Generator | None) -> Features:
    """Return what reads the data of a problem, ``(N, F)``.

    Args:
        args: some of its data: symbols, numbers of a case, or sets of observations.
        generator: of the first weights of a set encoder; None takes the mean of observations.
    """
    if not args[0].is_floating_point():
        return functools.partial(bigrams, int(args[0].max()) + 1)
    if len(args) == 1 and args[0].ndim < 3:
        return _flat
    if generator is None:
        return _mean
    observed = side_by_side(*args).shape[-1]
    return ReadsData(SetEncoder(observed, WIDTH, WIDTH, generator))


def bigrams(least: int, x: Tensor) -> Tensor:
    """Return the square roots of how often each pair of symbols is one to three steps apart.

    Args:
        least: symbols that there are at least.
        x: symbols, ``(N, T)``.
    """
    size = max(least, SYMBOLS)
    counts = []
    for lag in range(1, LAGS + 1):
        pairs = x[:, :-lag] * size + x[:, lag:]
        counts.append(nn.functional.one_hot(pairs, size * size).sum(1))
    return torch.cat(counts, -1).double().sqrt().to(torch.get_default_dtype())


SYMBOLS = 12  # of the MetaHMM: a few cases need not show all of them


def _flat(*args: Tensor) -> Tensor:
    (x,) = args
    return x.unsqueeze(-1) if x.ndim == 1 else x


def _mean(*args: Tensor) -> Tensor:
    return side_by_side(*args).mean(-2)


@dataclass(frozen=True)
class RewardOnly:
    """-E_q[log p(x, z)] by the score function: no entropy, so nothing keeps a second mode.

    Attributes:
        draws: of each case in an update.
    """

    draws: int = 16

    def __call__(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return a surrogate whose gradient is that of the expected reward."""
        ids, log_q = batch.joint.draw(self.draws, generator, exploration=0.1)
        reward = batch.score(ids)
        return -((reward - reward.mean(0)) * log_q).mean()


REFINER, REFINER_BLIND = "learned refiner", "learned refiner (no gradient)"
FLOW, EULER = "gradient flow", "Euler step of fitted size"
FORWARD, REVERSE = "autoregressive (forward KL)", "autoregressive (reverse KL)"
BALANCE = "autoregressive (trajectory balance)"
SAMPLER, REWARD = "trajectory sampler", "trajectory sampler (reward alone)"
LOCAL = "local recogniser"

LEARNED: dict[str, Method] = {
    REFINER: LearnedRefiner(),
    REFINER_BLIND: WithFeatures(lambda f: LearnedRefiner(use_gradient=False, features=f)),
    FLOW: GradientFlow(),
    EULER: GradientFlow(method="euler"),
    FORWARD: WithFeatures(AutoregressiveRecogniser, trained=True),
    REVERSE: WithFeatures(lambda f: AutoregressiveRecogniser(f, loss=ReverseKL()), trained=True),
    BALANCE: WithFeatures(
        lambda f: AutoregressiveRecogniser(f, loss=TrajectoryBalance(draws=8)), trained=True
    ),
    SAMPLER: TrajectorySampler(),
    REWARD: TrajectorySampler(loss=RewardOnly()),
    LOCAL: WithFeatures(LocalRecogniser),
}
"""What ``--learned`` adds, with the control that each claim needs."""
_REFINED = ("switching-5", "hyperteacher-n4")
_SETS = ("components", "regression-weights", "hyperteacher-n4", "hyperteacher-pair-n4")
_HMM = "metahmm-24-T10"
COMPARED_ON: Mapping[str, tuple[str, ...]] = {
    REFINER: (*_REFINED, _HMM),
    REFINER_BLIND: (*_REFINED, _HMM),
    FLOW: ("switching-5", "components"),
    EULER: ("switching-5", "components"),
    FORWARD: _SETS,
    REVERSE: _SETS,
    BALANCE: _SETS,
    SAMPLER: (_HMM, "metahmm-24-T40"),
    REWARD: (_HMM, "metahmm-24-T40"),
    LOCAL: ("graph-8-chain", "graph-8-frustrated"),
}
"""The problems of each learned method; the others would take hours. Yours are compared on all."""
OTHERS = "left out: trained on the problems that its claim is about"
"""Why a learned method is not measured on a problem."""
