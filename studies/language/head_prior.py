"""Adaptation at the head: a mixture of the known corpora's heads and a bias, under a prior (L4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from gbi_pyro.data.batches import windows
from gbi_pyro.models.language_model import LanguageModel
from gbi_pyro.models.words import Words
from studies.language.config import LanguageConfig
from studies.language.texts import Texts, windows_of_each

SMOOTHING = 0.3  # of the frequencies whose spread a prior is measured in
ITERATIONS = 60  # of L-BFGS: enough to converge
VALIDATION_WINDOWS = 20  # of each known corpus


@dataclass(frozen=True)
class HeadPrior:
    """How far from the known corpora an unseen one is expected.

    Attributes:
        bias: standard deviation of the bias of a word, in units of the standard deviation of its
            log frequency over the known corpora.
        features: standard deviation of the shift of the features that words are scored by.
        mixture: Z has a Dirichlet prior with parameters 1 + mixture / K.
    """

    bias: float
    features: float
    mixture: float = 10.0


PRIORS = tuple(HeadPrior(*sizes) for sizes in product((0.3, 0.6), (0.1, 0.25, 0.5)))
"""Those that are chosen among, on known corpora."""


@dataclass(frozen=True)
class HeadShift:
    """What moves at the head of a network.

    Attributes:
        z: the mixture of known corpora, ``(K,)``; None for a network without a task.
        bias: added to the logits, ``(V,)``.
    """

    z: Tensor | None
    bias: Tensor

    def log_prob(self, network: LanguageModel, words: Tensor) -> Tensor:
        """Return log p of each word, ``(N, T)``."""
        return _score(network, network.hidden(words, None, None), self.z, self.bias, words)


def _score(
    network: LanguageModel, hidden: Tensor, z: Tensor | None, bias: Tensor, words: Tensor
) -> Tensor:
    task = None if z is None else z.reshape(1, 1, -1)
    logits = network.logits_of(hidden, task, begins=True) + bias
    return Words(logits, validate_args=False).log_prob(words)


def map_shift(
    network: LanguageModel,
    sample: Tensor,
    prior: HeadPrior,
    spread: Tensor,
    known: Sequence[int] | None = None,
) -> HeadShift:
    """Return the maximum a posteriori mixture of heads and bias, given a sample of a new corpus.

    log p(w_t | w_<t) = log_softmax(logits_t(z) + b + E d), E the embedding, with
    z ~ Dirichlet, b_w ~ N(0, (s v_w)^2) and d ~ N(0, f^2): words of the sample move the bias of
    other words through their embeddings, and a rare word is moved as far as rare words differ.
    The maximum over z (in log space), b and d is found by L-BFGS; the network stays frozen.

    Args:
        network: with the task at the head alone, or without one.
        sample: ``(N, T)``.
        prior: s, f and that of z.
        spread: v, the standard deviation of log frequencies over known corpora, ``(V,)``.
        known: the tasks that may be mixed; all without.
    """
    num_tasks, embedding = network.num_tasks, network.embedding.weight.detach()
    sample, spread = sample.to(embedding.device), spread.to(embedding.device)
    with torch.no_grad():
        hidden = network.hidden(sample, None, None)
    indices = range(num_tasks or 0) if known is None else known
    kept = torch.tensor(indices, dtype=torch.int64, device=embedding.device)
    mixture = embedding.new_zeros(len(kept), requires_grad=True)
    bias = torch.zeros_like(spread, requires_grad=True)
    features = embedding.new_zeros(embedding.shape[1], requires_grad=True)

    def shift() -> HeadShift:
        moved = prior.bias * spread * bias + embedding @ (prior.features * features)
        if num_tasks is None:
            return HeadShift(None, moved)
        z = embedding.new_zeros(num_tasks).index_add(0, kept, mixture.softmax(0))
        return HeadShift(z, moved)

    moving = [bias, features, mixture] if num_tasks else [bias, features]
    optimiser = torch.optim.LBFGS(
        moving, max_iter=ITERATIONS, tolerance_change=1e-6, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        now = shift()
        value = -_score(network, hidden, now.z, now.bias, sample).sum()
        value = value + (bias.square().sum() + features.square().sum()) / 2
        if num_tasks:
            value = value - prior.mixture * mixture.log_softmax(0).mean()
        value.backward()
        return value

    optimiser.step(loss)
    with torch.no_grad():
        return shift()


def spread_of(texts: Texts, known: Sequence[int] | None = None) -> Tensor:
    """Return the standard deviation over known corpora of each log frequency, ``(V,)``."""
    chosen = slice(None) if known is None else list(known)
    return texts.log_frequencies(SMOOTHING)[chosen].std(0, correction=0).float()


def choose_prior(
    config: LanguageConfig,
    texts: Texts,
    network: LanguageModel,
    size: int,
    priors: Sequence[HeadPrior] = PRIORS,
) -> HeadPrior:
    """Return the prior under which known corpora are adapted to best, each without its own head.

    Each known corpus is taken for a new one in turn: its head is left out of the mixture and its
    frequencies out of the spread, a sample of its training text adapts the rest, and its dev text
    is scored. (The features were learned on it too, which no choice among heads can undo.)

    Args:
        config: the study.
        texts: the known corpora.
        network: trained on them.
        size: words of the sample.
        priors: those to choose among.
    """
    dev, _ = windows_of_each(texts.sets.dev, config.length, VALIDATION_WINDOWS, seed=0)
    samples = [cut_sample(text, size, config.length, seed=0) for text in texts.sets.train]

    def score(prior: HeadPrior) -> float:
        total = 0.0
        for k, held_out in enumerate(dev.chunk(texts.num_tasks)):
            known = [j for j in range(texts.num_tasks) if j != k]
            shift = map_shift(network, samples[k], prior, spread_of(texts, known), known)
            with torch.no_grad():
                total -= shift.log_prob(network, held_out.to(shift.bias.device)).mean().item()
        return total

    return min(priors, key=score)


def cut_sample(text: Tensor, size: int, length: int, seed: int) -> Tensor:
    """Cut a sample at a random place of a text, in windows of about ``length`` words.

    Args:
        text: ids, ``(N,)``.
        size: words of the sample.
        length: of a window at most, so that hardly a word is left over.
        seed: of the place.
    """
    draw = torch.Generator().manual_seed(seed)
    start = int(torch.randint(len(text) - size + 1, (), generator=draw))
    return windows(text[start : start + size], size // -(-size // length))
