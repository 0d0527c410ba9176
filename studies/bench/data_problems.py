"""Problems with real data: the class of an image, of two images side by side, the corpus of a text.

The model is a network trained on the training split with its tasks given, and the exact posterior
is that of the network: every task is tried. Draws are data of one split with their labels, which
need not have that posterior as a drawn problem's tasks have.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gbi_pyro.data.batches import balanced_batches
from gbi_pyro.data.images import Images, ImageSets
from gbi_pyro.data.text import TextSets, load_text
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.learning.weights import clamped_loss
from gbi_pyro.models.image import ConditionedAutoencoder
from gbi_pyro.models.language import LanguageLSTM
from gbi_pyro.problems import Drawn, Problem
from studies.core.image_data import Dataset, image_sets
from studies.core.image_networks import ImageConfig, paper_network, train
from studies.core.training import descend

Split = Literal["train", "validation", "test"]
EXACT = Enumeration(check=False)  # one task after the other, as batches of images are large


class _Budget:
    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")


@dataclass(frozen=True)
class ImageBudget(_Budget):
    """The paper's image network, and how long it is trained.

    Attributes:
        epochs: passes over the training images.
        bottleneck: size of the latent.
        hidden: hidden units of encoder and decoder.
    """

    epochs: int = 5
    bottleneck: int = 6
    hidden: int = 256


@dataclass(frozen=True)
class TextBudget(_Budget):
    """The network with the task at the input, and how long it is trained.

    Attributes:
        updates: of the weights.
        vocabulary_size: V.
        embedding_size: of a word.
        hidden_size: of the LSTM.
        length: words of a training sequence.
        per_corpus: sequences of each corpus in an update.
        rate: Adam's.
        words: of a text whose corpus is inferred.
    """

    updates: int = 1200
    vocabulary_size: int = 4000
    embedding_size: int = 100
    hidden_size: int = 200
    length: int = 35
    per_corpus: int = 3
    rate: float = 3e-3
    words: int = 20


IMAGES, TEXTS = ImageBudget(), TextBudget()


def data_problems(data: Path) -> dict[str, Callable[..., Problem]]:
    """Return what makes each problem of a seed, and of a split if that is not "test".

    A method that is fitted to draws takes them from the problem of split "validation": those of
    "test" are the cases that it is judged on.

    Args:
        data: a folder with ``mnist/``, ``fashion-mnist/`` and ``text10/``.

    >>> list(data_problems(Path("data")))
    ['mnist', 'fashion', 'pairs of mnist', 'corpora']
    """
    return {
        "mnist": partial(image_problem, "mnist", data),
        "fashion": partial(image_problem, "fashion", data),
        "pairs of mnist": partial(pair_problem, "mnist", data),
        "corpora": partial(text_problem, data),
    }


def image_problem(
    dataset: Dataset,
    data: Path | None,
    seed: int = 0,
    *,
    budget: ImageBudget = IMAGES,
    split: Split = "test",
) -> Problem:
    """Return the problem of the class of an image, under the paper's network.

    Args:
        dataset: ``digits``, ``mnist``, ``fashion``, ``cifar10`` or ``cifar100``.
        data: the folder of the files; None for digits.
        seed: of the network.
        budget: the network, and how long it is trained.
        split: what is drawn from, without replacement; learn and choose on others than "test".

    Raises:
        ValueError: when drawn from, for more cases than images; see ``load_images`` too.
    """
    network = _trained(image_sets, dataset, data, seed, budget)
    return _of_images(dataset, network, getattr(image_sets(dataset, data), split))


def pair_problem(
    dataset: Dataset,
    data: Path | None,
    seed: int = 0,
    *,
    budget: ImageBudget = IMAGES,
    split: Split = "test",
) -> Problem:
    """Return the problem of the two classes of two images side by side, one task of K^2.

    Each image is the left half of one pair and the right half of one. The network is the one of
    ``image_problem``: nothing in it says that a task is made of two.

    Args:
        dataset, data, seed, budget, split: see ``image_problem``.
    """
    network = _trained(image_pairs, dataset, data, seed, budget)
    return _of_images(f"pairs of {dataset}", network, getattr(image_pairs(dataset, data), split))


@functools.lru_cache(maxsize=1)
def image_pairs(dataset: str, data: Path | None) -> ImageSets:
    """Return the images of a set in pairs, side by side: of H x W, H x 2W.

    >>> pairs = image_pairs("digits", None)
    >>> pairs.num_classes, pairs.test.x.shape, pairs.class_names[:2]
    (100, torch.Size([360, 1, 8, 16]), ('0, 0', '0, 1'))
    """
    sets, draw = image_sets(dataset, data), torch.Generator().manual_seed(0)

    def paired(images: Images) -> Images:
        beside = torch.randperm(len(images.x), generator=draw)
        return Images(
            torch.cat([images.x, images.x[beside]], -1),
            sets.num_classes * images.y + images.y[beside],
        )

    return ImageSets(
        f"pairs of {sets.name}",
        tuple(f"{left}, {right}" for left in sets.class_names for right in sets.class_names),
        paired(sets.train),
        paired(sets.validation),
        paired(sets.test),
    )


def text_problem(
    data: Path, seed: int = 0, *, budget: TextBudget = TEXTS, split: Split = "test"
) -> Problem:
    """Return the problem of the corpus of a text, under a network with the task at its input.

    A case is a corpus, each as likely as the others, and a text from anywhere in it.

    Args:
        data: a folder with ``train/``, ``dev/`` and ``test/``, a file for each corpus.
        seed: of weights and batches.
        budget: the network, and how long it is trained.
        split: what is drawn from; learn and choose on others than "test".

    Raises:
        ValueError: for a corpus shorter than a text; see ``load_text`` too.
    """
    sets = _texts(data, budget.vocabulary_size)
    texts = sets.split("dev" if split == "validation" else split)
    lengths = torch.tensor([len(text) for text in texts])
    if budget.words > (shortest := int(lengths.min())):
        raise ValueError(
            f"words should be at most {shortest}, the length of the shortest corpus; got "
            f"{budget.words}: take shorter texts, or leave the corpus out"
        )
    network = _trained_on_texts(data, seed, budget)

    def draw(n: int, generator: torch.Generator) -> Drawn:
        corpora = torch.randint(len(texts), (n,), generator=generator)
        at = torch.rand(n, generator=generator, dtype=torch.float64)
        starts = (at * (lengths[corpora] - budget.words + 1)).long()
        rows = [texts[k][i : i + budget.words] for k, i in zip(corpora, starts, strict=True)]
        return Drawn((torch.stack(rows),), {"z": corpora.unsqueeze(-1)})

    return Problem(f"{len(texts)} corpora", network, draw, EXACT)


def _of_images(name: str, network: ConditionedAutoencoder, images: Images) -> Problem:
    def draw(n: int, generator: torch.Generator) -> Drawn:
        if n > len(images.x):
            raise ValueError(
                f"n should be at most {len(images.x)}, as images are drawn without replacement; "
                f"got {n}: take fewer cases"
            )
        index = torch.randperm(len(images.x), generator=generator)[:n]
        return Drawn((images.x[index],), {"z": images.y[index]})

    return Problem(name, network, draw, EXACT)


@functools.lru_cache(maxsize=8)
def _trained(
    load: Callable[[str, Path | None], ImageSets],
    dataset: Dataset,
    data: Path | None,
    seed: int,
    budget: ImageBudget,
) -> ConditionedAutoencoder:
    sets = load(dataset, data)
    network = paper_network(sets, seed, bottleneck=budget.bottleneck, hidden=budget.hidden)
    config = ImageConfig(dataset=dataset, epochs=budget.epochs)
    return train(network, sets.name, seed, sets.train, config, None, lambda _: None)


@functools.lru_cache(maxsize=1)
def _texts(data: Path, vocabulary_size: int) -> TextSets:
    return load_text(data, vocabulary_size=vocabulary_size)


@functools.lru_cache(maxsize=8)
def _trained_on_texts(data: Path, seed: int, budget: TextBudget) -> LanguageLSTM:
    sets = _texts(data, budget.vocabulary_size)
    draw = torch.Generator().manual_seed(seed)
    network = LanguageLSTM(
        len(sets.vocabulary),
        sets.num_corpora,
        budget.embedding_size,
        budget.hidden_size,
        generator=draw,
    )

    def loss(tokens: Tensor, corpora: Tensor) -> Tensor:
        z = one_hot(corpora, sets.num_corpora).to(network.bias)
        return clamped_loss(network, tokens, z.unsqueeze(1))

    batches = balanced_batches(sets.train, budget.length, budget.per_corpus, draw, budget.updates)
    descend(loss, batches, torch.optim.Adam(network.parameters(), lr=budget.rate))
    network.requires_grad_(False).eval()
    return network
