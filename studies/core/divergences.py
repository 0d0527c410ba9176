"""How far estimated posteriors are from the exact one, as they are and at one temperature each."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from gbi_pyro.logjoint import Passes
from gbi_pyro.metrics.agreement import kl
from gbi_pyro.metrics.recalibration import match_temperature, temper


class Answers(NamedTuple):
    """What a method inferred of the tasks of held-out elements.

    Attributes:
        validation: log probabilities of the elements that choices are made on, ``(M, K)``.
        test: log probabilities of those that numbers are reported on, ``(N, K)``.
        passes: that one call cost.
    """

    validation: Tensor
    test: Tensor
    passes: Passes


def mean_kl(exact: Tensor, estimate: Tensor) -> float:
    """Return KL(exact || estimate) in nats, the mean over elements ``(N, K)``.

    Both are normalised again in double precision: exact answers differ by rounding alone.
    """
    return kl(exact.double().log_softmax(-1), estimate.double().log_softmax(-1)).mean().item()


def tempered_kl(exact: Answers, estimate: Answers, temperature: float) -> float:
    """Return KL(exact || estimate) on test, each at a temperature chosen on validation.

    Args:
        exact: the exact posterior.
        estimate: what is compared with it; tempered to come as close as it can on validation.
        temperature: of the exact posterior, such as the one that suits the labels best.
    """
    own = match_temperature(estimate.validation, temper(exact.validation, temperature))
    return mean_kl(temper(exact.test, temperature), temper(estimate.test, own))


def passes_in_words(passes: Passes) -> str:
    """Write passes as a note.

    >>> passes_in_words(Passes(forward=1, backward=1))
    '1 forward, 1 backward'
    >>> passes_in_words(Passes(forward=1, check=1))
    '1 forward, 1 run for the prior'
    """
    words = [f"{passes.forward} forward"]
    if passes.backward:
        words.append(f"{passes.backward} backward")
    if passes.check:
        words.append(f"{passes.check} run for the prior")
    return ", ".join(words)
