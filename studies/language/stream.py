"""A text whose corpus changes: the posterior word by word, filtered and smoothed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gbi_pyro.inference.calibration import calibrate
from gbi_pyro.inference.chain import BayesFilter
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.inference.stepwise import stepwise
from gbi_pyro.inference.task_chain import TaskChain
from gbi_pyro.models.language import LanguageLSTM
from studies.language.config import LanguageConfig
from studies.language.texts import Texts, windows_of_each

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


def read_stream(config: LanguageConfig, texts: Texts, network: LanguageLSTM) -> Stream:
    """Read a stream of pieces word by word under a sticky prior.

    The evidence of each word is one calibrated step, or enumeration, of ``stepwise``: given the
    words before it, carried at maximum entropy. The chain stays with probability 1 - 1 / piece.
    """
    K, each = texts.num_tasks, -(-config.pieces // texts.num_tasks)
    cut, corpora = windows_of_each(texts.sets.test, config.piece, each, seed=1)
    order = torch.randperm(len(cut), generator=torch.Generator().manual_seed(1))[: config.pieces]
    tokens = cut[order].reshape(1, -1)
    labels = corpora[order].repeat_interleave(config.piece)
    fit, _ = windows_of_each(texts.sets.dev, config.piece, each, seed=1)
    steps = stepwise(network, fit)
    calibration = calibrate(OneStepGradient()(steps), Enumeration()(steps))
    chain = TaskChain.sticky(K, 1 / config.piece)
    words = stepwise(network, tokens)
    probs = {}
    for output in OUTPUTS:
        for name, infer in (
            ("one step, calibrated", OneStepGradient(calibration=calibration)),
            ("enumeration", Enumeration()),
        ):
            found = BayesFilter(infer, chain, output)(words)
            probs[f"{name}, {output}"] = found.probs()[0]
    if texts.emission is not None:
        exact = chain.posterior(texts.emission(tokens)[0])
        probs["exact chain, filtered"] = exact.log_filtered.exp()
        probs["exact chain, smoothed"] = exact.log_smoothed.exp()
    return Stream(labels, probs)
