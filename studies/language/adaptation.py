"""Adaptation to a corpus that was never seen, by Z alone and by baselines (L4)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from gbi_pyro.inference.iterative import IterativeGradient
from gbi_pyro.models.language_model import LanguageModel
from gbi_pyro.models.words import Words
from studies.core.device import run_device
from studies.core.training import descend
from studies.language.config import LanguageConfig
from studies.language.head_prior import choose_prior, cut_sample, map_shift, spread_of
from studies.language.texts import Texts, windows_of_each
from studies.language.training import HEAD, PAPER, PLAIN, in_chunks

STEPS, EVERY, SAMPLES = 30, 3, 3
DEV_WINDOWS, TEST_WINDOWS = 40, 80
WordLogProbs = Callable[[Tensor], Tensor]
"""From texts ``(N, T)`` to log p of each word, ``(N, T)``."""

ADAPTING = (PLAIN, PAPER, HEAD)  # the networks that adapt to a corpus left out
ZERO_SHOT, FINE_TUNED = "zero-shot", "all weights"
BEST_KNOWN, ON_SIMPLEX, FREE = "best known corpus", "Z on the simplex", "free Z"
INPUT, BIAS, MIXED = "input vector", "bias under a prior", "Z and bias under a prior"
PRIOR_WORDS = 100  # of the samples of known corpora that a prior is chosen on
Way = tuple[str, int, str]
"""The network that adapts, how many words it adapts to, 0 for none, and the method."""


@dataclass(frozen=True)
class Adaptation:
    """The losses on an unseen corpus after every way to adapt.

    Attributes:
        corpus: its name.
        losses: per word on each of its test texts, in nats, mean over samples, ``(N,)``.
    """

    corpus: str
    losses: dict[Way, Tensor]


@dataclass(frozen=True)
class Adapted:
    """The result of one way to adapt to an unseen corpus.

    Attributes:
        corpus: its name.
        network: the kind of network that adapts.
        method: the way.
        words: words of the sample it adapted to; 0 for none.
        loss: per word on the corpus's test text, in nats, mean over samples and seeds.
        gain: over the same network's zero-shot loss, in nats per word.
        low: lower end of its 95 % interval over the test texts.
        high: upper end.
    """

    corpus: str
    network: str
    method: str
    words: int
    loss: float
    gain: float
    low: float
    high: float


def compare_ways(records: Sequence[Adaptation]) -> list[Adapted]:
    """Return the result of each way to adapt to one corpus, averaged over seeds."""
    means = {w: torch.stack([r.losses[w] for r in records]).mean(0) for w in records[0].losses}
    found = []
    for (network, words, method), losses in means.items():
        gains = means[network, 0, ZERO_SHOT] - losses
        half = 1.96 * gains.std().item() / len(gains) ** 0.5
        gain, loss, corpus = gains.mean().item(), losses.mean().item(), records[0].corpus
        found.append(Adapted(corpus, network, method, words, loss, gain, gain - half, gain + half))
    return found


def adapt(
    config: LanguageConfig, texts: Texts, kind: str, network: LanguageModel
) -> dict[Way, Tensor]:
    """Adapt a network to the corpus that was left out, in every way, to samples of every size.

    A network with a task starts from Z at maximum entropy, and moves Z or all weights; a plain one
    moves an input vector or all weights. How many steps an optimiser takes is chosen on the dev
    text of the corpus. Where no task enters before the head, a bias moves too, to the maximum under
    a prior that is chosen on the known corpora: nothing is chosen on the one left out.
    """
    assert texts.unseen is not None
    (train,) = texts.unseen.train
    dev, _ = windows_of_each(texts.unseen.dev, config.length, DEV_WINDOWS, seed=0)
    test, _ = windows_of_each(texts.unseen.test, config.length, TEST_WINDOWS, seed=0)
    found = {(kind, 0, ZERO_SHOT): _each_text(_given(network, _middle(network)), test)}
    prior = None if kind == PAPER else choose_prior(config, texts, network, PRIOR_WORDS)
    for size in config.adaptation_words:
        by_method: dict[str, list[Tensor]] = {}
        for i in range(SAMPLES):
            sample = cut_sample(train, size, config.length, seed=1000 + i).to(run_device())
            ways_by_method = _ways(network, sample)
            if prior:
                shift = map_shift(network, sample, prior, spread_of(texts))
                moved: WordLogProbs = partial(shift.log_prob, network)
                ways_by_method[MIXED if network.num_tasks else BIAS] = [partial(_same, moved)]
            for method, ways in ways_by_method.items():
                best = min(ways, key=lambda way: _each_text(way(), dev).mean().item())
                by_method.setdefault(method, []).append(_each_text(best(), test))
        for method, losses in by_method.items():
            found[kind, size, method] = torch.stack(losses).mean(0)
    return found


def _ways(network: LanguageModel, sample: Tensor) -> dict[str, list[Callable[[], WordLogProbs]]]:
    """Return, for every method, the networks along its path, to choose among on dev."""
    weights = fine_tuned(network, sample)
    if network.num_tasks is None:
        return {INPUT: input_vectors(network, sample), FINE_TUNED: weights}
    scores = in_chunks(network.log_likelihoods, sample).sum((0, 1))
    best_known = torch.nn.functional.one_hot(scores.argmax(), len(scores)).to(scores)

    def points(zs: Iterable[Tensor]) -> list[Callable[[], WordLogProbs]]:
        return [partial(_given, network, z.reshape(1, 1, -1)) for z in zs]

    return {
        BEST_KNOWN: points([best_known]),
        ON_SIMPLEX: points(z_path(network, sample, "simplex")[::EVERY]),
        FREE: points(z_path(network, sample, "free")[::EVERY]),
        FINE_TUNED: weights,
    }


def _middle(network: LanguageModel) -> Tensor | None:
    return network.uniform(1) if network.num_tasks else None


def one_task(network: LanguageModel) -> Callable[[Tensor], None]:
    """Return the Pyro model of a text cut into windows that all have one task."""

    def model(words: Tensor) -> None:
        prior = dist.OneHotCategorical(logits=network.bias.new_zeros(network.num_tasks or 0))
        z = pyro.sample("z", prior, infer={"task": True})
        sequences, steps = words.shape
        logits = network.logits(words, z.expand(sequences, 1, -1))
        with pyro.plate("sequence", sequences, dim=-2), pyro.plate("time", steps, dim=-1):
            pyro.sample("words", Words(logits, validate_args=False), obs=words)

    return model


def z_path(network: LanguageModel, sample: Tensor, space: str) -> Tensor:
    """Optimise one Z for a whole sample; returns it after 0, 1, ... steps, ``(steps + 1, K)``."""
    infer = IterativeGradient(
        STEPS,
        rate=0.1,
        optim="adam",
        temperature=0.0,
        space=space,  # type: ignore[arg-type]
        keep_path=True,
    )
    return infer(one_task(network), sample).path["z"]


def input_vectors(plain: LanguageModel, sample: Tensor) -> list[Callable[[], WordLogProbs]]:
    """Optimise a constant vector beside every word of a network without a task."""
    vector = plain.bias.new_zeros(plain.embedding.embedding_dim, requires_grad=True)

    def snapshot() -> Callable[[], WordLogProbs]:
        now = vector.detach().clone()
        return lambda: partial(_beside, plain, now)

    return _along(partial(_beside, plain, vector), [vector], 0.02, sample, snapshot)


def _beside(plain: LanguageModel, vector: Tensor, words: Tensor) -> Tensor:
    """Return log p of each word with a vector added to the embedding of every word read."""
    hook = plain.embedding.register_forward_hook(lambda _module, _words, out: out + vector)
    try:
        return plain.log_prob(words)
    finally:
        hook.remove()


def fine_tuned(network: LanguageModel, sample: Tensor) -> list[Callable[[], WordLogProbs]]:
    """Train all weights on the sample, Z staying at maximum entropy if there is one."""
    moving = copy.deepcopy(network).requires_grad_()
    z = _middle(moving)

    def snapshot() -> Callable[[], WordLogProbs]:
        return partial(_restored, network, copy.deepcopy(moving.state_dict()), z)

    return _along(_given(moving, z), moving.parameters(), 1e-3, sample, snapshot)


def _along(
    log_probs: WordLogProbs,
    moving: Iterable[Tensor],
    rate: float,
    sample: Tensor,
    snapshot: Callable[[], Callable[[], WordLogProbs]],
) -> list[Callable[[], WordLogProbs]]:
    """Descend the loss on the sample by Adam; returns the snapshots after 0, 3, ... steps."""
    found = []

    def steps() -> Iterator[tuple[Tensor]]:
        for step in range(STEPS + 1):
            if step % EVERY == 0:
                found.append(snapshot())
            if step < STEPS:
                yield (sample,)

    descend(lambda words: -log_probs(words).mean(), steps(), torch.optim.Adam(moving, lr=rate))
    return found


def _same(log_probs: WordLogProbs) -> WordLogProbs:
    return log_probs


def _restored(network: LanguageModel, weights: dict[str, Tensor], z: Tensor | None) -> WordLogProbs:
    restored = copy.deepcopy(network)
    restored.load_state_dict(weights)
    return _given(restored, z)


def _given(network: LanguageModel, z: Tensor | None) -> WordLogProbs:
    """Return the network with one task for all texts."""
    if z is None:
        return network.log_prob
    return lambda words: network.log_prob(words, z.expand(len(words), 1, -1))


def _each_text(log_probs: WordLogProbs, tokens: Tensor) -> Tensor:
    """Return the loss per word of each text, ``(N,)``."""
    with torch.no_grad():
        return -in_chunks(log_probs, tokens).mean(-1)
