"""The table of the language study, and the losses after adaptation corpus by corpus."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gbi_pyro.metrics.intervals import student_interval
from studies.core.table import Row, Target
from studies.language.adaptation import FINE_TUNED, FREE, MIXED, ON_SIMPLEX, Adapted
from studies.language.config import JUDGED_AFTER
from studies.language.identify import (
    CALIBRATED,
    ENUMERATION,
    EXACT,
    ITERATIVE,
    NAIVE_BAYES,
    ONE_STEP,
    TEMPERED,
    TO_EXACT,
    Identified,
)
from studies.language.record import LanguageSeed
from studies.language.training import (
    BASELINES,
    HEAD,
    HEAD_TRANSFORMER,
    PAPER,
    SAME_TASK,
    SHUFFLED,
    Curve,
)

FEW_WORDS = 100  # of the sample at which adaptation has to be ahead of fine-tuning


def words_to_reach(curve: Curve, level: float) -> float:
    """Return after how many words the test loss first came down to a level; infinite for never."""
    below = curve.test <= level
    if not below.any():
        return math.inf
    i = int(below.argmax())
    if i == 0:
        return float(curve.words[0])
    (a, b), (x, y) = curve.test[i - 1 : i + 1], curve.words[i - 1 : i + 1]
    return float(x + (y - x) * (a - level) / (a - b))


def language_table(groups: dict[str, list[LanguageSeed]], adapted: Sequence[Adapted]) -> list[Row]:
    """Return every quantity: of the sets of as many corpora together, then of adaptation."""
    rows = []
    for title, records in groups.items():
        rows += learning_rows(title, records)
        rows += identification_rows(title, records)
        rows += stream_rows(title, records)
    return rows + adaptation_rows(adapted)


def learning_rows(title: str, records: Sequence[LanguageSeed]) -> list[Row]:
    """Return how fast networks learn, and their final losses (L1, L2)."""
    rows = []
    targets, several = not records[0].exact, len(records) > 1
    sizes = sorted({r.vocabulary_size for r in records})
    most = {PAPER: 0.8} | ({HEAD: 0.7} if len(records[0].corpora) > 3 else {})
    ends = {kind: [r.curves[kind].test[-1] for r in records] for kind in records[0].curves}
    for kind, losses in ends.items():
        what = f"{title}: {kind}: test perplexity per word at the end"
        note = f"vocabulary {', '.join(map(str, sizes))}"
        rows.append(Row.of("L1", what, np.exp(losses), note=note, better="lower"))
    for kind, losses in ends.items():
        plain = BASELINES.get(kind)
        if plain not in ends:
            continue
        gains = np.array(ends[plain]) - losses
        # A task without information should not help: its gain may not be above zero.
        control = kind == SHUFFLED and targets and several
        rows.append(
            Row.of(
                "L2",
                f"{title}: {kind}: gain in final test loss over the {plain}, nats per word",
                gains,
                Target(0.0, "lower end") if control else None,
                interval=student_interval(gains),
                better="higher",
            )
        )
        if kind == SHUFFLED:
            continue
        ratios = [
            words_to_reach(r.curves[kind], end) / words_to_reach(r.curves[plain], end)
            for r, end in zip(records, ends[plain], strict=True)
        ]
        firsts = [r.curves[kind].test[0] for r in records]
        at_once = sum(a <= b for a, b in zip(firsts, ends[plain], strict=True))
        below_one = Target(1.0, "upper end") if several else None
        rows.append(
            Row.of(
                "L2",
                f"{title}: {kind}: words to the {plain}'s final test loss, over its own",
                ratios,
                Target(most[kind], also=below_one) if targets and kind in most else None,
                f"{at_once} of them before the first measurement: at most" if at_once else "",
                interval=student_interval(ratios),
                better="lower",
            )
        )
    return rows


def identification_rows(title: str, records: Sequence[LanguageSeed]) -> list[Row]:
    """Return how well the corpus is inferred after n words (L3)."""
    rows = []
    exact, several = records[0].exact, len(records[0].corpora) > 3
    for kind in records[0].identified:
        found = [r.identified[kind] for r in records]
        name, targets = f"{title}: {kind}", not exact and kind == HEAD
        lengths = list(found[0].accuracy[ENUMERATION])
        for reference in (ENUMERATION, NAIVE_BAYES):
            most = 0.0 if reference == NAIVE_BAYES and several else 0.02
            short = np.mean([[f.short_of(reference, n) for n in lengths] for f in found], 0)
            rows.append(
                Row.of(
                    "L3",
                    f"{name}: accuracy of {reference} less calibrated one step, worst n",
                    short.tolist(),
                    Target(most, "worst") if targets else None,
                    f"mean over runs for n = {', '.join(map(str, lengths))} words",
                    better="lower",
                )
            )
        rows.append(
            Row.of(
                "L3",
                f"{name}: KL(enumeration || calibrated one step), worst n, one calibration",
                [max(f.kl[ENUMERATION][CALIBRATED].values()) for f in found],
                Target(0.03) if targets and several else None,
                better="lower",
            )
        )
        for method in (CALIBRATED, TEMPERED):
            rows.append(
                Row.of(
                    "L3",
                    f"{name}: ECE, {method}, {JUDGED_AFTER} words",
                    [f.calibration_error[method][JUDGED_AFTER] for f in found],
                    Target(0.03) if targets and several and method == TEMPERED else None,
                    better="lower",
                )
            )
        if exact:
            rows += _exact_rows(name, found, SAME_TASK.get(kind, kind) == HEAD)
            if kind == HEAD_TRANSFORMER:
                rows += _transformer_rows(name, found, [r.identified[HEAD] for r in records])
        for method in found[0].accuracy:
            for n in lengths:
                values = [f.accuracy[method][n] for f in found]
                what = f"{name}: accuracy, {method}, {n} words"
                rows.append(Row.of("L3", what, values, better="higher"))
        for n in lengths:
            for method in (ONE_STEP, CALIBRATED, ITERATIVE):
                values = [f.kl[ENUMERATION][method][n] for f in found]
                what = f"{name}: KL(enumeration || {method}), {n} words"
                rows.append(Row.of("L3", what, values, better="lower"))
    return rows


def _exact_rows(name: str, found: Sequence[Identified], targets: bool) -> list[Row]:
    rows = []
    for estimate, most in ((ENUMERATION, 0.02), (TO_EXACT, 0.05)):
        values = [f.kl[EXACT][estimate][JUDGED_AFTER] for f in found]
        what = f"{name}: KL(exact || {estimate}), {JUDGED_AFTER} words"
        target = Target(most) if targets else None
        rows.append(Row.of("L3", what, values, target, better="lower"))
    return rows


def _transformer_rows(
    name: str, found: Sequence[Identified], lstm: Sequence[Identified]
) -> list[Row]:
    """Compare the transformer with the LSTM, and one step with enumeration."""
    less = [
        f.kl[EXACT][ENUMERATION][JUDGED_AFTER] - other.kl[EXACT][ENUMERATION][JUDGED_AFTER]
        for f, other in zip(found, lstm, strict=True)
    ]
    what = f"{name}: KL(exact || {ENUMERATION}), {JUDGED_AFTER} words, less that of the LSTM"
    values = [f.kl[ENUMERATION][CALIBRATED][JUDGED_AFTER] for f in found]
    return [
        Row.of("L3", what, less, Target(0.0), interval=student_interval(less), better="lower"),
        Row.of(
            "L3",
            f"{name}: KL(enumeration || calibrated one step), {JUDGED_AFTER} words",
            values,
            Target(0.01),
            better="lower",
        ),
    ]


def stream_rows(title: str, records: Sequence[LanguageSeed]) -> list[Row]:
    """Return how well the corpus is inferred word by word in a text whose corpus changes (L3)."""
    return [
        Row.of(
            "L3",
            f"{title}: {kind}: accuracy, words of a changing text, {method}",
            [r.streams[kind].accuracy(method) for r in records],
            better="higher",
        )
        for kind, first in records[0].streams.items()
        for method in first.probs
    ]


def adaptation_rows(adapted: Sequence[Adapted]) -> list[Row]:
    """Return the gain of each way to adapt, one value for each corpus left out (L4)."""
    rows = []
    for (network, words, method), chosen in _by_way(adapted).items():
        what = f"corpora left out: {network}, {method}"
        if not words:
            what += ": test loss, nats per word"
            rows.append(Row.of("L4", what, [a.loss for a in chosen], better="lower"))
            continue
        gains = [a.gain for a in chosen]
        rows.append(
            Row.of(
                "L4",
                f"{what}, {words} words: gain over its zero-shot loss, nats per word",
                gains,
                Target(0.0, at_least=True) if method in (ON_SIMPLEX, FREE, MIXED) else None,
                "one value for each corpus",
                student_interval(gains),
                better="higher",
            )
        )
    return rows + fine_tuning_rows(adapted)


def fine_tuning_rows(adapted: Sequence[Adapted]) -> list[Row]:
    """Compare Z and a bias at the head with the best fine-tuned network of each corpus (L4)."""
    rows = []
    for words in sorted({a.words for a in adapted if a.method == MIXED}):
        ahead = []
        for mixed in (a for a in adapted if a.method == MIXED and a.words == words):
            tuned = [a.loss for a in adapted if _is_rival(a, mixed)]
            ahead.append(min(tuned) - mixed.loss)
        what = f"corpora left out: {HEAD}, {MIXED}, {words} words"
        rows += [
            Row.of(
                "L4",
                f"{what}: fraction of corpora on which its loss is below fine-tuning's",
                [float(gain > 0) for gain in ahead],
                Target(0.7, at_least=True) if words == min(FEW_WORDS, words) else None,
                "all weights of the network that is best on the corpus; one value for each corpus",
                better="higher",
            ),
            Row.of(
                "L4",
                f"{what}: gain over fine-tuning, nats per word",
                ahead,
                note="likewise",
                interval=student_interval(ahead),
                better="higher",
            ),
        ]
    return rows


def _is_rival(a: Adapted, mixed: Adapted) -> bool:
    return (a.corpus, a.words, a.method) == (mixed.corpus, mixed.words, FINE_TUNED)


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
