"""Curves that are drawn together differ, in grey and for readers who see no red or green."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from studies.core.style import STYLES

TOGETHER = {
    "task inputs": (
        *("plain LSTM", "plain, same start", "true Z"),
        *("shuffled Z", "random Z", "constant Z", "frozen random Z"),
    ),
    "estimates": (
        *("exact posterior", "one step", "calibrated", "second order", "iterative"),
        *("enumeration", "classifier", "naive Bayes"),
    ),
    "benchmark": (
        *("exact posterior", "one step + m rescored", "calibrated one step", "iterative"),
        *("second-order joint + m rescored", "second-order joint (1 and 2 rounds)", "prior"),
        *("product of exact marginals", "coordinate gradient", "Gibbs", "Gibbs with gradients"),
        *("SMC", "your own"),
    ),
    "unseen means": (*("GBI, free Z", "GBI, Z on the simplex", "LSTM", "LSTM, inputs optimised"),),
    "ways to condition": (
        *("concat", "additive", "gain", "mask", "film", "hypernetwork", "affine"),
    ),
    "out-of-distribution scores": (
        *("maximum of one step, tempered", "cosine of residual and class"),
        *("classifier, largest logit", "PCA residual, no network"),
    ),
    "labels": ("GBI-LSTM", "plain LSTM", "LSTM with shuffled Z", "GBI-LSTM without labels"),
    "online": ("no labels, online", "exact filter", "network with labels", "Gaussian HMM"),
    "few labels": (
        *("found first, then matched and clamped", "clamped from a random start", "Gaussian HMM"),
    ),
    "few labels of images": (
        *("EM, one task a class", "EM, several tasks a class", "classifier of the same encoder"),
        "classifier initialised from the autoencoder",
    ),
    "language": ("plain LSTM", "task at the input", "task at the head", "shuffled task"),
    "adaptation": (
        "best known corpus",
        "Z on the simplex",
        "free Z",
        "all weights",
        "input vector",
    ),
    "digits in sequence": (
        *("Z given, concatenated", "Z given, masks", "without Z", "Z shuffled, concatenated"),
        *("Z shuffled, masks", "Z given, tasks mixed"),
    ),
}


def linear(colour: str) -> np.ndarray:
    return np.array(to_rgb(colour)) ** 2.2


def lightness(colour: str) -> float:
    """Return CIE L* of a colour: what is left of it in grey, from 0 to 100."""
    return float(116 * np.cbrt(linear(colour) @ [0.2126, 0.7152, 0.0722]) - 16)


@pytest.mark.parametrize("figure", TOGETHER)
def test_curves_drawn_together_differ_in_marker_and_without_colour(figure: str) -> None:
    styles = {name: STYLES[name] for name in TOGETHER[figure]}
    for (a, one), (b, other) in itertools.combinations(styles.items(), 2):
        assert one.marker != other.marker, (a, b)
        apart = abs(lightness(one.colour) - lightness(other.colour))
        assert (one.dash, one.width > 3) != (other.dash, other.width > 3) or apart > 15, (a, b)


def test_the_exact_posterior_is_wide_and_one_step_narrow_and_darker() -> None:
    exact, estimate = STYLES["exact posterior"], STYLES["one step"]
    assert exact.width > 3 * estimate.width
    assert lightness(exact.colour) > lightness(estimate.colour) + 30


def test_controls_are_grey_and_the_true_task_is_not() -> None:
    for control in ("shuffled Z", "random Z", "constant Z", "frozen random Z", "plain LSTM"):
        assert np.ptp(to_rgb(STYLES[control].colour)) == 0
    assert np.ptp(to_rgb(STYLES["true Z"].colour)) > 0.5


def test_every_colour_can_be_seen_on_white() -> None:
    assert all(lightness(style.colour) < 75 for style in STYLES.values())
