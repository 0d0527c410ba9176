"""The rows of the language study: what was measured, against what it has to show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from gbi_pyro.metrics.intervals import student_interval
from studies.language import identify
from studies.language.adaptation import FREE, ON_SIMPLEX, Adapted
from studies.language.config import NAMED_AFTER
from studies.language.identify import Identified
from studies.language.stream import Stream
from studies.language.texts import Texts
from studies.language.training import HEAD, PAPER, PLAIN, SHUFFLED, Trained
from studies.core.table import Bar, Row, format_number, interval_note


@dataclass(frozen=True)
class Run:
    """One set of corpora with the weights of one seed.

    Attributes:
        texts: the corpora.
        seed: of the networks.
        trained: by kind.
        identified: by kind.
        streams: by kind.
    """

    texts: Texts
    seed: int
    trained: Mapping[str, Trained]
    identified: Mapping[str, Identified]
    streams: Mapping[str, Stream]


def words_to_reach(trained: Trained, level: float) -> float:
    """Return after how many words the test loss first came down to a level; infinite for never."""
    below = trained.test <= level
    if not below.any():
        return math.inf
    i = int(below.argmax())
    if i == 0:
        return float(trained.words[0])
    (a, b), (x, y) = trained.test[i - 1 : i + 1], trained.words[i - 1 : i + 1]
    return float(x + (y - x) * (a - level) / (a - b))


def learning_rows(title: str, runs: Sequence[Run], bars: bool) -> list[Row]:
    """Return how fast networks learn and how far they come (L1, L2)."""
    rows = []
    sizes = sorted({len(run.texts.sets.vocabulary) for run in runs})
    for kind in runs[0].trained:
        losses = [run.trained[kind].test[-1] for run in runs]
        rows.append(
            Row.of(
                "L1",
                f"{title}: {kind}: test perplexity per word at the end",
                np.exp(losses),
                note=f"vocabulary {', '.join(map(str, sizes))}",
            )
        )
    for kind in runs[0].trained:
        if kind == PLAIN:
            continue
        ends = [run.trained[PLAIN].test[-1] for run in runs]
        gains = np.array(ends) - [run.trained[kind].test[-1] for run in runs]
        over_runs = student_interval(gains)
        what = f"{title}: {kind}: gain in final test loss over the plain LSTM, nats per word"
        rows.append(Row.of("L2", what, gains, note=interval_note(over_runs)))
        if kind == SHUFFLED:
            if bars and len(runs) > 1:
                what = f"{title}: {kind}: lower end of the interval of that gain"
                rows.append(Row.of("L2", what, [over_runs.low], Bar(0.0)))
            continue
        ratios = [
            words_to_reach(run.trained[kind], end) / words_to_reach(run.trained[PLAIN], end)
            for run, end in zip(runs, ends, strict=True)
        ]
        over_runs = student_interval(ratios)
        what = f"{title}: {kind}: words to the plain LSTM's final test loss, over its own"
        bar = Bar(0.8) if bars and kind == PAPER else None
        rows.append(Row.of("L2", what, ratios, bar, interval_note(over_runs)))
        if bar is not None and len(runs) > 1:
            what = f"{title}: {kind}: upper end of the interval of that ratio"
            rows.append(Row.of("L2", what, [over_runs.high], Bar(1.0)))
    return rows


def identification_rows(title: str, runs: Sequence[Run], bars: bool) -> list[Row]:
    """Return how well the corpus is named after n words (L3)."""
    rows = []
    for kind in runs[0].identified:
        found = [run.identified[kind] for run in runs]
        name, barred = f"{title}: {kind}", bars and kind == HEAD
        lengths = list(found[0].log_probs[identify.ENUMERATION])
        several = runs[0].texts.num_tasks > 3 and runs[0].texts.exact is None
        for reference in (identify.ENUMERATION, identify.NAIVE_BAYES):

            def short(f: Identified, n: int, reference: str = reference) -> float:
                return f.accuracy(reference, n) - f.accuracy(identify.CALIBRATED, n)

            rows.append(
                Row.of(
                    "L3",
                    f"{name}: accuracy of {reference} less calibrated one step, worst n",
                    [float(np.mean([short(f, n) for f in found])) for n in lengths],
                    Bar(0.02, "worst") if barred else None,
                    f"mean over runs for n = {', '.join(map(str, lengths))} words",
                )
            )
        far = [[f.kl(identify.ENUMERATION, identify.CALIBRATED, n) for n in lengths] for f in found]
        rows.append(
            Row.of(
                "L3",
                f"{name}: KL(enumeration || calibrated one step), worst n, one calibration",
                [max(each) for each in far],
                Bar(0.03) if barred and several else None,
            )
        )
        for method in (identify.CALIBRATED, identify.TEMPERED):
            rows.append(
                Row.of(
                    "L3",
                    f"{name}: ECE, {method}, {NAMED_AFTER} words",
                    [f.calibration_error(method, NAMED_AFTER) for f in found],
                    Bar(0.03) if barred and several and method == identify.TEMPERED else None,
                )
            )
        if runs[0].texts.exact is not None:
            rows += _exact_rows(name, found, kind == HEAD)
        for method in found[0].log_probs:
            for n in lengths:
                values = [f.accuracy(method, n) for f in found]
                rows.append(Row.of("L3", f"{name}: accuracy, {method}, {n} words", values))
        for n in lengths:
            for method in (identify.ONE_STEP, identify.CALIBRATED, identify.ITERATIVE):
                values = [f.kl(identify.ENUMERATION, method, n) for f in found]
                rows.append(Row.of("L3", f"{name}: KL(enumeration || {method}), {n} words", values))
    return rows


def _exact_rows(name: str, found: Sequence[Identified], barred: bool) -> list[Row]:
    rows = []
    for estimate, bar in ((identify.ENUMERATION, 0.02), (identify.TO_EXACT, 0.05)):
        values = [f.kl(identify.EXACT, estimate, NAMED_AFTER) for f in found]
        what = f"{name}: KL(exact || {estimate}), {NAMED_AFTER} words"
        rows.append(Row.of("L3", what, values, Bar(bar) if barred else None))
    return rows


def stream_rows(title: str, runs: Sequence[Run]) -> list[Row]:
    """Return how well a text whose corpus changes is read."""
    return [
        Row.of(
            "L3",
            f"{title}: {kind}: share of words of a changing text named, {reader}",
            [run.streams[kind].accuracy(reader) for run in runs],
        )
        for kind, first in runs[0].streams.items()
        for reader in first.probs
    ]


def adaptation_rows(adapted: Sequence[Adapted]) -> list[Row]:
    """Return the mean over corpora of what each way to adapt gains (L4)."""
    rows = []
    for (network, words, method), chosen in _by_way(adapted).items():
        what = f"corpora left out: {network}, {method}"
        if not words:
            rows.append(Row.of("L4", f"{what}: test loss, nats per word", [a.loss for a in chosen]))
            continue
        gains = [a.gain for a in chosen]
        bar = Bar(0.0, at_least=True) if method in (ON_SIMPLEX, FREE) else None
        note = f"one value for each corpus; {interval_note(student_interval(gains))}"
        what += f", {words} words: gain over its zero-shot loss, nats per word"
        rows.append(Row.of("L4", what, gains, bar, note))
    return rows


def _by_way(adapted: Sequence[Adapted]) -> dict[tuple[str, int, str], list[Adapted]]:
    ways: dict[tuple[str, int, str], list[Adapted]] = {}
    for a in adapted:
        ways.setdefault((a.network, a.words, a.method), []).append(a)
    return ways


def adaptation_markdown(adapted: Sequence[Adapted]) -> str:
    """Write every way to adapt, corpus by corpus: loss, and the gain with its interval."""
    corpora = list(dict.fromkeys(a.corpus for a in adapted))
    lines = [
        "Test loss in nats per word; in brackets the gain over the network's zero-shot loss with "
        "its 95 % interval over test texts. Words: of the sample adapted to.",
        "",
        f"| network | way to adapt | words | {' | '.join(corpora)} |",
        "|---" * (3 + len(corpora)) + "|",
    ]
    for (network, words, method), chosen in _by_way(adapted).items():
        cells = {}
        for a in chosen:
            gain = f" ({a.gain:+.3f}, {a.low:+.3f} to {a.high:+.3f})" if words else ""
            cells[a.corpus] = f"{a.loss:.3f}{gain}"
        line = " | ".join(cells[corpus] for corpus in corpora)
        lines.append(f"| {network} | {method} | {words} | {line} |")
    return "\n".join(lines) + "\n"


def print_adaptation(adapted: Sequence[Adapted], console: Console) -> None:
    """Print the loss of every way to adapt, corpus by corpus; intervals are in the files."""
    corpora = list(dict.fromkeys(a.corpus for a in adapted))
    table = Table(
        title="Test loss on a corpus left out, nats per word; words adapted to",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    table.add_column("way to adapt", no_wrap=True)
    table.add_column("words", justify="right", no_wrap=True)
    for corpus in corpora:
        heading = corpus.replace("_", "\n")
        table.add_column(heading, justify="right", overflow="fold", max_width=6)
    shown = None
    for (network, words, method), chosen in _by_way(adapted).items():
        if network != shown:
            table.add_section()
            table.add_row(f"[bold]{network}[/]")
            shown = network
        losses = {a.corpus: format_number(a.loss) for a in chosen}
        table.add_row(method, str(words), *(losses[c] for c in corpora))
    console.print(table)
