"""What the language study reads: corpora, or random bigram languages with their exact posterior."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gbi_pyro.data.batches import windows
from gbi_pyro.data.bigram import BigramLanguages
from gbi_pyro.data.text import (
    END,
    UNKNOWN,
    CorpusText,
    TextSets,
    Vocabulary,
    encode,
    read_corpora,
)
from gbi_pyro.inference.task_chain import TaskChain
from studies.language.config import LanguageConfig

MARKS = (UNKNOWN, END)
LANGUAGES, WORDS, CONCENTRATION = 5, 12, 3.0
TRAIN_TEXTS, TRAIN_LENGTH, HELD_OUT_LENGTH = 200, 1000, 15_000


@dataclass(frozen=True)
class Texts:
    """A set of corpora that one network learns.

    Attributes:
        name: of the set, in tables and file names.
        sets: the corpora.
        updates: weight updates to learn them.
        exact: from texts ``(N, T)`` to the exact log posterior of each prefix, ``(N, T, K)``, where
            it is known.
        emission: from texts to log p(w_t | w_t-1, k), ``(N, T, K)``, likewise.
        unseen: a corpus left out of the vocabulary and of training, encoded.
    """

    name: str
    sets: TextSets
    updates: int
    exact: Callable[[Tensor], Tensor] | None = None
    emission: Callable[[Tensor], Tensor] | None = None
    unseen: TextSets | None = None

    @property
    def num_tasks(self) -> int:
        """K."""
        return self.sets.num_corpora

    def log_frequencies(self, smoothing: float) -> Tensor:
        """Return log frequencies of words in the training text of each corpus, ``(K, V)``.

        Args:
            smoothing: added to the count of every word.
        """
        size = len(self.sets.vocabulary)
        counts = torch.stack([text.bincount(minlength=size) for text in self.sets.train])
        smoothed = counts.double() + smoothing
        return (smoothed / smoothed.sum(-1, keepdim=True)).log()


def windows_of_each(
    texts: tuple[Tensor, ...], length: int, count: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Cut as many windows from every corpus, at random places, and return them with labels.

    Windows of a long text do not overlap; a text too short for that many gives overlapping ones,
    so that every corpus weighs the same in a mean over all.

    Returns:
        Tokens, ``(K count, length)``, and corpora, ``(K count,)``.
    """
    draw = torch.Generator().manual_seed(seed)
    found = []
    for text in texts:
        cut = windows(text, length)
        if len(cut) < count:
            cut = text.unfold(0, length, 1)
        if len(cut) < count:
            raise ValueError(
                f"a corpus of {len(text)} tokens has fewer than {count} texts of {length} words: "
                "leave it out, or ask for fewer or shorter texts"
            )
        found.append(cut[torch.randperm(len(cut), generator=draw)[:count]])
    return torch.cat(found), torch.arange(len(texts)).repeat_interleave(count)


@dataclass(frozen=True)
class Choice:
    """Which corpora a network learns.

    Attributes:
        name: of the set of corpora, in file names.
        corpora: their names; none for bigram languages.
        updates: weight updates to learn them.
        left_out: a corpus that the network does not see, to adapt to.
    """

    name: str
    corpora: tuple[str, ...]
    updates: int
    left_out: str | None = None


def choose_sets(config: LanguageConfig, data: Path | None) -> list[Choice]:
    """Return the sets of texts that the study trains on: of a folder, or bigram languages.

    Raises:
        ValueError: for fewer corpora than a draw takes.
    """
    if data is None:
        return [Choice("bigrams", (), config.updates_all)]
    names = [corpus.name for corpus in folder_of_corpora(data)]
    if len(names) < config.draw_size:
        raise ValueError(
            f"draw_size is {config.draw_size}, but there are {len(names)} corpora: add some, or "
            "draw fewer"
        )
    found = []
    for i in range(config.draws):
        order = torch.randperm(len(names), generator=torch.Generator().manual_seed(i)).tolist()
        drawn = tuple(names[k] for k in sorted(order[: config.draw_size]))
        found.append(Choice(f"draw {i}", drawn, config.updates))
    if config.all_at_once:
        found.append(Choice(f"all {len(names)}", tuple(names), config.updates_all))
    if config.leave_one_out:
        for left in names:
            others = tuple(name for name in names if name != left)
            found.append(Choice(f"without {left}", others, config.updates_without_one, left))
    return found


def read_texts(config: LanguageConfig, data: Path | None, choice: Choice) -> Texts:
    """Return the texts of a choice; the vocabulary is that of their training text alone."""
    if data is None:
        return bigram_texts(choice.updates)
    corpora = {corpus.name: corpus for corpus in folder_of_corpora(data)}
    chosen = [corpora[name] for name in choice.corpora]
    vocabulary = Vocabulary.most_frequent((c.train for c in chosen), config.vocabulary_size)
    unseen = encode([corpora[choice.left_out]], vocabulary) if choice.left_out else None
    return Texts(choice.name, encode(chosen, vocabulary), choice.updates, unseen=unseen)


@functools.lru_cache(maxsize=1)
def folder_of_corpora(data: Path) -> tuple[CorpusText, ...]:
    """Read a folder of corpora, once in a process."""
    return read_corpora(data)


@functools.lru_cache(maxsize=1)
def texts_checksum(data: Path) -> str:
    """Return the SHA-256 of the words of all corpora of a folder."""
    digest = hashlib.sha256()
    for corpus in folder_of_corpora(data):
        for text in ((corpus.name,), corpus.train, corpus.dev, corpus.test):
            digest.update(" ".join(text).encode() + b"\n")
    return digest.hexdigest()


def bigram_texts(updates: int) -> Texts:
    """Return random bigram languages, whose posterior is exact.

    A text begins anywhere in its language, so that every window of it has the same law: the first
    word is drawn from the stationary distribution.
    """
    draw = torch.Generator().manual_seed(0)
    drawn = BigramLanguages.draw(LANGUAGES, WORDS, CONCENTRATION, generator=draw)
    languages = BigramLanguages(stationary(drawn.transition), drawn.transition)

    def sample(count: int, length: int) -> tuple[Tensor, ...]:
        each = torch.arange(LANGUAGES).repeat_interleave(count)
        tokens = languages.sample(len(each), length, draw, each).tokens
        return (tokens + len(MARKS)).reshape(LANGUAGES, -1).unbind()

    sets = TextSets(
        tuple(f"language {k}" for k in range(LANGUAGES)),
        Vocabulary((*MARKS, *(f"w{i}" for i in range(WORDS)))),
        sample(TRAIN_TEXTS, TRAIN_LENGTH),
        sample(1, HELD_OUT_LENGTH),
        sample(1, HELD_OUT_LENGTH),
    )
    return Texts(
        "bigrams",
        sets,
        updates,
        exact=lambda tokens: languages.log_posterior(tokens - len(MARKS)),
        emission=lambda tokens: languages.log_likelihood(tokens - len(MARKS)),
    )


def stationary(transition: Tensor) -> Tensor:
    """Return the distribution p with p = p T of each chain, ``(K, V)``, from ``(K, V, V)``."""
    starts = [TaskChain("stationary", chain.log()).log_initial for chain in transition]
    return torch.stack(starts).exp()
