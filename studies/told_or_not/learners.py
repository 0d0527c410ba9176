"""The kinds of network that are compared: each predicts a batch, then learns it."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Protocol

import torch

from gbi_pyro.data.switching import Stream
from gbi_pyro.inference._counts import Counts
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.stepwise import stepwise
from gbi_pyro.inference.task_chain import TaskChain
from gbi_pyro.learning.collapse import CollapseWarning
from gbi_pyro.learning.em import GradientEM
from gbi_pyro.learning.labels import match_labels
from gbi_pyro.learning.restarts import window_labels
from gbi_pyro.learning.weights import clamped_loss
from gbi_pyro.models.sequence import SequenceLSTM
from studies.core.training import descend
from studies.told_or_not.config import ToldOrNotConfig, generator
from studies.told_or_not.predictor import Predictor

MEMORY = 10  # batches over which the chain's switches are counted
STAY, SWITCH = 50.0, 2.0  # pseudo-counts of its hazard, before there are any
NEVER = 10**9  # collapse would show in the scores
Optimiser = tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]


class Learner(Protocol):
    """A network that learns batch after batch."""

    def __init__(self, config: ToldOrNotConfig, seed: int) -> None:
        """Make it, before its first batch."""

    @property
    def predictor(self) -> Predictor:
        """The network as learned so far."""

    def learn(self, batch: Stream) -> None:
        """Update the weights once."""


def make_learner(config: ToldOrNotConfig, seed: int) -> Learner:
    """Return the learner of a configuration before its first batch."""
    kinds: dict[str, type[Learner]] = {"none": Unconditioned, "unlabelled": Unlabelled}
    return kinds.get(config.task, Conditioned)(config, seed)


class Unconditioned:
    """The plain LSTM."""

    def __init__(self, config: ToldOrNotConfig, seed: int) -> None:
        self.predictor = make_predictor(config, seed)
        self.optimiser = _optimiser(config, self.predictor.network)

    def learn(self, batch: Stream) -> None:
        """Ascend log p(x)."""
        descend(partial(clamped_loss, self.predictor.network), [(batch.x,)], *self.optimiser)


class Conditioned:
    """The network that is given its task once it has predicted, or that of another sequence."""

    def __init__(self, config: ToldOrNotConfig, seed: int) -> None:
        self.predictor = make_predictor(config, seed)
        self.optimiser = _optimiser(config, self.predictor.network)
        self.counts: Counts | None = None
        self.shuffled = config.task == "shuffled"

    def learn(self, batch: Stream) -> None:
        """Ascend log p(x, z), and count how often the task changes."""
        network, chain = self.predictor.network, self.predictor.chain
        assert chain is not None
        z = batch.one_hot(chain.num_tasks)
        z = z.roll(1, 0) if self.shuffled else z
        descend(partial(clamped_loss, network), [(batch.x, z)], *self.optimiser)
        new = chain.counts(z)
        self.counts = self.counts.discounted(1 / MEMORY, new) if self.counts else new
        self.predictor = Predictor(network, chain.updated(self.counts))


class Unlabelled:
    """The network whose tasks EM finds: it never reads the labels of a batch."""

    def __init__(self, config: ToldOrNotConfig, seed: int) -> None:
        self.config, self.seed, self.done = config, seed, 0
        start = make_predictor(config, seed)
        weights, self.schedule = _optimiser(config, start.network)
        self.network = start.network
        self.em = GradientEM(
            start.network,
            Enumeration(check=False),
            weights,
            m_step="relaxed",  # through time: the network sees which task went before
            cut=stepwise,
            prior=start.chain,
            prior_rate=1 / MEMORY,
            check_every=NEVER,
        )

    @property
    def predictor(self) -> Predictor:
        """The network with its chain as learned so far."""
        assert isinstance(self.em.prior, TaskChain)
        return Predictor(self.network, self.em.prior)

    def learn(self, batch: Stream) -> None:
        """Take one step of EM; the first ones with the tasks of windows, in the order found."""
        labels, x = None, batch.x
        if self.done < self.config.start_rounds:
            found = window_labels(x, len(self.config.means), self.config.window, self.seed)
            labels = match_labels(self.em.infer(x).probs(), found)[found]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CollapseWarning)
            self.em.step(x, labels=labels)
        self.schedule.step()
        self.done += 1


def make_predictor(config: ToldOrNotConfig, seed: int) -> Predictor:
    """Return the network of a seed before it has learned, with the chain that it starts from."""
    tasks = None if config.task == "none" else len(config.means)
    network = SequenceLSTM(tasks, config.hidden_size, generator=generator(seed, "weights"))
    if tasks is None:
        return Predictor(network, None)
    options = {"learn_transition": "hazard", "stay": STAY, "switch": SWITCH}
    return Predictor(network, TaskChain.sticky(tasks, config.hazard_guess, **options))


def _optimiser(config: ToldOrNotConfig, network: SequenceLSTM) -> Optimiser:
    """Return AdamW with a rate of its own for the noise; rates fall over the second half."""
    decaying = [p for p in network.parameters() if p is not network.log_sigma]
    weights = torch.optim.AdamW(decaying, lr=config.rate, weight_decay=config.weight_decay)
    noise = {"weight_decay": 0.0, "lr": config.rate * config.noise_rate}
    weights.add_param_group({"params": [network.log_sigma], **noise})
    schedule = torch.optim.lr_scheduler.LambdaLR(
        weights, lambda step: min(1.0, 2 * (1 - step / config.rounds))
    )
    return weights, schedule
