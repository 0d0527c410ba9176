"""What is measured of every method: can it name the class, and are its probabilities right."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gbi_pyro.data.images import Images, ImageSets
from gbi_pyro.metrics.agreement import kl
from gbi_pyro.metrics.scores import summarise
from gbi_pyro.metrics.recalibration import fit_temperature, match_temperature, temper
from studies.images.config import ImagesConfig
from studies.images.methods import Method, methods, run_in_chunks
from studies.images.training import ImageNetworks
from gbi_pyro.logjoint import Passes


@dataclass(frozen=True)
class Measured:
    """One method on the test images of one seed.

    Attributes:
        method: the method.
        log_probs: its answer as it is, ``(N, K)``.
        tempered: its answer at the temperature that suits the validation labels best; None where
            no temperature does (answers worse than chance, or all of them right).
        temperature: that temperature; NaN without one.
        passes: spent on one batch.
        values: the quantities of the table, by name.
    """

    method: Method
    log_probs: Tensor
    tempered: Tensor | None
    temperature: float
    passes: Passes
    values: dict[str, float]


ACCURACY, ECE, ECE_RAW = "accuracy, %", "ECE, %", "ECE untempered, %"
BRIER, LOG_SCORE = "Brier", "-log p(label)"
KL_RAW, KL_TEMPERED = "KL(exact || it)", "KL(exact || it), one temperature"
COLUMNS = (ACCURACY, ECE_RAW, ECE, BRIER, LOG_SCORE, KL_RAW, KL_TEMPERED)


def measure(config: ImagesConfig, sets: ImageSets, networks: ImageNetworks) -> list[Measured]:
    """Run every method of one seed: temperatures from validation, numbers from test.

    ``KL_RAW`` holds a method against the exact posterior of its network as both are. Likelihoods of
    images are overconfident, so the exact posterior is tempered to the validation labels for
    ``KL_TEMPERED``, and the method to it, by the one temperature that brings it closest there.
    """
    todo = methods(config, networks)
    validation = {m.name: run_in_chunks(m, sets.validation.x, config.chunk)[0] for m in todo}
    test = {m.name: run_in_chunks(m, sets.test.x, config.chunk) for m in todo}
    temperature = {
        n: fit_temperature(q, sets.validation.y, default=math.nan) for n, q in validation.items()
    }
    measured = []
    for method in todo:
        name, exact = method.name, method.exact
        log_probs, passes = test[name]
        own = temperature[name]
        tempered = None if math.isnan(own) else temper(log_probs, own)
        values = _values(log_probs, tempered, sets.test)
        if exact is not None:
            values[KL_RAW] = _kl(test[exact][0], log_probs)
            target = temperature[exact]
            if not math.isnan(target):
                matched = match_temperature(validation[name], temper(validation[exact], target))
                values[KL_TEMPERED] = _kl(
                    temper(test[exact][0], target), temper(log_probs, matched)
                )
        measured.append(Measured(method, log_probs, tempered, own, passes, values))
    return measured


def _values(log_probs: Tensor, tempered: Tensor | None, images: Images) -> dict[str, float]:
    raw = summarise(log_probs, images.y)
    values = {
        ACCURACY: 100 * raw.accuracy,
        ECE_RAW: 100 * raw.expected_calibration_error,
    }
    if tempered is not None:
        found = summarise(tempered, images.y)
        values |= {
            ECE: 100 * found.expected_calibration_error,
            BRIER: found.brier,
            LOG_SCORE: found.log_score,
        }
    return values


def _kl(exact: Tensor, estimate: Tensor) -> float:
    return kl(exact.double().log_softmax(-1), estimate.double().log_softmax(-1)).mean().item()


def confusion(log_probs: Tensor, labels: Tensor, num_tasks: int) -> Tensor:
    """Return counts, true class by row and named class by column, ``(K, K)``."""
    pairs = labels * num_tasks + log_probs.argmax(-1)
    return torch.bincount(pairs, minlength=num_tasks**2).reshape(num_tasks, num_tasks)
