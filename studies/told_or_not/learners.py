"""The kinds of network that are compared: each predicts a batch, then learns it."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from gbi_pyro.data.switching import Stream
from studies.told_or_not.config import FitConfig, generator
from gbi_pyro.inference.stepwise import stepwise
from gbi_pyro.inference.chain import BayesFilter
from gbi_pyro.learning.collapse import CollapseWarning
from gbi_pyro.learning.em import GradientEM
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.learning.labels import match_labels
from gbi_pyro.learning.restarts import window_labels
from gbi_pyro.learning.task_prior import Counts, TaskChain
from gbi_pyro.learning.weights import clamped_loss
from gbi_pyro.models.sequence import SequenceLSTM
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.sites import Plate, TaskSite

MEMORY = 10  # batches over which the chain's switches are counted
STAY, SWITCH = 50.0, 2.0  # pseudo-counts of its hazard, before there are any
NEVER = 10**9  # collapse would show in the scores


class Learner(Protocol):
    """A network that predicts x from its past alone, and learns what it has seen.

    Attributes:
        network: its weights.
    """

    network: SequenceLSTM

    def __init__(self, config: FitConfig, seed: int) -> None:
        """Make it, before it has seen anything."""

    def infer(self, x: Tensor) -> TaskPosterior:
        """Return p(z_t | x_1..t), and log p(x) of each sequence, tasks summed out."""

    def mean(self, x: Tensor) -> Tensor:
        """Return E[x_t | x_1..t-1], ``(B, T)``."""

    def learn(self, batch: Stream) -> None:
        """Move the weights once."""


def make_learner(config: FitConfig, seed: int) -> Learner:
    """Return the learner of a configuration before it has seen anything."""
    kinds: dict[str, type[Learner]] = {"none": WithoutTask, "unlabelled": Unlabelled}
    return kinds.get(config.task, Told)(config, seed)


class WithoutTask:
    """The plain LSTM."""

    def __init__(self, config: FitConfig, seed: int) -> None:
        self.network = _network(config, seed, None)
        self.optimiser = _Optimiser(config, self.network)

    @torch.no_grad()
    def infer(self, x: Tensor) -> TaskPosterior:
        """Return the evidence of each sequence, with a single task, which is always going on."""
        predicted = torch.distributions.Normal(self.network.mean(x, None), self.network.sigma)
        certain = x.new_zeros(*x.shape, 1)
        plates = (Plate(name, n, n) for name, n in zip(("sequence", "time"), x.shape, strict=True))
        return TaskPosterior(
            {"z": certain},
            {"z": TaskSite("z", certain, tuple(plates))},
            method="without a task",
            log_evidence=predicted.log_prob(x).sum(-1),
        )

    @torch.no_grad()
    def mean(self, x: Tensor) -> Tensor:
        """Return E[x_t | x_1..t-1], ``(B, T)``."""
        return self.network.mean(x, None)

    def learn(self, batch: Stream) -> None:
        """Ascend log p(x)."""
        self.optimiser.descend(clamped_loss(self.network, batch.x))


class _WithTasks:
    """What networks with tasks share: tasks are inferred by the Bayes filter, K passes a step."""

    network: SequenceLSTM
    chain: TaskChain

    def filter_of(self, x: Tensor) -> tuple[BayesFilter, Tensor]:
        """Return the filter, and the tasks under which the past of a step is carried.

        They are what the filter itself made of that past, so that the prediction of x_t stays one
        from x before t; carried under maximum entropy the network would be where it never learned.
        """
        chain = self.chain.log_initial, self.chain.log_transition
        infer = BayesFilter(Enumeration(check=False), *chain)
        return infer, infer(stepwise(self.network, x)).probs()

    def infer(self, x: Tensor) -> TaskPosterior:
        """Return p(z_t | x_1..t), and log p(x) of each sequence, tasks summed out."""
        infer, past = self.filter_of(x)
        return infer(stepwise(self.network, x, tasks={"z": past}))

    @torch.no_grad()
    def mean(self, x: Tensor) -> Tensor:
        """Return E[x_t | x_1..t-1] = sum_k p(z_t = k | x_1..t-1) m_k, ``(B, T)``."""
        infer, past = self.filter_of(x)
        steps = stepwise(self.network, x, tasks={"z": past})
        predicted = replace(infer, output="predicted")(steps).probs()
        corners = torch.eye(predicted.shape[-1]).expand(*predicted.shape, -1).movedim(-2, 0)
        return sum(q * steps(z) for q, z in zip(predicted.movedim(-1, 0), corners, strict=True))


class Told(_WithTasks):
    """The network that is told its task once it has predicted, or that of another sequence."""

    def __init__(self, config: FitConfig, seed: int) -> None:
        self.network = _network(config, seed, len(config.means))
        self.optimiser = _Optimiser(config, self.network)
        self.chain = _chain(config)
        self.counts: Counts | None = None
        self.shuffled = config.task == "shuffled"

    def learn(self, batch: Stream) -> None:
        """Ascend log p(x, z), and count how often the task changes."""
        z = batch.one_hot(self.chain.num_tasks)
        z = z.roll(1, 0) if self.shuffled else z
        self.optimiser.descend(clamped_loss(self.network, batch.x, z))
        new = self.chain.counts(z)
        self.counts = self.counts.discounted(1 / MEMORY, new) if self.counts else new
        self.chain = self.chain.updated(self.counts)


class Unlabelled(_WithTasks):
    """The network whose tasks EM finds: what it is told of ``z`` it does not look at."""

    def __init__(self, config: FitConfig, seed: int) -> None:
        self.config, self.seed, self.done = config, seed, 0
        self.network = _network(config, seed, len(config.means))
        self.optimiser = _Optimiser(config, self.network)
        self.em = GradientEM(
            self.network,
            Enumeration(check=False),
            self.optimiser.weights,
            m_step="relaxed",  # through time: the network sees which task went before
            cut=stepwise,
            prior=_chain(config),
            prior_rate=1 / MEMORY,
            check_every=NEVER,
        )

    @property
    def chain(self) -> TaskChain:  # type: ignore[override]
        """The chain as learned so far."""
        assert isinstance(self.em.prior, TaskChain)
        return self.em.prior

    def learn(self, batch: Stream) -> None:
        """Take one step of EM; the first ones with the tasks of windows, named as before."""
        labels, x = None, batch.x
        if self.done < self.config.start_rounds:
            found = window_labels(x, self.chain.num_tasks, self.config.window, self.seed)
            labels = match_labels(self.em.infer(x).probs(), found)[found]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CollapseWarning)
            self.em.step(x, labels=labels)
        self.optimiser.schedule.step()
        self.done += 1


class _Optimiser:
    """AdamW, its rate falling over the second half, with a rate of its own for the noise."""

    def __init__(self, config: FitConfig, network: SequenceLSTM) -> None:
        decaying = [p for p in network.parameters() if p is not network.log_sigma]
        self.weights = torch.optim.AdamW(decaying, lr=config.rate, weight_decay=config.weight_decay)
        noise = {"weight_decay": 0.0, "lr": config.rate * config.noise_rate}
        self.weights.add_param_group({"params": [network.log_sigma], **noise})
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.weights, lambda step: min(1.0, 2 * (1 - step / config.rounds))
        )

    def descend(self, loss: Tensor) -> None:
        """Move the weights once."""
        self.weights.zero_grad()
        loss.backward()
        self.weights.step()
        self.schedule.step()


def _network(config: FitConfig, seed: int, num_tasks: int | None) -> SequenceLSTM:
    return SequenceLSTM(num_tasks, config.hidden_size, generator=generator(seed, "weights"))


def _chain(config: FitConfig) -> TaskChain:
    options = {"learn_transition": "hazard", "stay": STAY, "switch": SWITCH}
    return TaskChain.sticky(len(config.means), config.hazard_guess, **options)
