"""What is measured of every method: its accuracy, and whether its probabilities are calibrated."""

from __future__ import annotations

import math

from torch import Tensor

from gbi_pyro.data.images import ImageSets
from gbi_pyro.metrics.recalibration import fit_temperature, temper
from gbi_pyro.metrics.scores import summarise
from studies.core.divergences import Answers, mean_kl, tempered_kl
from studies.images.config import ImagesConfig
from studies.images.methods import Method
from studies.images.record import MethodScores

ACCURACY, ECE, ECE_RAW = "accuracy, %", "ECE, %", "ECE untempered, %"
BRIER, LOG_SCORE = "Brier", "-log p(label)"
KL_RAW, KL_TEMPERED = "KL(exact || it)", "KL(exact || it), one temperature"
COLUMNS = (ACCURACY, ECE_RAW, ECE, BRIER, LOG_SCORE, KL_RAW, KL_TEMPERED)


def answer(config: ImagesConfig, sets: ImageSets, todo: dict[str, Method]) -> dict[str, Answers]:
    """Run every method on the validation and the test images."""
    return {
        name: Answers(
            method.run(sets.validation.x, config.chunk)[0],
            *method.run(sets.test.x, config.chunk),
        )
        for name, method in todo.items()
    }


def score(
    sets: ImageSets, todo: dict[str, Method], answers: dict[str, Answers]
) -> dict[str, MethodScores]:
    """Score every method: temperatures from validation images, numbers from test images.

    ``KL_RAW`` compares a method with the exact posterior of its network as both are. Likelihoods of
    images are overconfident, so the exact posterior is tempered to the validation labels for
    ``KL_TEMPERED``, and the method to it, by the one temperature that brings it closest there.
    """
    temperature = {  # none suits answers worse than chance, or all of them right
        n: fit_temperature(a.validation, sets.validation.y, default=math.nan)
        for n, a in answers.items()
    }
    found = {}
    for name, (_, test, passes) in answers.items():
        values = _against_labels(test, temperature[name], sets.test.y)
        if (exact := todo[name].exact) is not None:
            values[KL_RAW] = mean_kl(answers[exact].test, test)
            if not math.isnan(temperature[exact]):
                own, others = answers[name], answers[exact]
                values[KL_TEMPERED] = tempered_kl(others, own, temperature[exact])
        found[name] = MethodScores(values, passes)
    return found


def _against_labels(log_probs: Tensor, temperature: float, labels: Tensor) -> dict[str, float]:
    raw = summarise(log_probs, labels)
    values = {ACCURACY: 100 * raw.accuracy, ECE_RAW: 100 * raw.expected_calibration_error}
    if math.isnan(temperature):
        return values
    found = summarise(temper(log_probs, temperature), labels)
    return {
        **values,
        ECE: 100 * found.expected_calibration_error,
        BRIER: found.brier,
        LOG_SCORE: found.log_score,
    }
