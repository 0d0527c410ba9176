"""Split digits in sequence: what a task input protects, and whether it can be inferred.

Ten digits make five tasks of two classes each, learned one after another, a block for each task;
an earlier task's images never come back. What counts as the **task** is the pair of digits that is
shown in a block, not the digit: pairs and their order are drawn anew for every seed. What is scored
is the **class within the task**, "first or second of its pair", by one head of two outputs that all
tasks share, so that chance is 50 % and no output belongs to a task. (Usually called
domain-incremental where the task is not told, task-incremental where it is.)

Every network is the same ``SplitNetwork``, trained by the same number of updates on the same images
to name the class and to draw the image. They differ in what Z is in training:

- given: the true task of the block, entering by concatenation or by fixed random masks;
- without: Z at maximum entropy throughout, an input of the same width that says nothing. This is
  the **baseline**: the same network with the same number of weights (by concatenation), untold;
- shuffled: the true tasks dealt out at random over the images of all blocks, entering either way.
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

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gbi_pyro.data.images import Images, ImageSets, load_images
from studies.split_digits.network import CLASSES, SplitNetwork
from studies.core.protocol import Seeds
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.learning.weights import clamped_loss
from gbi_pyro.models.conditioning import Conditioning
from gbi_pyro.posterior import TaskPosterior

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
TOLD = (CONCAT, MASK, MIXED)  # whose Z means something
GIVEN, UNTRAINED = "given", "untrained"
INFERENCES: dict[str, Callable[..., TaskPosterior]] = {
    "one step": OneStepGradient(),
    # Images do not influence each other.
    "enumeration": Enumeration(check=False),
}
Report = Callable[[str], None]


@dataclass(frozen=True)
class DigitsConfig(Seeds):
    """Everything the split digits depend on.

    Attributes:
        dataset: ``digits``, ``mnist`` or ``fashion``: ten classes.
        data: folder of its files; not for digits.
        seeds: how many networks of each kind are trained.
        first_seed: their seeds are ``first_seed``, ``first_seed + 1``, ...
        epochs: passes over the images of a block.
        batch: images per weight update.
        rates: Adam's. Of .001, .003 and .01 the first is the one whose networks know the task just
            learned best (``learned``), on validation images and seeds that no result uses; the
            second is the next slower.
        hidden: hidden units.
        latent: size of the latent that the task joins.
        judged_on: ``test``, or ``validation`` for a choice.
    """

    dataset: str = "digits"
    data: str | None = None
    seeds: int = 10
    first_seed: int = 0
    epochs: int = 10
    batch: int = 32
    rates: tuple[float, ...] = (0.01, 0.003)
    hidden: int = 64
    latent: int = 8
    judged_on: str = "test"

    def __post_init__(self) -> None:
        self.check_at_least_one("seeds", "epochs", "batch", "hidden", "latent")
        if not self.rates or not min(self.rates) > 0:
            raise ValueError(f"rates must be positive, one or more, got {self.rates}")
        if self.dataset not in ("digits", "mnist", "fashion"):
            raise ValueError(
                f"dataset must be digits, mnist or fashion, which have ten classes for five tasks; "
                f"got {self.dataset!r}"
            )
        if self.judged_on not in ("test", "validation"):
            raise ValueError(f"judged_on must be test or validation, got {self.judged_on!r}")

    def fast(self) -> DigitsConfig:
        """Return a configuration that runs through everything in seconds and shows nothing."""
        return replace(self, seeds=min(self.seeds, 2), epochs=1, batch=128, hidden=16)


class Split(NamedTuple):
    """Images with what a network is told of them.

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


def split(images: Images, pairs: Tensor, network: str, draw: torch.Generator) -> Split:
    """Put images into tasks, and deal out the task input of one kind of network.

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


def measure(config: DigitsConfig, report: Report = lambda _: None) -> dict[str, Any]:
    """Train and score every kind of network at every rate on every seed.

    Returns:
        For each rate (see ``rate_name``) and each of ``NETWORKS`` lists by seed: ``"untrained"``,
        accuracy of the untrained weights by task, and ``"given"``, accuracy after each block on
        each task with Z as in training; for those told their task also ``"one step"`` and
        ``"enumeration"``, the same with Z inferred, and ``"task, ..."``, how often the inferred
        task is the true one. Accuracies are shares. ``"seconds"`` is the time it took.
    """
    start = time.perf_counter()
    found: dict[str, Any] = {rate_name(rate): {} for rate in config.rates}
    for rate in config.rates:
        for network in NETWORKS:
            by_seed = []
            for seed in config.all_seeds:
                report(f"split digits, {rate_name(rate)}, seed {seed}: {network}")
                sets = load_images(config.dataset, config.data, seed=seed)
                by_seed.append(measure_one(config, sets, network, rate, seed))
            found[rate_name(rate)][network] = {k: [one[k] for one in by_seed] for k in by_seed[0]}
    return {**found, "seconds": time.perf_counter() - start}


def rate_name(rate: float) -> str:
    """Return the name of a rate among the results.

    >>> rate_name(0.003)
    'rate 0.003'
    """
    return f"rate {rate:g}"


def learned(found: Mapping[str, Any]) -> float:
    """Return the accuracy on the task just learned, over blocks, seeds and kinds in sequence.

    By it the rate is chosen: it asks how well a block is learned and not what is forgotten, so that
    no kind of network is favoured. ``measure`` with ``judged_on="validation"`` and seeds from 1000.

    Args:
        found: what ``measure`` returned of one rate.
    """
    matrices = [found[network][GIVEN] for network in NETWORKS if network != MIXED]
    return torch.tensor(matrices).diagonal(dim1=-2, dim2=-1).mean().item()


def measure_one(
    config: DigitsConfig, sets: ImageSets, network: str, rate: float, seed: int
) -> dict[str, list[Any]]:
    """Train one network block by block and score it before the first and after each."""
    # One stream of draws for all kinds: the same pairs for all, and for a way the task enters the
    # same weights and batches with every Z.
    draw, deal = (torch.Generator().manual_seed(2 * seed + i) for i in range(2))
    pairs = torch.randperm(NUM_TASKS * CLASSES, generator=draw).reshape(NUM_TASKS, CLASSES)
    model = SplitNetwork(
        tuple(sets.train.x.shape[1:]),
        NUM_TASKS,
        conditioning=NETWORKS[network],
        hidden_size=config.hidden,
        latent_size=config.latent,
        generator=draw,
    )
    train = split(sets.train, pairs, network, deal)
    judged = split(getattr(sets, config.judged_on), pairs, network, deal)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    untrained = accuracies(model, judged, told=False)
    scores = []
    for block in _blocks(train, network, draw):
        for _ in range(config.epochs):
            for index in block[torch.randperm(len(block), generator=draw)].split(config.batch):
                loss = clamped_loss(model, train.x[index], train.z[index], train.y[index])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        scores.append(accuracies(model, judged, told=network in TOLD))
    by_block = {key: [one[key] for one in scores] for key in scores[0]}
    return {UNTRAINED: untrained[GIVEN], **by_block}


def _blocks(train: Split, network: str, draw: torch.Generator) -> list[Tensor]:
    """Return the images of each block: those of one task, or a random share of all."""
    if network == MIXED:
        return list(torch.randperm(len(train.x), generator=draw).chunk(NUM_TASKS))
    return [(train.task == k).nonzero().squeeze(-1) for k in range(NUM_TASKS)]


@torch.no_grad()
def accuracies(model: SplitNetwork, judged: Split, *, told: bool) -> dict[str, list[float]]:
    """Return accuracies by task, with Z as it is given and, for a network told it, inferred."""

    def by_task(right: Tensor) -> list[float]:
        return [right[judged.task == k].double().mean().item() for k in range(NUM_TASKS)]

    given = model.log_classes(judged.x, judged.z).argmax(-1)
    found = {GIVEN: by_task(given == judged.y)}
    if not told:
        return found
    under_each = model.log_classes(judged.x).exp()
    for name, infer in INFERENCES.items():
        posterior = infer(model, judged.x)
        classes = torch.einsum("nk,kny->ny", posterior.probs(), under_each).argmax(-1)
        found[name] = by_task(classes == judged.y)
        found[f"task, {name}"] = by_task(posterior.mode() == judged.task)
    return found
