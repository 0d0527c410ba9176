"""Tasks of images found without labels, then matched with labels and clamped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.inference.task_prior import TaskPrior
from gbi_pyro.learning.collapse import CollapseReport, find_collapse
from gbi_pyro.learning.em import GradientEM, Infer
from gbi_pyro.learning.labels import match_labels
from gbi_pyro.sites import UNKNOWN
from studies.unsupervised_images.code_mixture import (
    CodeMixture,
    gaussian_table,
    mixture_of_clusters,
)
from studies.unsupervised_images.config import UnsupervisedImagesConfig, generator

CHUNK = 10_000  # codes inferred at a time
CLUSTERED = 10_000  # codes that k-means begins from
NEVER = 10**9  # collapse is looked for once, at the end
PSEUDO_COUNT = 0.02  # of each class in each task: a task without labels is of no class


class Tasks(NamedTuple):
    """A mixture with its prior over tasks.

    Attributes:
        mixture: the network.
        prior: over its K tasks.
    """

    mixture: CodeMixture
    prior: TaskPrior

    def trainer(self, config: UnsupervisedImagesConfig, e_step: Infer | None = None) -> GradientEM:
        """Return EM, its posterior by one gradient step: exact, since the log joint is linear."""
        optimiser = torch.optim.Adam(self.mixture.parameters(), lr=config.em_rate)
        return GradientEM(
            self.mixture,
            e_step or OneStepGradient(),
            optimiser,
            m_step="relaxed",
            prior=self.prior,
            prior_rate=config.prior_rate,
            check_every=NEVER,
        )

    @torch.no_grad()
    def table(self, codes: Tensor) -> Tensor:
        """Return log p(c | z = k), ``(N, K)``."""
        mixture = self.mixture
        parts = [gaussian_table(c, mixture.means, mixture.factors) for c in codes.split(CHUNK)]
        return torch.cat(parts)

    def log_evidence(self, codes: Tensor) -> float:
        """Return log p(c), the mean over codes, in nats."""
        return self.prior.explain(self.table(codes)).log_evidence.mean().item()

    def probs(self, codes: Tensor) -> Tensor:
        """Return q(z | c), ``(N, K)``."""
        return self.prior.explain(self.table(codes)).log_probs.exp()

    def collapse(self, codes: Tensor) -> CollapseReport:
        """Report whether all tasks are used and differ."""
        return find_collapse(self.table(codes), self.probs(codes), self.prior.allowed)

    @property
    def state(self) -> TasksState:
        """The numbers that it consists of."""
        return TasksState(self.mixture.state_dict(), self.prior.log_probs)


@dataclass(frozen=True)
class TasksState:
    """The numbers that a mixture with its prior consists of.

    Attributes:
        weights: the network's.
        log_prior: log probabilities of the tasks, ``(K,)``.
    """

    weights: dict[str, Tensor]
    log_prior: Tensor

    def tasks(self) -> Tasks:
        """Return a mixture of its own with these numbers."""
        K, d = self.weights["means"].shape
        mixture = CodeMixture(torch.zeros(K, d), torch.eye(d).expand(K, d, d))
        mixture.load_state_dict(self.weights)
        return Tasks(mixture, TaskPrior(self.log_prior, learn=True, pseudo_count=1.0))


def find_tasks(
    config: UnsupervisedImagesConfig, codes: Tensor, num_tasks: int, seed: int, restarts: int
) -> tuple[Tasks, list[float]]:
    """Learn a mixture without labels, from k-means clusters; the best restart by evidence.

    Args:
        config: the study.
        codes: of the training images, ``(N, d)``.
        num_tasks: K.
        seed: of all draws.
        restarts: how many.

    Returns:
        The best, and the mean log evidence of each restart.
    """
    from sklearn.cluster import KMeans

    draw = generator(seed, "clusters")
    unknown = codes.new_full((len(codes),), UNKNOWN, dtype=torch.long)
    found: list[tuple[float, Tasks]] = []
    for _ in range(restarts):
        random_state = int(torch.randint(2**31, (), generator=draw))
        clusters = KMeans(num_tasks, n_init=1, random_state=random_state)
        clusters.fit(codes[:CLUSTERED].numpy())
        ids = torch.from_numpy(clusters.predict(codes.numpy())).long()
        mixture = mixture_of_clusters(codes, ids, num_tasks, config.ridge)
        shares = torch.bincount(ids, minlength=num_tasks) / len(ids)
        start = Tasks(mixture, TaskPrior(shares.log(), learn=True, pseudo_count=1.0))
        tasks = train(config, start, codes, unknown, config.em_steps, draw)
        found.append((tasks.log_evidence(codes), tasks))
    best = max(found, key=lambda pair: pair[0])
    return best[1], [evidence for evidence, _ in found]


def train(
    config: UnsupervisedImagesConfig,
    tasks: Tasks,
    codes: Tensor,
    labels: Tensor,
    steps: int,
    draw: torch.Generator,
) -> Tasks:
    """Run EM on mini-batches, the rate falling to zero.

    Args:
        config: the study.
        tasks: where to begin; the mixture is trained in place.
        codes: ``(N, d)``.
        labels: task ids, -1 where unknown, ``(N,)``.
        steps: EM steps.
        draw: of the batches.
    """
    em = tasks.trainer(config)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(em.optim, steps)
    size = min(config.em_batch, len(codes))
    for _ in range(steps):
        index = torch.randint(len(codes), (size,), generator=draw)
        em.step(codes[index], labels=labels[index])
        falling.step()
    assert isinstance(em.prior, TaskPrior)
    return Tasks(tasks.mixture, em.prior)


def classes_of_tasks(q: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return p(class | task), ``(K, C)``, from labelled images.

    Counts of E_q[z_k] by class, with ``PSEUDO_COUNT``. Several tasks may be of one class.

    Args:
        q: posterior, ``(N, K)``.
        labels: classes, -1 where unknown, ``(N,)``.
        num_classes: C.

    >>> q = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> classes_of_tasks(q, torch.tensor([1, 1, -1]), 2).argmax(-1)[:2]
    tensor([1, 1])
    >>> classes_of_tasks(q, torch.tensor([1, 0, 0]), 2)
    tensor([[0.0192, 0.9808],
            [0.9808, 0.0192],
            [0.9808, 0.0192]])
    """
    known = labels != UNKNOWN
    classes = nn.functional.one_hot(labels[known], num_classes).to(q.dtype)
    counts = q[known].mT @ classes + PSEUDO_COUNT
    return counts / counts.sum(-1, keepdim=True)


def clamp_labels(q: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
    """Return the task of each labelled image: the most probable one of its class.

    Args:
        q: posterior, ``(N, K)``.
        labels: classes, -1 where unknown, ``(N,)``.
        classes: p(class | task), ``(K, C)``.

    Returns:
        Task ids, -1 where unknown, ``(N,)``.

    >>> q = torch.tensor([[0.6, 0.3, 0.1]]).expand(3, 3)
    >>> classes = torch.tensor([[1.0, 0.0], [0.1, 0.9], [0.0, 1.0]])
    >>> clamp_labels(q, torch.tensor([0, 1, -1]), classes)
    tensor([ 0,  1, -1])
    """
    of_class = classes.mT[labels.clamp_min(0)]  # (N, K)
    return (q * of_class).argmax(-1).where(labels != UNKNOWN, torch.tensor(UNKNOWN))


def match_classes(q: Tensor, labels: Tensor) -> Tensor:
    """Return the task matched with each class, one to one (Hungarian), ``(K,)``."""
    most_probable = nn.functional.one_hot(q.argmax(-1), q.shape[-1]).to(q.dtype)
    return match_labels(most_probable, labels)[:-1]


def cluster_accuracy(q: Tensor, labels: Tensor) -> float:
    """Return the share of images in the task matched with their class.

    >>> q = torch.tensor([[0.1, 0.9], [0.2, 0.8], [0.7, 0.3]])
    >>> cluster_accuracy(q, torch.tensor([0, 0, 1]))
    1.0
    """
    return (q.argmax(-1) == match_classes(q, labels)[labels]).double().mean().item()
