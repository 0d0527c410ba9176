"""Networks of the language study, and how their loss falls as they learn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.data.batches import balanced_batches
from gbi_pyro.learning.weights import clamped_loss
from gbi_pyro.models.language import LanguageLSTM
from studies.core.image_data import checksum
from studies.core.training import train_epochs
from studies.language.config import LanguageConfig
from studies.language.texts import Texts, windows_of_each

PLAIN, PAPER = "plain LSTM", "task at the input"
HEAD, SHUFFLED = "task at the head", "shuffled task"
NETWORKS = (PLAIN, PAPER, HEAD, SHUFFLED)
TEST_WINDOWS = 40  # of each corpus, for the loss while it falls
CHUNK = 100  # texts run at a time


@dataclass(frozen=True)
class Curve:
    """How a network learned.

    Attributes:
        words: how many it had read at each measurement, ``(M,)``.
        train: loss per word on what it read since the last one, in nats.
        test: loss per word on the test text, mean over corpora, given the true corpus.
    """

    words: np.ndarray
    train: np.ndarray
    test: np.ndarray


def build(
    config: LanguageConfig, vocabulary_size: int, num_tasks: int, kind: str, seed: int
) -> LanguageLSTM:
    """Build one network with the weights of its seed."""
    return LanguageLSTM(
        vocabulary_size,
        None if kind == PLAIN else num_tasks,
        config.embedding_size,
        config.hidden_size,
        inout=kind == HEAD,
        conditioning="affine" if kind == HEAD else "concat",
        generator=torch.Generator().manual_seed(seed),
    )


def one_hot(corpora: Tensor, network: LanguageLSTM) -> Tensor | None:
    """Return the tasks of sequences, ``(sequence, 1, K)``; None for the plain network."""
    if network.num_tasks is None:
        return None
    z = torch.nn.functional.one_hot(corpora, network.num_tasks).to(network.bias)
    return z.unsqueeze(1)


def train(
    config: LanguageConfig, texts: Texts, kind: str, seed: int, folder: Path | None
) -> tuple[LanguageLSTM, Curve]:
    """Train one network and freeze it; an interrupted training resumes from its checkpoint.

    Args:
        config: the study.
        texts: what it learns.
        kind: one of ``NETWORKS``.
        seed: of weights and batches.
        folder: of the checkpoints; None keeps none.
    """
    network = build(config, len(texts.sets.vocabulary), texts.num_tasks, kind, seed)
    file = f"{texts.name}-{kind}-{seed}.npz".replace(" ", "-")
    per_corpus = max(1, round(config.batch / texts.num_tasks))
    size = per_corpus * texts.num_tasks * config.length
    optimiser = torch.optim.Adam(network.parameters(), lr=config.rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _falling(texts.updates, config.decay))
    held_out = windows_of_each(texts.sets.test, config.length, TEST_WINDOWS, seed=0)
    since: list[float] = []

    def batches(draw: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
        for tokens, corpora in balanced_batches(
            texts.sets.train, config.length, per_corpus, draw, config.every
        ):
            if kind == SHUFFLED:
                corpora = corpora[torch.randperm(len(corpora), generator=draw)]
            yield tokens, corpora

    def loss(tokens: Tensor, corpora: Tensor) -> Tensor:
        value = clamped_loss(network, tokens, one_hot(corpora, network))
        since.append(value.item())
        return value

    def measure(done: int) -> list[float]:
        prior = np.log(texts.num_tasks) / config.length if network.num_tasks else 0.0
        seen = float(np.mean(since)) - prior if since else float("nan")
        since.clear()
        return [done * config.every * size, seen, test_loss(network, *held_out)]

    sets = texts.sets
    curve = train_epochs(
        network,
        loss,
        batches,
        optimiser,
        schedule,
        epochs=texts.updates // config.every,
        seed=seed,
        checkpoint=folder / file if folder else None,
        key=f"{kind}, seed {seed}, {texts.name} of {sets.names}, {training_key(config)}, "
        f"texts {checksum(*sets.train, *sets.test)}",
        measure=measure,
    )
    network.requires_grad_(False).eval()
    return network, Curve(*np.array(curve).T)


def _falling(updates: int, decay: float) -> Callable[[int], float]:
    """Return the factor of the rate at each update: 1, and at the end linearly down to 0."""
    if not decay:
        return lambda _done: 1.0
    return lambda done: min(1.0, (updates - done) / (decay * updates))


def training_key(config: LanguageConfig) -> str:
    """Describe what the weights depend on: other settings leave a checkpoint valid."""
    names = (
        *("vocabulary_size", "embedding_size", "hidden_size", "length", "batch", "rate", "decay"),
        *("every", "updates", "updates_all", "updates_without_one"),
    )
    return ", ".join(f"{name} {getattr(config, name)}" for name in names)


@torch.no_grad()
def test_loss(network: LanguageLSTM, tokens: Tensor, corpora: Tensor) -> float:
    """Return the loss per word in nats, with the task given; windows weigh the same."""
    return -in_chunks(network.log_prob, tokens, one_hot(corpora, network)).mean().item()


def in_chunks(run: Callable[..., Tensor], *batches: Tensor | None) -> Tensor:
    """Run over some texts at a time; None stays None."""
    count = len(next(b for b in batches if b is not None))
    parts = []
    for start in range(0, count, CHUNK):
        parts.append(run(*(None if b is None else b[start : start + CHUNK] for b in batches)))
    return torch.cat(parts)
