"""Losses that fit a joint posterior: forward and reverse KL, trajectory balance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gbi_pyro.inference._combinations import Scorer
from gbi_pyro.inference._options import check_numbers
from gbi_pyro.inference.autoregressive_joint import AutoregressiveJoint
from gbi_pyro.sites import TaskSiteError

LARGEST_GAP = 12.0  # in nats: e^-12 of the largest probability counts as nothing


class TrainingBatch(NamedTuple):
    """What a loss is computed from, for one batch of elements.

    Attributes:
        joint: the posterior that is fitted, with its gradient.
        score: returns log p(x, z) of tasks ``(m,) + batch_shape`` by site, ``(m,) + batch_shape``;
            each row is a forward pass of the model.
        tasks: the true tasks, where they are known: ``batch_shape`` by site.
    """

    joint: AutoregressiveJoint
    score: Scorer
    tasks: Mapping[str, Tensor] | None


class JointLoss(Protocol):
    """A loss of a joint posterior, least where it is exact."""

    def __call__(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return the loss, a scalar: the mean over elements."""


@dataclass(frozen=True)
class ForwardKL:
    """-log q(z | x) of tasks and data drawn from the model: the forward KL up to a constant.

    E_{p(x, z)} -log q(z | x) = E_{p(x)} KL(p(z | x) || q) + H(z | x). The model's likelihood is not
    asked, and q covers all that the posterior holds.
    """

    def __call__(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return the loss in nats."""
        if batch.tasks is None:
            raise ValueError(
                "ForwardKL learns from true tasks, which data alone do not have: give "
                "TrajectoryBalance() or ReverseKL()"
            )
        loss = -batch.joint.log_prob(batch.tasks).mean()
        if not bool(loss.detach().isfinite()):
            raise ValueError(
                f"drawn tasks of {list(batch.joint.sites)} are impossible under the prior of the "
                "model; expected draws from the model itself: correct the draws or the prior"
            )
        return loss


@dataclass(frozen=True)
class ReverseKL:
    """KL(q || p(z | x)), summed over all combinations of tasks, each scored by the model.

    Where exact posteriors are sharp it meets log probabilities of hundreds of nats, and q may keep
    some of the modes alone; ``ForwardKL`` and ``TrajectoryBalance`` do not.

    Args:
        max_joint: the largest number of combinations that is summed over.
    """

    max_joint: int = 4096

    def __post_init__(self) -> None:
        check_numbers(self, integers=("max_joint",))
        if self.max_joint < 2:
            raise ValueError(f"max_joint must be at least 2, got {self.max_joint}")

    def __call__(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return the divergence in nats."""
        joint = batch.joint
        if joint.num_combinations > self.max_joint:
            raise TaskSiteError(
                f"the sites {list(joint.sites)} have {joint.num_combinations} combinations of "
                f"tasks, more than max_joint = {self.max_joint} of ReverseKL: raise it, or take "
                "TrajectoryBalance, which draws some of them"
            )
        ids = joint.combinations()
        log_q = joint.log_prob(ids)
        log_p = batch.score(ids).log_softmax(0).to(log_q.device)
        allowed = ~log_q.isneginf()
        if bool((log_p.isneginf() & allowed).any()):
            raise ValueError(
                f"the posterior of {list(joint.sites)} holds tasks of probability zero that the "
                "prior allows; expected finite log probabilities, or KL(q || p) is infinite: take "
                "a likelihood that rules nothing out, or ForwardKL or TrajectoryBalance"
            )
        # Zero times infinity is no number: a forbidden task costs nothing and has no gradient.
        gap = log_q.masked_fill(~allowed, 0.0) - log_p.masked_fill(~allowed, 0.0)
        return (log_q.exp() * gap).sum(0).mean()


@dataclass(frozen=True)
class TrajectoryBalance:
    """(log Z(x) + log q(z | x) - log p(x, z))^2 of tasks drawn by q and by chance.

    Zero for every z if, and only if, q is the posterior and log Z(x) the log evidence (Malkin et
    al. 2022, Trajectory balance: improved credit assignment in GFlowNets, eq. 14; tasks are drawn
    site by site, so each has one trajectory). log Z(x) is no parameter: it is the number that
    makes the sum of squares over an element's draws least, the mean of log p - log q, so that the
    loss is the variance of log p - log q (Richter et al. 2020, VarGrad). Draws may come from any
    distribution, which is what finds modes that q has lost. Of tasks less probable than e^-12 of
    the best of the draws it is asked that q makes them as improbable or more, and no more.

    Args:
        draws: M, of each element at each update: as many forward passes of the model.
        exploration: the probability with which a site's task is drawn uniformly.
    """

    draws: int = 16
    exploration: float = 0.1

    def __post_init__(self) -> None:
        check_numbers(self, "exploration", integers=("draws",))
        if self.draws < 2:
            raise ValueError(
                f"draws must be at least 2, of which a variance is taken: {self.draws}"
            )
        check_exploration(self.exploration)

    def __call__(self, batch: TrainingBatch, generator: torch.Generator) -> Tensor:
        """Return the loss in nats squared."""
        ids, log_q = batch.joint.draw(self.draws, generator, exploration=self.exploration)
        log_p = batch.score(ids).to(log_q.device)
        floor = log_p.amax(0).nan_to_num(neginf=0.0) - LARGEST_GAP
        gap, near = log_p.maximum(floor) - log_q, log_p >= floor
        log_z = (gap.detach() * near).sum(0) / near.sum(0).clamp_min(1)
        residual = gap - log_z
        residual = torch.where(near, residual, residual.clamp_max(0.0))
        return residual.square().sum(0).mean() / (self.draws - 1)


def check_exploration(exploration: float) -> None:
    """Check a probability of drawing uniformly.

    Raises:
        ValueError: outside of [0, 1).
    """
    if not 0 <= exploration < 1:
        raise ValueError(f"exploration must be a probability below 1, got {exploration}")
