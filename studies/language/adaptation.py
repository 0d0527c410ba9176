"""Adapting to a corpus that was never seen, by Z alone and by its rivals (L4)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from gbi_pyro.data.batches import windows
from studies.language.config import LanguageConfig
from studies.language.texts import Texts, windows_of_each
from studies.language.training import in_chunks
from gbi_pyro.inference.iterative import IterativeGradient
from gbi_pyro.models.language import LanguageLSTM
from gbi_pyro.models.words import Words

STEPS, LOOK, SAMPLES = 30, 3, 3
DEV_WINDOWS, TEST_WINDOWS = 40, 80
LookAt = Callable[[Tensor], Tensor]
"""From texts ``(N, T)`` to log p of each word, ``(N, T)``."""

ZERO_SHOT, FINE_TUNED = "zero-shot", "all weights"
BEST_KNOWN, ON_SIMPLEX, FREE = "best known corpus", "Z on the simplex", "free Z"
INPUT = "input vector"


@dataclass(frozen=True)
class Adapted:
    """What one way to adapt came to on an unseen corpus.

    Attributes:
        corpus: that nobody had seen.
        network: the kind of network that adapts.
        method: the way.
        words: words of the sample it adapted to; 0 for none.
        loss: per word on the corpus's test text, in nats, mean over samples.
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


def adapt(config: LanguageConfig, texts: Texts, kind: str, network: LanguageLSTM) -> list[Adapted]:
    """Adapt a network to the corpus that was left out, in every way, to samples of every size.

    A told network starts from Z at maximum entropy, and moves Z or all weights; a plain one moves
    an input vector or all weights. How many steps an optimiser takes is chosen on the dev text of
    the corpus, for all alike.
    """
    assert texts.unseen is not None
    (train,), corpus = texts.unseen.train, texts.unseen.names[0]
    dev, _ = windows_of_each(texts.unseen.dev, config.length, DEV_WINDOWS, seed=0)
    test, _ = windows_of_each(texts.unseen.test, config.length, TEST_WINDOWS, seed=0)
    before = _each_text(_told(network, _middle(network)), test)
    found = [_compared(corpus, kind, ZERO_SHOT, 0, before, before)]
    for size in config.adaptation_words:
        by_method: dict[str, list[Tensor]] = {}
        for i in range(SAMPLES):
            draw = torch.Generator().manual_seed(1000 + i)
            start = int(torch.randint(len(train) - size + 1, (), generator=draw))
            length = size // -(-size // config.length)  # so that hardly a word is left over
            sample = windows(train[start : start + size], length)
            for method, ways in _ways(network, sample).items():
                best = min(ways, key=lambda way: _each_text(way(), dev).mean().item())
                by_method.setdefault(method, []).append(_each_text(best(), test))
        for method, losses in by_method.items():
            mean = torch.stack(losses).mean(0)
            found.append(_compared(corpus, kind, method, size, mean, before))
    return found


def _ways(network: LanguageLSTM, sample: Tensor) -> dict[str, list[Callable[[], LookAt]]]:
    """Return, for every method, the networks it passed through, to choose among on dev."""
    weights = list(fine_tuned(network, sample))
    if network.num_tasks is None:
        return {INPUT: list(input_vectors(network, sample)), FINE_TUNED: weights}
    evidence = in_chunks(network.log_likelihoods, sample).sum((0, 1))
    best_known = torch.nn.functional.one_hot(evidence.argmax(), len(evidence)).to(evidence)

    def points(zs: Iterable[Tensor]) -> list[Callable[[], LookAt]]:
        return [partial(_told, network, z.reshape(1, 1, -1)) for z in zs]

    return {
        BEST_KNOWN: points([best_known]),
        ON_SIMPLEX: points(z_path(network, sample, "simplex")[::LOOK]),
        FREE: points(z_path(network, sample, "free")[::LOOK]),
        FINE_TUNED: weights,
    }


def _middle(network: LanguageLSTM) -> Tensor | None:
    return network.uniform(1) if network.num_tasks else None


def one_task(network: LanguageLSTM) -> Callable[[Tensor], None]:
    """Return the Pyro model of a text cut into windows that all have one task."""

    def model(words: Tensor) -> None:
        prior = dist.OneHotCategorical(logits=network.bias.new_zeros(network.num_tasks or 0))
        z = pyro.sample("z", prior, infer={"task": True})
        sequences, steps = words.shape
        logits = network.logits(words, z.expand(sequences, 1, -1))
        with pyro.plate("sequence", sequences, dim=-2), pyro.plate("time", steps, dim=-1):
            pyro.sample("words", Words(logits, validate_args=False), obs=words)

    return model


def z_path(network: LanguageLSTM, sample: Tensor, space: str) -> Tensor:
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


def input_vectors(plain: LanguageLSTM, sample: Tensor) -> Iterator[Callable[[], LookAt]]:
    """Optimise a constant vector beside every word of a network without a task."""
    vector = torch.zeros(plain.embedding.embedding_dim, requires_grad=True)
    optimiser = torch.optim.Adam([vector], lr=0.02)
    for step in range(STEPS + 1):
        if step % LOOK == 0:
            now = vector.detach().clone()
            yield lambda now=now: partial(_beside, plain, now)  # type: ignore[misc]
        optimiser.zero_grad()
        (-_beside(plain, vector, sample).mean()).backward()
        optimiser.step()


def _beside(plain: LanguageLSTM, vector: Tensor, words: Tensor) -> Tensor:
    """Return log p of each word with a vector added to the embedding of every word read."""
    hook = plain.embedding.register_forward_hook(lambda _module, _words, out: out + vector)
    try:
        return plain.log_prob(words)
    finally:
        hook.remove()


def fine_tuned(network: LanguageLSTM, sample: Tensor) -> Iterator[Callable[[], LookAt]]:
    """Train all weights on the sample, Z staying at maximum entropy if there is one."""
    moving = copy.deepcopy(network).requires_grad_()
    optimiser = torch.optim.Adam(moving.parameters(), lr=1e-3)
    z = _middle(moving)
    for step in range(STEPS + 1):
        if step % LOOK == 0:
            yield partial(_as_it_was, network, copy.deepcopy(moving.state_dict()), z)
        optimiser.zero_grad()
        (-_told(moving, z)(sample).mean()).backward()
        optimiser.step()


def _as_it_was(network: LanguageLSTM, weights: dict[str, Tensor], z: Tensor | None) -> LookAt:
    restored = copy.deepcopy(network)
    restored.load_state_dict(weights)
    return _told(restored, z)


def _told(network: LanguageLSTM, z: Tensor | None) -> LookAt:
    """Return the network with one task for all texts."""
    if z is None:
        return network.log_prob
    return lambda words: network.log_prob(words, z.expand(len(words), 1, -1))


def _each_text(look: LookAt, tokens: Tensor) -> Tensor:
    """Return the loss per word of each text, ``(N,)``."""
    with torch.no_grad():
        return -in_chunks(look, tokens).mean(-1)


def _compared(
    corpus: str, kind: str, method: str, words: int, losses: Tensor, before: Tensor
) -> Adapted:
    gains = before - losses
    half = 1.96 * gains.std().item() / len(gains) ** 0.5
    gain = gains.mean().item()
    loss = losses.mean().item()
    return Adapted(corpus, kind, method, words, loss, gain, gain - half, gain + half)
