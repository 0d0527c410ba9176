"""Networks that learn five tasks in sequence, scored after every block.

Ten digits make five tasks of two classes each, learned one after another, a block for each task;
an earlier task's images never come back. What counts as the **task** is the pair of digits that is
shown in a block, not the digit: pairs and their order are drawn anew for every seed. What is scored
is the **class within the task**, "first or second of its pair", by one head of two outputs that all
tasks share, so that chance is 50 % and no output belongs to a task. (Usually called
domain-incremental where the task is not given, task-incremental where it is.)

Every network is the same ``SplitNetwork``, trained by the same number of updates on the same images
to classify and to draw the image. They differ in what Z is in training:

- given: the true task of the block, entering by concatenation or by fixed random masks;
- without: Z at maximum entropy throughout, an input of the same width that says nothing. This is
  the **baseline**: the same network with the same number of weights (by concatenation),
  unconditioned;
- shuffled: the true tasks permuted at random over the images of all blocks, entering either way.
  (Shuffled within a block they would be the true ones, since all images of a block have the same.)
- given, mixed: the true task, but every block a random fifth of all images. No sequence and so
  nothing to forget: the reference for what the others lose.

Each at two rates, since what is forgotten depends on how far a block moves the weights: the one
that learns a block best, and a slower one.

At test Z is given; or inferred from the image alone, by one gradient step or by enumeration, over
all five tasks under a uniform prior (those not yet learned included), and then p(y | x) = sum_k
q(k) p(y | x, k). The likelihood that a task is inferred from lies in the same weights as everything
else, and can be forgotten too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gbi_pyro.data.images import Images, ImageSets
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.learning.weights import clamped_loss
from gbi_pyro.models.conditioning import Conditioning
from gbi_pyro.posterior import TaskPosterior
from studies.core.training import descend
from studies.split_digits.config import SplitDigitsConfig, generator
from studies.split_digits.network import CLASSES, SplitNetwork

NUM_TASKS = 5
CONCAT, MASK = "Z given, concatenated", "Z given, masks"
WITHOUT = "without Z"
SHUFFLED, SHUFFLED_MASK = "Z shuffled, concatenated", "Z shuffled, masks"
MIXED = "Z given, tasks mixed"
NETWORKS: dict[str, Conditioning] = {
    CONCAT: "concat",
    MASK: "mask",
    WITHOUT: "concat",
    SHUFFLED: "concat",
    SHUFFLED_MASK: "mask",
    MIXED: "concat",
}
SEQUENTIAL = tuple(network for network in NETWORKS if network != MIXED)
CONDITIONED = (CONCAT, MASK, MIXED)  # networks whose Z means something
GIVEN = "given"
INFERENCES: dict[str, Callable[..., TaskPosterior]] = {
    "one step": OneStepGradient(),
    # Images do not influence each other.
    "enumeration": Enumeration(check=False),
}


class Split(NamedTuple):
    """Images with their tasks.

    Attributes:
        x: images, ``(N,) + image_shape``.
        task: true task ids, ``(N,)``.
        y: the class within the task, ``(N,)``.
        z: the task input, ``(N, K)``.
    """

    x: Tensor
    task: Tensor
    y: Tensor
    z: Tensor


@dataclass(frozen=True)
class NetworkScores:
    """Accuracies of one network by task, as shares.

    Attributes:
        untrained: of the untrained weights with Z as in training, ``(K,)``.
        accuracy: of the class after each block, ``(blocks, K)``, by how Z is had at test: given as
            in training, or by name in ``INFERENCES`` where Z means something.
        task_accuracy: of the task that each of ``INFERENCES`` finds, ``(blocks, K)``.
    """

    untrained: np.ndarray
    accuracy: dict[str, np.ndarray]
    task_accuracy: dict[str, np.ndarray]


def split(images: Images, pairs: Tensor, network: str, draw: torch.Generator) -> Split:
    """Put images into tasks, and make the task input of one kind of network.

    Args:
        images: with ten classes.
        pairs: the classes of each task, ``(NUM_TASKS, CLASSES)``.
        network: one of ``NETWORKS``.
        draw: for shuffled tasks.

    >>> images = Images(torch.zeros(3, 1, 8, 8), torch.tensor([7, 2, 0]))
    >>> found = split(images, torch.arange(10).reshape(5, 2), "without Z", torch.Generator())
    >>> found.task, found.y
    (tensor([3, 1, 0]), tensor([1, 0, 0]))
    """
    place = pairs.flatten().argsort()[images.y]
    task, y = place // CLASSES, place % CLASSES
    z = one_hot(task, NUM_TASKS).to(images.x.dtype)
    if network in (SHUFFLED, SHUFFLED_MASK):
        z = z[torch.randperm(len(z), generator=draw)]
    elif network == WITHOUT:
        z = torch.full_like(z, 1 / NUM_TASKS)
    return Split(images.x, task, y, z)


def measure_network(
    config: SplitDigitsConfig, sets: ImageSets, network: str, rate: float, seed: int
) -> NetworkScores:
    """Train one network block by block and score it before the first and after each."""
    draw, shuffle = (generator(seed, role) for role in generator.names)
    pairs = torch.randperm(NUM_TASKS * CLASSES, generator=draw).reshape(NUM_TASKS, CLASSES)
    model = SplitNetwork(
        tuple(sets.train.x.shape[1:]),
        NUM_TASKS,
        conditioning=NETWORKS[network],
        hidden_size=config.hidden,
        latent_size=config.latent,
        generator=draw,
    )
    train = split(sets.train, pairs, network, shuffle)
    judged = split(getattr(sets, config.judged_on), pairs, network, shuffle)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)

    def batches(block: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for _ in range(config.epochs):
            for index in block[torch.randperm(len(block), generator=draw)].split(config.batch):
                yield train.x[index], train.z[index], train.y[index]

    inferences = INFERENCES if network in CONDITIONED else {}
    untrained = accuracies(model, judged, {})[0][GIVEN]
    scores = []
    for block in _blocks(train, network, draw):
        descend(partial(clamped_loss, model), batches(block), optimiser)
        scores.append(accuracies(model, judged, inferences))
    accuracy, task_accuracy = (
        {name: np.stack([one[name] for one in by_block]) for name in by_block[0]}
        for by_block in zip(*scores, strict=True)
    )
    return NetworkScores(untrained, accuracy, task_accuracy)


def _blocks(train: Split, network: str, draw: torch.Generator) -> list[Tensor]:
    """Return the images of each block: those of one task, or a random share of all."""
    if network == MIXED:
        return list(torch.randperm(len(train.x), generator=draw).chunk(NUM_TASKS))
    return [(train.task == k).nonzero().squeeze(-1) for k in range(NUM_TASKS)]


@torch.no_grad()
def accuracies(
    model: SplitNetwork, judged: Split, inferences: dict[str, Callable[..., TaskPosterior]]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return accuracies by task, ``(K,)``, of classes with Z given or inferred, and of tasks."""

    def by_task(correct: Tensor) -> np.ndarray:
        return np.array([correct[judged.task == k].double().mean() for k in range(NUM_TASKS)])

    accuracy = {GIVEN: by_task(model.log_classes(judged.x, judged.z).argmax(-1) == judged.y)}
    task_accuracy = {}
    under_each = model.log_classes(judged.x).exp()
    for name, infer in inferences.items():
        posterior = infer(model, judged.x)
        classes = torch.einsum("nk,kny->ny", posterior.probs(), under_each).argmax(-1)
        accuracy[name] = by_task(classes == judged.y)
        task_accuracy[name] = by_task(posterior.mode() == judged.task)
    return accuracy, task_accuracy
