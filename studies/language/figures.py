"""Figure 5 of the paper, A to D, and a text whose corpus changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from gbi_pyro import plots
from studies.core.style import STYLES
from studies.language.adaptation import (
    BEST_KNOWN,
    FINE_TUNED,
    FREE,
    INPUT,
    MIXED,
    ON_SIMPLEX,
    Adapted,
)
from studies.language.identify import CALIBRATED, ENUMERATION, EXACT, NAIVE_BAYES, ONE_STEP
from studies.language.record import LanguageSeed
from studies.language.stream import OUTPUTS
from studies.language.training import HEAD, NETWORKS, PAPER, PLAIN, SAME_TASK

METHODS = (EXACT, ENUMERATION, CALIBRATED, ONE_STEP, NAIVE_BAYES)
WAYS = (
    *((PAPER, way) for way in (ON_SIMPLEX, FREE, FINE_TUNED)),
    *((PLAIN, INPUT), (HEAD, MIXED), (HEAD, FINE_TUNED)),
)
BESIDE = (*SAME_TASK.values(), *SAME_TASK)  # LSTMs and transformers with the same task input
PIECES = 8  # of the changing text that are shown


def figure_learning(records: Sequence[LanguageSeed], networks: Sequence[str] = NETWORKS) -> Figure:
    """Draw the loss while it falls, and accuracy by number of words (Figures 5A-C).

    Args:
        records: of sets of texts that are reported together.
        networks: whose loss is drawn; the corpus is inferred by the last one of them that can.
    """
    figure = Figure(figsize=(14, 4.4), layout="constrained")
    axes = figure.subplots(1, 3)
    axes[1].sharey(axes[0])
    curves = [kind for kind in networks if kind in records[0].curves]
    words = records[0].curves[curves[0]].words
    for ax, letter, which in zip(axes, "AB", ("train", "test"), strict=False):
        plots.curves(
            {kind: np.stack([getattr(r.curves[kind], which) for r in records]) for kind in curves},
            ax,
            x=words / 1000,
            xlabel="words read (thousands)",
            ylabel="loss (nats per word)",
            styles=STYLES,
            title=f"{letter}   Loss on {'training' if which == 'train' else which} texts",
            better="lower",
        )
    inferring = [kind for kind in curves if kind in records[0].identified][-1]
    found = [r.identified[inferring].accuracy for r in records]
    lengths = list(found[0][ENUMERATION])
    ax = plots.curves(
        {
            m: np.array([[f[m][n] for n in lengths] for f in found])
            for m in METHODS
            if m in found[0]
        },
        axes[2],
        x=lengths,
        xlabel="words seen",
        ylabel="accuracy",
        styles=STYLES,
        title=f"C   Corpus inferred, {inferring}",
        better="higher",
    )
    ax.set_xscale("log")
    ax.set_xticks(lengths, [str(n) for n in lengths], minor=False)
    ax.minorticks_off()
    return figure


def figure_stream(record: LanguageSeed) -> Figure:
    """Draw the posterior word by word in a text whose corpus changes, every corpus a row."""
    stream = record.streams[HEAD]
    labels = stream.labels.numpy()
    ends = np.flatnonzero(np.diff(labels)) + 1
    shown = int(ends[min(PIECES, len(ends)) - 1]) if len(ends) else len(labels)
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    for ax, letter, output in zip(axes, "AB", OUTPUTS, strict=True):
        plots.task_heatmap(
            stream.probs[f"{CALIBRATED}, {output}"][:shown].numpy(),
            labels[:shown],
            ax,
            names=record.corpora,
            xlabel="word",
            title=f"{letter}   {CALIBRATED.capitalize()}, {output}; the line is the true corpus",
        )
    axes[0].set_xlabel("")
    return figure


def figure_adaptation(adapted: Sequence[Adapted]) -> Figure:
    """Draw what each way to adapt gains on each unseen corpus (Figure 5D)."""
    corpora = list(dict.fromkeys(a.corpus for a in adapted))
    sizes = sorted({a.words for a in adapted if a.words})
    figure = Figure(figsize=(6.5 * len(sizes), 6.5), layout="constrained")
    axes = figure.subplots(1, len(sizes), squeeze=False, sharex=True)[0]
    for ax, letter, size in zip(axes, "ABCDEF", sizes, strict=False):
        at = {(a.corpus, a.network, a.method): a for a in adapted if a.words == size}
        estimates = {}
        for network, way in WAYS:
            found = [at[corpus, network, way] for corpus in corpora]
            name = way if network == PAPER or way == MIXED else f"{way}, {network}"
            estimates[name] = [[a.gain, a.low, a.high] for a in found]
        plots.intervals(
            corpora,
            estimates,
            ax,
            xlabel="gain over zero-shot (nats per word)",
            styles={
                **STYLES,
                f"{INPUT}, {PLAIN}": STYLES[INPUT],
                f"{FINE_TUNED}, {HEAD}": STYLES[BEST_KNOWN],
                MIXED: STYLES["one step"],
            },
            title=f"{letter}   Adapted to {size} words",
            better="higher",
        )
    return figure
