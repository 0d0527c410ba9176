"""The figures of the out-of-distribution study."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from gbi_pyro import plots
from studies.core.style import STYLES
from studies.ood.detectors import BASELINE, COMBINED, COSINE, LARGEST_LOGIT, TEMPERED
from studies.ood.features import RELATIVE
from studies.ood.record import OODSeed

HISTOGRAMS = (TEMPERED, COSINE, RELATIVE)
CURVES = (COMBINED, COSINE, RELATIVE, TEMPERED, LARGEST_LOGIT, BASELINE)
DRAWN = tuple(dict.fromkeys(HISTOGRAMS + CURVES))


def draw_case(found: OODSeed, other: str) -> Figure:
    """Draw how scores are distributed, and their ROC curves (confidence, I3; Figure 4)."""
    figure = Figure(figsize=(16, 4), layout="constrained")
    *left, right = figure.subplots(1, 4)
    inside, outside = found.inside, found.outside[other]
    for letter, ax, name in zip("ABC", left, HISTOGRAMS, strict=True):
        title = f"{letter}   {name[0].upper()}{name[1:]}"
        plots.histograms(inside[name], outside[name], ax, xlabel="score", title=title)
    out = np.repeat([0, 1], [len(inside[BASELINE]), len(outside[BASELINE])])
    curves = {n: roc_curve(out, np.concatenate([inside[n], outside[n]]))[:2] for n in CURVES}
    plots.roc(curves, right, styles=STYLES, title="D   Every threshold")
    return figure
