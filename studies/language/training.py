"""Networks of the language study, trained side by side, with their loss as they learn."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import joblib
import numpy as np
import torch
from torch import Tensor

from gbi_pyro.data.batches import balanced_batches
from studies.core.training import train_epochs
from studies.language.config import LanguageConfig
from studies.language.texts import Texts, windows_of_each
from gbi_pyro.files import replacing
from gbi_pyro.learning.weights import clamped_loss
from gbi_pyro.models.language import LanguageLSTM

PLAIN, PAPER, HEAD, SHUFFLED = (
    "plain LSTM",
    "task at the input",
    "task at the head",
    "shuffled task",
)
TEST_WINDOWS = 40  # of each corpus, for the loss while it falls
CHUNK = 100  # texts run at a time
Report = Callable[[str], None]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Trained:
    """A trained network and how it learned.

    Attributes:
        network: trained and frozen.
        words: how many it had read at each look.
        train: loss per word on what it read since the last look, in nats.
        test: loss per word on the test text, mean over corpora, told the true corpus.
    """

    network: LanguageLSTM
    words: np.ndarray
    train: np.ndarray
    test: np.ndarray


def build(config: LanguageConfig, texts: Texts, kind: str, seed: int) -> LanguageLSTM:
    """Build one network with the weights of its seed."""
    return LanguageLSTM(
        len(texts.sets.vocabulary),
        None if kind == PLAIN else texts.num_tasks,
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


def train_all(
    config: LanguageConfig,
    todo: list[tuple[Texts, str, int]],
    folder: Path,
    report: Report,
) -> dict[tuple[str, str, int], Trained]:
    """Train networks side by side; what an earlier run finished is taken up.

    Args:
        config: the study.
        todo: set of corpora, kind of network and seed of each training.
        folder: of the checkpoints.
        report: called when a training is done.

    Returns:
        The networks by name of the set, kind and seed.
    """
    calls = [(config, *job, folder) for job in todo]
    for what in side_by_side(_train_and_say, calls, config.jobs):
        report(what)
    return {(t.name, kind, seed): load(config, t, kind, seed, folder) for t, kind, seed in todo}


def side_by_side(
    function: Callable[..., Result], calls: Sequence[tuple[Any, ...]], jobs: int
) -> Iterator[Result]:
    """Call a function with each set of arguments, some processes at a time; in order."""
    delayed = (joblib.delayed(_on_one_thread)(function, arguments) for arguments in calls)
    return joblib.Parallel(n_jobs=jobs, return_as="generator")(delayed)


def _on_one_thread(function: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    torch.set_num_threads(1)
    return function(*arguments)


def _train_and_say(config: LanguageConfig, texts: Texts, kind: str, seed: int, folder: Path) -> str:
    train(config, texts, kind, seed, folder)
    return f"{texts.name}: {kind}, seed {seed}"


def train(config: LanguageConfig, texts: Texts, kind: str, seed: int, folder: Path) -> Trained:
    """Train one network, or take up its training where it stood."""
    network = build(config, texts, kind, seed)
    stem = folder / f"{texts.name}-{kind}-{seed}".replace(" ", "-")
    curve_file = stem.with_suffix(".json")
    per_corpus = max(1, round(config.batch / texts.num_tasks))
    size = per_corpus * texts.num_tasks * config.length
    optimiser = torch.optim.Adam(network.parameters(), lr=config.rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _falling(texts.updates, config.decay))
    held_out = windows_of_each(texts.sets.test, config.length, TEST_WINDOWS, seed=0)
    since: list[float] = []
    curve: list[list[float]] = json.loads(curve_file.read_text()) if curve_file.exists() else []

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

    def look(done: int) -> None:
        del curve[done:]
        if done > len(curve):
            prior = np.log(texts.num_tasks) / config.length if network.num_tasks else 0.0
            seen = float(np.mean(since)) - prior if since else float("nan")
            curve.append([done * config.every * size, seen, test_loss(network, *held_out)])
            with replacing(curve_file) as temporary:
                temporary.write_text(json.dumps(curve) + "\n")
        since.clear()

    train_epochs(
        network,
        loss,
        batches,
        optimiser,
        schedule,
        epochs=texts.updates // config.every,
        seed=seed,
        checkpoint=stem.with_suffix(".safetensors"),
        key=f"{kind}, seed {seed}, {texts.name} of {texts.sets.names}, {training_key(config)}",
        report=look,
    )
    network.requires_grad_(False).eval()
    return Trained(network, *np.array(curve).T)


def _falling(updates: int, decay: float) -> Callable[[int], float]:
    """Return the factor of the rate at each update: 1, and at the end down to 0 in a line."""
    if not decay:
        return lambda _done: 1.0
    return lambda done: min(1.0, (updates - done) / (decay * updates))


def training_key(config: LanguageConfig) -> str:
    """Describe what the weights depend on: other settings leave a checkpoint valid."""
    names = ("embedding_size", "hidden_size", "length", "batch", "rate", "every", "decay")
    ends = ("updates", "updates_all") if config.decay else ()  # the rate knows where the end is
    return ", ".join(f"{name} {getattr(config, name)}" for name in (*names, *ends))


load = train  # a finished training is taken up at its end


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
