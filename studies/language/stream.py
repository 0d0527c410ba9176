"""A text whose corpus changes: the posterior word by word, filtered and smoothed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gbi_pyro.inference.calibration import calibrate
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.inference.log_likelihoods import log_likelihoods
from gbi_pyro.inference.stepwise import stepwise
from gbi_pyro.inference.task_chain import TaskChain
from gbi_pyro.models.language_model import LanguageModel
from studies.core.device import run_device
from studies.language.config import LanguageConfig
from studies.language.identify import CALIBRATED, ENUMERATION
from studies.language.texts import Texts, windows_of_each
from studies.language.training import context

OUTPUTS: tuple[Literal["filtered"], Literal["smoothed"]] = ("filtered", "smoothed")


@dataclass(frozen=True)
class Stream:
    """A text made of pieces of several corpora, and the corpus inferred at each word.

    Attributes:
        labels: the corpus of each word, ``(T,)``.
        probs: by method, ``(T, K)``.
    """

    labels: Tensor
    probs: dict[str, Tensor]

    def accuracy(self, method: str) -> float:
        """Return the fraction of words whose corpus is inferred."""
        return (self.probs[method].argmax(-1) == self.labels).double().mean().item()


def read_stream(config: LanguageConfig, texts: Texts, network: LanguageModel) -> Stream:
    """Read a stream of pieces word by word under a sticky prior.

    The evidence of each word is one calibrated step, or enumeration, of ``stepwise``: given the
    words before it, carried at maximum entropy. A network that reads no longer
    texts reads windows, see ``read_windows``. The chain stays with probability 1 - 1 / piece.
    """
    K, each = texts.num_tasks, -(-config.pieces // texts.num_tasks)
    cut, corpora = windows_of_each(texts.sets.test, config.piece, each, seed=1)
    order = torch.randperm(len(cut), generator=torch.Generator().manual_seed(1))[: config.pieces]
    tokens = cut[order].flatten()
    labels = corpora[order].repeat_interleave(config.piece)
    fit, _ = windows_of_each(texts.sets.dev, config.piece, each, seed=1)
    longest = int(min(context(network), len(tokens)))
    steps = stepwise(network, fit[:, :longest].to(run_device()))
    calibration = calibrate(OneStepGradient()(steps), Enumeration()(steps))
    chain = TaskChain.sticky(K, 1 / config.piece)
    windows = stepwise(network, read_windows(tokens, longest).to(run_device()))
    evidence = {
        CALIBRATED: log_likelihoods(OneStepGradient(calibration=calibration)(windows)),
        ENUMERATION: log_likelihoods(Enumeration()(windows)),
    }
    evidence = {name: join_windows(e.cpu(), len(tokens)) for name, e in evidence.items()}
    if texts.emission is not None:
        evidence["exact chain"] = texts.emission(tokens.unsqueeze(0))[0]
    found = {name: chain.posterior(e) for name, e in evidence.items()}
    probs = {
        f"{name}, {output}": getattr(q, f"log_{output}").exp()
        for output in OUTPUTS
        for name, q in found.items()
    }
    return Stream(labels, probs)


def read_windows(tokens: Tensor, longest: int) -> Tensor:
    """Cut a text into windows that overlap by half.

    Args:
        tokens: ``(T,)``.
        longest: words of a window, at most T.

    Returns:
        ``(N, longest)``; the last one is filled up.
    """
    stride = max(1, longest // 2)
    filled = nn.functional.pad(tokens, (0, (longest - len(tokens)) % stride))
    return filled.unfold(0, longest, stride)


def join_windows(values: Tensor, words: int) -> Tensor:
    """Return what windows say of each word of a text, from the first window that reads it.

    Beyond the first window every word is then read with half a window before it, or more.

    Args:
        values: of the words of ``read_windows``, ``(N, longest, ...)``.
        words: T.
    """
    stride = max(1, values.shape[1] // 2)
    return torch.cat([values[0], values[1:, -stride:].flatten(0, 1)])[:words]
