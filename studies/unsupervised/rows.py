"""The rows of the study: what was measured, against what it has to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from gbi_pyro.metrics.intervals import student_interval
from gbi_pyro.metrics.intervals import paired_bootstrap
from studies.unsupervised import labels as few
from studies.unsupervised.config import NOISY, USUAL
from studies.unsupervised.labels import CLAMPED, FEW, FOUND_FIRST
from studies.unsupervised.online import EXACT, METHODS, UNLABELLED, Condition
from studies.unsupervised.recurrent import CLUSTERED
from studies.core.table import Bar, Row, format_number, interval_note

ROUNDING = 1e-9  # shares of steps that are equal differ by this
Found = Mapping[str, Any]


def online_rows(found: Mapping[Condition, Found]) -> list[Row]:
    """Return what the online form finds, beside the exact filter and the rivals (D1, D2)."""
    rows = []
    for condition, result in found.items():
        scores = {name: np.array(result["scores"][name]).T for name in result["scores"]}
        exact = scores[EXACT]
        mark = "D1" if condition.order is None else "D2"
        barred = condition.num_tasks == 2 and condition.blocks is None
        for name in [m for m in METHODS if m in scores]:
            accuracy, error, divergence = scores[name]
            best = float(np.median(exact[0]))
            note = f"median {np.median(accuracy):.4f}, exact filter's {best:.4f}"
            what = f"{condition.name}: {name}"
            own = name == UNLABELLED and barred
            bars = _accuracy_bars(condition, best, found) if own else [None]
            for bar in bars:
                worst = bar is not None and bar.statistic == "worst"
                rows.append(
                    Row.of(mark, f"{what}: Z accuracy" + ", worst" * worst, accuracy, bar, note)
                )
            if name == EXACT:
                continue
            limit = {USUAL: 1.10, NOISY: 1.04}.get(condition.sigma) if own else None
            bar = None if limit is None else Bar(limit)
            note = interval_note(student_interval(error / exact[1]))
            what_error = f"{what}: MSE over the exact filter's"
            rows.append(Row.of(mark, what_error, error / exact[1], bar, note))
            rows.append(Row.of(mark, f"{what}: filtered KL", divergence))
            if name == UNLABELLED:
                rows += _less(mark, f"{what}: Z accuracy", scores)
        if condition.order is None:
            share = [not c for c in result["collapsed"]]
            rows.append(Row.of(mark, f"{condition.name}: no collapse reported", share))
    return rows


def _less(mark: str, what: str, scores: Mapping[str, np.ndarray]) -> list[Row]:
    """Return how far the accuracy without labels is from the others', stream by stream."""
    ours = scores[UNLABELLED][0]
    others = {name: scores[name][0] for name in METHODS if name in scores and name != UNLABELLED}
    return [
        Row.of(
            mark,
            f"{what} less that of: {name}",
            ours - a,
            note=interval_note(paired_bootstrap(ours, a)),
        )
        for name, a in others.items()
    ]


def _accuracy_bars(
    condition: Condition, exact: float, found: Mapping[Condition, Found]
) -> Sequence[Bar | None]:
    def at_least(value: float, statistic: Any = "median") -> Bar:
        return Bar(value - ROUNDING, statistic, at_least=True)

    if condition.order is not None:
        forwards = np.array(
            found[Condition(condition.num_tasks, condition.sigma)]["scores"][UNLABELLED]
        )
        return [at_least(float(np.median(forwards[:, 0])) - 0.01)]
    if condition.sigma == USUAL:
        return [at_least(0.997), at_least(0.99, "worst")]
    return [at_least(exact - 0.005)] if condition.sigma == NOISY else [None]


def speed_rows(found: Mapping[Condition, Found]) -> list[Row]:
    """Return time steps per second of processor time on one thread (D7)."""
    rows = []
    for condition, result in found.items():
        barred = condition == Condition(2, USUAL)
        bar = Bar(2000, "median", at_least=True) if barred else None
        if condition.sigma == USUAL and condition.blocks is None:
            what = f"{condition.name}: time steps per second, processor time, one thread"
            rows.append(Row.of("D7", what, result["steps_per_second"], bar))
    return rows


def found_rows(found: Mapping[tuple[int, float], Found]) -> list[Row]:
    """Return in which data sets all tasks were found (D3)."""
    rows = []
    for (K, sigma), result in found.items():
        bar = Bar(1.0, at_least=True) if K == 5 and sigma <= USUAL else None
        what = f"K = {K}, sigma {sigma:g}, batch, no labels"
        rows.append(Row.of("D3", f"{what}: all tasks found", result["found"], bar))
        rows.append(Row.of("D3", f"{what}: not found and not reported", silent(result)))
    return rows


def number_rows(found: Mapping[tuple[int, float], Found]) -> list[Row]:
    """Return how often the number of tasks was chosen right (D4)."""
    rows, right = [], []
    for (true, sigma), result in found.items():
        chosen = [true == K for K in result["chosen"]]
        right += chosen
        wrong = sorted({K for K in result["chosen"] if true != K})
        note = f"chosen instead: {', '.join(map(str, wrong))}" if wrong else ""
        what = f"true K = {true}, sigma {sigma:g}: number of tasks chosen right"
        rows.append(Row.of("D4", what, chosen, note=note))
    bar = Bar(0.95 - ROUNDING, at_least=True)
    return [Row.of("D4", "number of tasks chosen right, all data sets", right, bar), *rows]


def recurrent_rows(found: Mapping[tuple[int, str], Found]) -> list[Row]:
    """Return whether a recurrent network found its tasks, or its collapse was told (D5)."""
    rows = []
    for (K, start), result in found.items():
        own = start == CLUSTERED
        what = f"LSTM, K = {K}, sigma {USUAL:g}, {start}"
        bar = Bar(0.9 - ROUNDING, at_least=True) if own else None
        rows.append(Row.of("D5", f"{what}: all tasks found", result["found"], bar))
        none = Bar(0, "sum") if own else None
        rows.append(Row.of("D5", f"{what}: not found and not reported", silent(result), none))
        loss = np.subtract(result["exact"], result["accuracy"])
        rows.append(Row.of("D5", f"{what}: Z accuracy below the exact smoother's", loss))
        rows.append(Row.of("D5", f"{what}: spread over tasks, nats per step", result["spread"]))
    return rows


def silent(result: Found) -> list[bool]:
    """Return in which data sets tasks are missing without a word."""
    pairs = zip(result["found"], result["reported"], strict=True)
    return [not found and not reported for found, reported in pairs]


def label_rows(found: Mapping[tuple[int, float], Found]) -> list[Row]:
    """Return the filtered divergence from the exact posterior by fraction of the labels (D6)."""
    rows = []
    for (K, sigma), result in found.items():
        for way, by_fraction in result["divergence"].items():
            for fraction, values in by_fraction.items():
                own = way == FOUND_FIRST and float(fraction) == FEW
                bar = Bar(0.002, "median") if own and (K, sigma) == (5, USUAL) else None
                known = result["known"][fraction]
                note = f"{min(known)}-{max(known)} labels" if way != few.HMM else ""
                nameless = sum(unnamed > 1 for unnamed in result["unnamed"][fraction])
                if known[0] and nameless:
                    note += f"; in {nameless} data set(s) none of two tasks, so no names for them"
                what = f"K = {K}, sigma {sigma:g}, {float(fraction):.0%} labels, {way}: filtered KL"
                rows.append(Row.of("D6", what, values, bar, note))
        if CLAMPED in result["divergence"]:
            ways = [np.array(result["divergence"][w][f"{FEW:g}"]) for w in (CLAMPED, FOUND_FIRST)]
            what = f"K = {K}, sigma {sigma:g}, {FEW:.0%} labels: clamping first costs, nats"
            rows.append(Row.of("D6", what, ways[0] - ways[1]))
    return rows


def print_online(title: str, found: Mapping[Condition, Found], console: Console) -> None:
    """Print every stream on a line: median accuracy, and error over the exact filter's."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("")
    for method in METHODS:
        table.add_column(method, justify="right")
    for condition, result in found.items():
        error = np.array(result["scores"][EXACT])[:, 1]
        cells = []
        for method in METHODS:
            if method not in result["scores"]:
                cells.append("")
                continue
            values = np.array(result["scores"][method])
            ratio = (values[:, 1] / error).mean()
            cells.append(f"{np.median(values[:, 0]):.4f}  {format_number(ratio)}")
        table.add_row(condition.name, *cells)
    console.print(table)
