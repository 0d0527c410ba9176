"""How curves look in the figures of all studies: one style for each meaning."""

from __future__ import annotations

from gbi_pyro.plots import Style

_SOLID, _DASHED, _DOTTED, _MIXED = "-", (0, (4, 1)), (0, (1, 1)), (0, (4, 1, 1, 1))
_LONG, _DENSE = (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1))
_BLUE, _SKY, _GREEN, _OLIVE = "#003f7d", "#56b4e9", "#009e73", "#8a8a2b"
_ORANGE, _RED, _PINK, _WINE = "#e69f00", "#d55e00", "#cc79a7", "#882255"

_NAMES: dict[Style, tuple[str, ...]] = {
    # Inference: the exact posterior lies behind, one step is thin and dark.
    Style("0.65", _SOLID, "p", 4.0): ("exact", "exact posterior", "exact filter"),
    Style(_BLUE, _SOLID, "o", 1.1): (
        *("one step", "one step, affine head", "maximum of one step", "one step + m rescored"),
    ),
    Style(_GREEN, _DASHED, "s"): (
        *("calibrated", "one step, calibrated", "one step, calibrated to the exact posterior"),
        *("one step, calibrated and tempered", "maximum of one step, tempered"),
        "calibrated one step",
    ),
    Style(_PINK, _MIXED, "D"): (
        "relative Mahalanobis distance of features",
        "second order",
        "second-order joint (1 and 2 rounds)",
    ),
    Style(_ORANGE, _LONG, "v"): ("iterative", "gain"),
    Style(_SKY, _SOLID, "P", 2.5): (
        *("enumeration", "K forward passes", "exact in code space, affine head"),
        "exhaustive likelihood, paper's network",
    ),
    Style(_SKY, _DOTTED, "v"): ("one step, paper's network",),
    Style(_WINE, _DOTTED, "X", 1.8): ("second-order joint + m rescored",),
    Style(_RED, _SOLID, "^", 1.8): ("cosine and relative distance of features",),
    # Samplers and mean field, which the others are compared with, are grey.
    Style("0.3", _DENSE, "*"): ("Gibbs",),
    Style("0.7", _DASHED, "h"): ("Gibbs with gradients",),
    Style("0.6", _DOTTED, "<"): ("SMC",),
    Style("0.6", _SOLID, ">"): ("coordinate gradient",),
    Style("black", _DOTTED, "_", 1.0): ("product of exact marginals",),
    Style("0.35", _LONG, "|", 1.0): ("prior",),
    Style("black", _SOLID, "d", 1.8): ("your own",),
    # Networks: the true task is the one accent, a network without any is black and dashed.
    Style(_RED, _SOLID, "s", 2.0): (
        *("conditioned", "GBI-LSTM", "true", "true Z", "labels", "network with labels"),
        *("task at the input", "Z given, concatenated", "concat", "paper's network"),
        *("GBI, free Z", "free Z"),
    ),
    Style(_ORANGE, _DASHED, "D"): (
        *("GBI-LSTM without labels", "unlabelled", "no labels, online"),
        *("task at the head", "Z given, masks", "mask", "affine head"),
        *("GBI, Z on the simplex", "Z on the simplex"),
    ),
    Style(_PINK, _MIXED, "P"): ("film", "pure generative"),
    Style("black", _DASHED, "^"): ("plain LSTM", "LSTM", "none", "none Z", "plain", "without Z"),
    Style("0.2", _LONG, "v"): (
        *("plain, same start", "plain LSTM from the same start", "none, same start"),
        "plain transformer",
        *("LSTM, inputs optimised", "input vector", "input optimised"),
    ),
    # Controls: as wide as the task, and without information about it.
    Style("0.4", _DOTTED, "X"): (
        *("shuffled", "shuffled Z", "LSTM with shuffled Z", "shuffled labels", "shuffled task"),
        *("Z shuffled, concatenated", "mean of the four controls"),
    ),
    Style("0.5", _MIXED, "<"): (
        "random",
        "random Z",
        "Z shuffled, masks",
        "PCA residual, no network",
    ),
    Style("0.6", _DENSE, ">"): ("constant", "constant Z"),
    Style("0.7", _LONG, "*"): ("frozen random", "frozen random Z"),
    # Comparisons: other models, and other ways to use the same data.
    Style(_WINE, _DENSE, "X"): (
        *("classifier", "classifier of the same encoder", "classifier, largest logit"),
        *("recogniser, forward KL", "fine-tuned", "all weights", "affine"),
        "transformer, task at the input",
    ),
    Style(_PINK, _DOTTED, "*"): (
        *("classifier initialised from the autoencoder", "recogniser, reverse KL"),
    ),
    Style(_OLIVE, _DOTTED, "<"): (
        *("naive Bayes", "nearest centroid", "Gaussian HMM", "hypernetwork"),
    ),
    Style("0.5", _DASHED, ">"): (
        *("zero-shot", "best known corpus"),
        *("input as in training", "Z as in training"),
    ),
    Style(_GREEN, _DENSE, "h", 1.8): (
        *("EM, several tasks a class", "found first, then matched and clamped"),
        "Z given, tasks mixed",
    ),
    Style(_BLUE, _DASHED, "d"): (
        *("EM, one task a class", "clamped from a random start"),
        *("cosine of residual and class", "additive", "transformer, task at the head"),
    ),
}
STYLES: dict[str, Style] = {name: style for style, names in _NAMES.items() for name in names}
"""The style of each curve by its name."""
