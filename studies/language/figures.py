"""Figure 5 of the paper, A to D, and a text whose corpus changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from gbi_pyro import plots
from studies.language import identify
from studies.language.adaptation import (
    BEST_KNOWN,
    FINE_TUNED,
    FREE,
    INPUT,
    ON_SIMPLEX,
    Adapted,
)
from studies.language.rows import Run
from studies.language.training import PLAIN

SHOWN_METHODS = (
    identify.EXACT,
    identify.ENUMERATION,
    identify.CALIBRATED,
    identify.ONE_STEP,
    identify.NAIVE_BAYES,
)
SHOWN_WAYS = (BEST_KNOWN, ON_SIMPLEX, FREE, FINE_TUNED)


def figure_learning(folder: Path, name: str, runs: Sequence[Run], kind: str) -> Path:
    """Draw the loss while it falls, and accuracy by number of words (Figures 5A-C)."""
    figure = Figure(figsize=(14, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    kinds = runs[0].trained
    words = runs[0].trained[next(iter(kinds))].words
    for ax, which in zip(axes, ("train", "test"), strict=False):
        curves = {k: np.stack([getattr(run.trained[k], which) for run in runs]) for k in kinds}
        plots.curves(
            curves, ax, x=words, xlabel="words read", ylabel=f"{which} loss (nats per word)"
        )
    found = [run.identified[kind] for run in runs]
    lengths = list(found[0].log_probs[identify.ENUMERATION])
    accuracy = {
        method: np.array([[f.accuracy(method, n) for n in lengths] for f in found])
        for method in SHOWN_METHODS
        if method in found[0].log_probs
    }
    ax = plots.curves(
        accuracy, axes[2], x=lengths, xlabel="words seen", ylabel="share of corpora named"
    )
    ax.set_xscale("log")
    ax.set_xticks(lengths, [str(n) for n in lengths], minor=False)
    ax.minorticks_off()
    return plots.save_figure(figure, folder, f"learning-{name.replace(' ', '-')}")


def figure_stream(folder: Path, run: Run, kind: str, pieces: int = 8) -> Path:
    """Draw the posterior word by word in a text whose corpus changes, every corpus a row."""
    stream, names = run.streams[kind], run.texts.sets.names
    ends = np.flatnonzero(np.diff(stream.labels.numpy())) + 1
    shown = int(ends[min(pieces, len(ends)) - 1]) if len(ends) else len(stream.labels)
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    for ax, give in zip(axes, ("filtered", "smoothed"), strict=True):
        probs = stream.probs[f"one step, calibrated, {give}"][:shown].numpy()
        plots.task_heatmap(probs, stream.labels[:shown].numpy(), ax, names=names, xlabel="word")
        ax.set_title(give, loc="left", fontsize=9)
    axes[0].set_xlabel("")
    return plots.save_figure(figure, folder, "stream")


def figure_adaptation(folder: Path, adapted: Sequence[Adapted], kind: str) -> Path:
    """Draw what each way to adapt gains on each unseen corpus (Figure 5D)."""
    corpora = list(dict.fromkeys(a.corpus for a in adapted))
    sizes = sorted({a.words for a in adapted if a.words})
    figure = Figure(figsize=(6.5 * len(sizes), 6.5), layout="constrained")
    axes = figure.subplots(1, len(sizes), squeeze=False)[0]
    for ax, size in zip(axes, sizes, strict=True):
        at = {(a.corpus, a.network, a.method): a for a in adapted if a.words == size}
        estimates = {}
        for network, method in [*((kind, m) for m in SHOWN_WAYS), (PLAIN, INPUT)]:
            found = [at[corpus, network, method] for corpus in corpora]
            name = method if network == kind else f"{method}, {network}"
            estimates[name] = [[a.gain, a.low, a.high] for a in found]
        plots.intervals(
            corpora, estimates, ax, xlabel=f"gain over zero-shot, {size} words (nats per word)"
        )
    return plots.save_figure(figure, folder, "adaptation")
