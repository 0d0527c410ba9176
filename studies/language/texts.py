"""What the language study reads: corpora, or random bigram languages with their exact posterior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
)
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


def windows_of_each(
    texts: tuple[Tensor, ...], length: int, count: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Cut as many windows from every corpus, at random places, and say whose they are.

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


def corpora_texts(config: LanguageConfig, corpora: tuple[CorpusText, ...]) -> list[Texts]:
    """Return the sets of corpora that the study trains on.

    Raises:
        ValueError: for fewer corpora than a draw takes.
    """
    if len(corpora) < config.draw_size:
        raise ValueError(
            f"draw_size is {config.draw_size}, but there are {len(corpora)} corpora: add some, or "
            "draw fewer"
        )

    def encoded(
        name: str, chosen: list[CorpusText], updates: int, left: CorpusText | None = None
    ) -> Texts:
        texts = (corpus.train for corpus in chosen)
        vocabulary = Vocabulary.most_frequent(texts, config.vocabulary_size)
        unseen = encode([left], vocabulary) if left else None
        return Texts(name, encode(chosen, vocabulary), updates, unseen=unseen)

    found = []
    for i in range(config.draws):
        order = torch.randperm(len(corpora), generator=torch.Generator().manual_seed(i)).tolist()
        chosen = [corpora[k] for k in sorted(order[: config.draw_size])]
        found.append(encoded(f"draw {i}", chosen, config.updates))
    if config.all_at_once:
        found.append(encoded(f"all {len(corpora)}", list(corpora), config.updates_all))
    if config.leave_one_out:
        for left in corpora:
            others = [corpus for corpus in corpora if corpus is not left]
            found.append(encoded(f"without {left.name}", others, config.updates_without_one, left))
    return found


def bigram_texts(config: LanguageConfig) -> Texts:
    """Return random bigram languages, whose posterior is exact: the calibration case.

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
        config.updates_all,
        exact=lambda tokens: languages.log_posterior(tokens - len(MARKS)),
        emission=lambda tokens: languages.log_likelihood(tokens - len(MARKS)),
    )


def stationary(transition: Tensor) -> Tensor:
    """Return the distribution p with p = p T of each chain, ``(K, V)``, from ``(K, V, V)``."""
    num_words = transition.shape[-1]
    equations = transition.mT - torch.eye(num_words, dtype=transition.dtype)
    equations = torch.cat([equations, torch.ones_like(equations[:, :1])], 1)  # and sums to one
    right = torch.zeros_like(equations[..., :1])
    right[:, -1] = 1
    found = torch.linalg.lstsq(equations, right).solution.squeeze(-1).clamp_min(0)
    return found / found.sum(-1, keepdim=True)
