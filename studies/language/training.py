"""Networks of the language study, and how their loss falls as they learn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel

from gbi_pyro.data.batches import balanced_batches
from gbi_pyro.learning.weights import clamped_loss
from gbi_pyro.models.conditioning import parameter_count, width_for
from gbi_pyro.models.language import LanguageLSTM
from gbi_pyro.models.language_model import LanguageModel
from gbi_pyro.models.transformer import LanguageTransformer
from studies.core.device import moved, run_device
from studies.core.image_data import checksum
from studies.core.training import train_epochs
from studies.language.config import TRANSFORMERS, LanguageConfig
from studies.language.texts import Texts, windows_of_each

PLAIN, PAPER = "plain LSTM", "task at the input"
HEAD, SHUFFLED = "task at the head", "shuffled task"
NETWORKS = (PLAIN, PAPER, HEAD, SHUFFLED)
SAME_TASK = dict(zip(TRANSFORMERS.values(), (PLAIN, PAPER, HEAD), strict=True))
"""The LSTM that each transformer is compared with: the same task input and parameter count."""
PLAIN_TRANSFORMER, _, HEAD_TRANSFORMER = SAME_TASK
BASELINES = {
    **dict.fromkeys((PAPER, HEAD, SHUFFLED, PLAIN_TRANSFORMER), PLAIN),
    **{kind: PLAIN_TRANSFORMER for kind in SAME_TASK if kind != PLAIN_TRANSFORMER},
}
"""The network whose loss each one is compared with."""
TEST_WINDOWS = 40  # of each corpus, for the loss while it falls
CHUNK = 100  # texts run at a time
FIRST = 10  # updates that an average of weights is over at the beginning


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
) -> LanguageModel:
    """Build one network with the weights of its seed.

    A transformer has the width, a multiple of its heads, at which its parameter count comes
    closest to that of the LSTM with the same task input.
    """
    lstm = SAME_TASK.get(kind, kind)
    sizes = vocabulary_size, None if lstm == PLAIN else num_tasks
    options: dict[str, Any] = {"inout": True, "conditioning": "affine"} if lstm == HEAD else {}
    draw = torch.Generator().manual_seed(seed)
    if kind == lstm:
        widths = config.embedding_size, config.hidden_size
        if options and config.smoothing:  # else a first word would not depend on the task
            options["first_from_biases"] = True
        return LanguageLSTM(*sizes, *widths, generator=draw, **options)

    def of_width(units: int, generator: torch.Generator | None = None) -> LanguageTransformer:
        shape = config.heads * units, config.layers, config.heads
        longest = config.length
        return LanguageTransformer(*sizes, *shape, longest=longest, generator=generator, **options)

    budget = parameter_count(build(config, vocabulary_size, num_tasks, lstm, seed))
    return of_width(width_for(of_width, budget), draw)


def context(network: LanguageModel) -> float:
    """Return how many words of a text a network reads at most."""
    return network.longest if isinstance(network, LanguageTransformer) else math.inf


def one_hot(corpora: Tensor, network: LanguageModel) -> Tensor | None:
    """Return the tasks of sequences, ``(sequence, 1, K)``; None for the plain network."""
    if network.num_tasks is None:
        return None
    z = torch.nn.functional.one_hot(corpora, network.num_tasks).to(network.bias)
    return z.unsqueeze(1)


def train(
    config: LanguageConfig, texts: Texts, kind: str, seed: int, folder: Path | None
) -> tuple[LanguageModel, Curve]:
    """Train one network and freeze it; an interrupted training resumes from its checkpoint.

    It is trained on the device of the run, and stays there.

    Args:
        config: the study.
        texts: what it learns.
        kind: one of ``NETWORKS`` or of ``TRANSFORMERS``. An LSTM's biases may start at the log
            frequencies of words, and its weights be averages over training.
        seed: of weights and batches.
        folder: of the checkpoints; None keeps none.
    """
    network = build(config, len(texts.sets.vocabulary), texts.num_tasks, kind, seed)
    network.to(run_device())
    file = f"{texts.name}-{kind}-{seed}.npz".replace(",", "").replace(" ", "-")
    per_corpus = max(1, round(config.batch / texts.num_tasks))
    size = per_corpus * texts.num_tasks * config.length
    trained: nn.Module = network
    learned, warm_up = network, 1
    if kind in SAME_TASK:
        warm_up, weights = config.warm_up, list(network.parameters())
        optimiser = torch.optim.Adam(weights, lr=config.transformer_rate)
        optimiser.register_step_pre_hook(partial(_clip, weights, config.clip))
    else:
        if config.smoothing:
            network.start_at_unigrams(texts.log_frequencies(config.smoothing))
        optimiser = torch.optim.Adam(_groups(network, config.bias_rate * config.rate), config.rate)
        if config.average:
            averages = AveragedModel(network, avg_fn=partial(_averaged, config.average))
            optimiser.register_step_post_hook(lambda *_: averages.update_parameters(network))
            trained = nn.ModuleList([network, averages])
            learned = cast(LanguageModel, averages.module)
    factor = _factor(texts.updates, config.decay, warm_up)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    held_out = windows_of_each(texts.sets.test, config.length, TEST_WINDOWS, seed=0)

    def batches(draw: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
        for tokens, corpora in balanced_batches(
            texts.sets.train, config.length, per_corpus, draw, config.every
        ):
            if kind == SHUFFLED:
                corpora = corpora[torch.randperm(len(corpora), generator=draw)]
            yield tokens, corpora

    def loss(tokens: Tensor, corpora: Tensor) -> Tensor:
        return clamped_loss(network, tokens, one_hot(corpora, network))

    def measure(done: int, seen: float) -> list[float]:
        prior = np.log(texts.num_tasks) / config.length if network.num_tasks else 0.0
        return [done * config.every * size, seen - prior, test_loss(learned, *held_out)]

    sets = texts.sets
    curve = train_epochs(
        trained,
        loss,
        batches,
        optimiser,
        schedule,
        epochs=texts.updates // config.every,
        seed=seed,
        checkpoint=folder / file if folder else None,
        key=f"{kind}, seed {seed}, {texts.name} of {sets.names}, {training_key(config, kind)}, "
        f"texts {checksum(*sets.train, *sets.test)}",
        measure=measure,
    )
    learned.requires_grad_(False).eval()
    return learned, Curve(*np.array(curve).T)


def _groups(network: LanguageModel, bias_rate: float) -> list[dict[str, Any]]:
    """Return an optimiser's parameters; the biases of words have a rate of their own."""
    biases = [b for b in (network.bias, network.task_bias) if b is not None]
    others = [p for p in network.parameters() if all(p is not b for b in biases)]
    return [{"params": others}, {"params": biases, "lr": bias_rate}]


def _averaged(factor: float, average: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
    """Return the exponential average, of fewer updates at the beginning."""
    weight = max(1 - factor, FIRST / (FIRST + int(count)))
    return average + weight * (new - average)


def _clip(weights: Sequence[Tensor], most: float, *_step: Any) -> None:
    clip_grad_norm_(weights, most)


def _factor(updates: int, decay: float, warm_up: int) -> Callable[[int], float]:
    """Return the factor of the rate at each update: up to 1, and at the end linearly down to 0."""

    def factor(done: int) -> float:
        falling = (updates - done) / (decay * updates) if decay else 1.0
        return min(1.0, falling, (done + 1) / warm_up)

    return factor


def training_key(config: LanguageConfig, kind: str) -> str:
    """Describe what the weights depend on: other settings leave a checkpoint valid."""
    names = [
        *("vocabulary_size", "embedding_size", "hidden_size", "length", "batch", "rate", "decay"),
        *("every", "updates", "updates_all", "updates_without_one"),
    ]
    if kind in SAME_TASK:
        names += ["transformer_rate", "warm_up", "clip", "layers", "heads"]
    else:
        names += ["smoothing", "bias_rate", "average"]
    return ", ".join(f"{name} {getattr(config, name)}" for name in names)


@torch.no_grad()
def test_loss(network: LanguageModel, tokens: Tensor, corpora: Tensor) -> float:
    """Return the loss per word in nats, with the task given; windows weigh the same."""
    return -in_chunks(network.log_prob, tokens, one_hot(corpora, network)).mean().item()


def in_chunks(run: Callable[..., Tensor], *batches: Tensor | None) -> Tensor:
    """Run over some texts at a time, on the device of the run; None stays None."""
    count = len(next(b for b in batches if b is not None))
    parts = []
    for start in range(0, count, CHUNK):
        some = tuple(None if b is None else b[start : start + CHUNK] for b in batches)
        parts.append(run(*moved(some, run_device())).cpu())
    return torch.cat(parts)
