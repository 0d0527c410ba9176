"""The corpus after n words: every inference compared with enumeration and naive Bayes (L3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gbi_pyro.inference.calibration import Calibration, calibrate
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.inference.iterative import IterativeGradient
from gbi_pyro.metrics.agreement import kl
from gbi_pyro.metrics.recalibration import fit_temperature, temper
from gbi_pyro.metrics.scores import summarise
from gbi_pyro.models.language_model import LanguageModel
from gbi_pyro.posterior import TaskPosterior
from studies.core.device import run_device
from studies.language.config import LanguageConfig
from studies.language.texts import Texts, windows_of_each
from studies.language.training import CHUNK, context, in_chunks

ONE_STEP, CALIBRATED, ITERATIVE = "one step", "one step, calibrated", "iterative"
ENUMERATION, NAIVE_BAYES, EXACT = "enumeration", "naive Bayes", "exact posterior"
TEMPERED = "one step, calibrated and tempered"
TO_EXACT = "one step, calibrated to the exact posterior"
ITERATIVE_WINDOWS = 20  # of each corpus: it costs many passes
SMOOTHING = (0.01, 0.03, 0.1, 0.3, 1.0)  # of naive Bayes, chosen on dev


@dataclass(frozen=True)
class Identified:
    """How well the corpus is inferred after each number of words, by every method.

    Attributes:
        accuracy: fraction of texts, by method and number of words.
        calibration_error: ECE of the posterior, likewise.
        kl: mean KL in nats, by reference, estimate and number of words.
        calibration: fitted to enumeration on dev, one for all numbers of words.
    """

    accuracy: dict[str, dict[int, float]]
    calibration_error: dict[str, dict[int, float]]
    kl: dict[str, dict[str, dict[int, float]]]
    calibration: Calibration

    def short_of(self, reference: str, n: int) -> float:
        """Return how much less accurate one calibrated step is than a reference, after n words."""
        return self.accuracy[reference][n] - self.accuracy[CALIBRATED][n]


COMPARED = {
    ENUMERATION: (ONE_STEP, CALIBRATED, ITERATIVE),
    EXACT: (ENUMERATION, TO_EXACT),
}
"""The divergences that are measured: from a reference to estimates."""


def first_of_each(values: Tensor, count: int, num_tasks: int) -> Tensor:
    """Return the first ``count`` texts of each corpus, of as many of each in a row."""
    return values.reshape(num_tasks, -1, *values.shape[1:])[:, :count].flatten(0, 1)


def identify(config: LanguageConfig, texts: Texts, network: LanguageModel) -> Identified:
    """Infer the corpus of test texts after n words; calibrations are fitted on dev."""
    _, labels = judged_windows(config, texts)
    found, calibration = infer_corpora(config, texts, network)

    def few(values: Tensor, count: int) -> Tensor:
        return first_of_each(values, count // texts.num_tasks, texts.num_tasks)

    scores = {
        method: {n: summarise(q, few(labels, len(q))) for n, q in by_length.items()}
        for method, by_length in found.items()
    }
    return Identified(
        accuracy={m: {n: s.accuracy for n, s in by.items()} for m, by in scores.items()},
        calibration_error={
            m: {n: s.expected_calibration_error for n, s in by.items()} for m, by in scores.items()
        },
        kl={
            reference: {
                estimate: {
                    n: kl(few(found[reference][n], len(q)), q).mean().item()
                    for n, q in found[estimate].items()
                }
                for estimate in estimates
            }
            for reference, estimates in COMPARED.items()
            if reference in found
        },
        calibration=calibration,
    )


def judged_windows(config: LanguageConfig, texts: Texts) -> tuple[Tensor, Tensor]:
    """Return the test texts, ``(N, T)``, and the corpus of each; those of one follow each other."""
    return windows_of_each(texts.sets.test, max(config.lengths), config.judge_windows, seed=0)


def infer_corpora(
    config: LanguageConfig, texts: Texts, network: LanguageModel
) -> tuple[dict[str, dict[int, Tensor]], Calibration]:
    """Return the posterior over corpora by method and number of words, ``(N, K)`` each.

    One calibration to enumeration serves all numbers of words. Enumeration itself is overconfident,
    the more so the longer a text that stays on one topic: a temperature for each number of words,
    fitted to the labels of dev, comes on top for ``TEMPERED``. Numbers of words beyond what a
    network reads are left out.
    """
    longest = max(config.lengths)
    lengths = tuple(n for n in config.lengths if n <= context(network))
    fit, true = windows_of_each(texts.sets.dev, longest, config.fit_windows, seed=0)
    tokens, _ = judged_windows(config, texts)
    fit, tokens = fit[:, : max(lengths)], tokens[:, : max(lengths)]
    one = {n: one_step(network, fit[:, :n]) for n in lengths}
    enumerated = enumerate_prefixes(network, fit, lengths)
    calibration = calibrate_prefixes(one, enumerated)
    found: dict[str, dict[int, Tensor]] = {
        ENUMERATION: enumerate_prefixes(network, tokens, lengths)
    }
    plain = {n: _log_probs(one_step(network, tokens[:, :n])) for n in lengths}
    found[ONE_STEP] = plain
    found[CALIBRATED] = {n: _apply(calibration, q, n) for n, q in plain.items()}
    found[TEMPERED] = {}
    for n, parts in one.items():  # words of a text are alike: the more, the more overconfident
        temperature = fit_temperature(_apply(calibration, _log_probs(parts), n), true, default=1.0)
        found[TEMPERED][n] = temper(found[CALIBRATED][n], temperature)
    few = first_of_each(tokens, ITERATIVE_WINDOWS, texts.num_tasks)
    iterative = IterativeGradient(config.iterative_steps, config.iterative_rate, "adam")
    found[ITERATIVE] = {
        n: in_chunks(lambda x: iterative(network, x).logits().squeeze(1), few[:, :n]).double()
        for n in lengths
    }
    found[ITERATIVE] = {n: q.log_softmax(-1) for n, q in found[ITERATIVE].items()}
    found[NAIVE_BAYES] = naive_bayes(texts, fit, tokens, lengths)
    if texts.exact is not None:
        exact_fit, exact = texts.exact(fit), texts.exact(tokens)
        found[EXACT] = {n: exact[:, n - 1] for n in lengths}
        to_exact = calibrate_prefixes(one, {n: exact_fit[:, n - 1] for n in lengths})
        found[TO_EXACT] = {n: _apply(to_exact, q, n) for n, q in plain.items()}
    return found, calibration


def one_step(network: LanguageModel, tokens: Tensor) -> list[TaskPosterior]:
    """Run one step on some texts at a time."""
    return [OneStepGradient()(network, part.to(run_device())) for part in tokens.split(CHUNK)]


def enumerate_prefixes(
    network: LanguageModel, tokens: Tensor, lengths: tuple[int, ...]
) -> dict[int, Tensor]:
    """Return the posterior under every task after n words, ``(N, K)``, for all n in K passes."""
    each_word = in_chunks(network.log_likelihoods, tokens).double()
    so_far = each_word.cumsum(1).log_softmax(-1)  # a uniform prior
    return {n: so_far[:, n - 1] for n in lengths}


def calibrate_prefixes(
    one: dict[int, list[TaskPosterior]], exact: dict[int, Tensor]
) -> Calibration:
    """Fit one calibration to texts of all lengths."""
    cheap, target = [], []
    for n, parts in one.items():
        for part, p in zip(parts, exact[n].split(CHUNK), strict=True):
            cheap.append(part)
            target.append(replace(part, log_probs={"z": p.unsqueeze(1)}))
    return calibrate(cheap, target)


def _log_probs(parts: list[TaskPosterior]) -> Tensor:
    return torch.cat([q.logits().squeeze(1).cpu() for q in parts]).double().log_softmax(-1)


def _apply(calibration: Calibration, log_probs: Tensor, n: int) -> Tensor:
    return calibration(log_probs, torch.full((len(log_probs),), float(n)).double())


def naive_bayes(
    texts: Texts, dev: Tensor, tokens: Tensor, lengths: tuple[int, ...]
) -> dict[int, Tensor]:
    """Return the posterior of a unigram naive Bayes fitted on the training text, by n.

    Its smoothing is the one that forecasts the corpora of dev texts best, over all n.
    """
    K = texts.num_tasks
    true = torch.arange(K).repeat_interleave(len(dev) // K)

    def answers(alpha: float, x: Tensor) -> Callable[[int], Tensor]:
        so_far = texts.log_frequencies(alpha).mT[x].cumsum(1).log_softmax(-1)  # (N, T, K)
        return lambda n: so_far[:, n - 1]

    def score(alpha: float) -> float:
        q = answers(alpha, dev)
        return sum(summarise(q(n), true).log_score for n in lengths)

    best = answers(min(SMOOTHING, key=score), tokens)
    return {n: best(n) for n in lengths}
