"""The out-of-distribution study: both directions, raw and normalised, near and far."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_curve

from gbi_pyro import plots
from gbi_pyro.data.images import ImageSets, flip_vertical
from gbi_pyro.metrics.auroc import Detection
from studies.images.config import ImagesConfig
from studies.ood.scores import (
    BASELINE,
    COSINE,
    LARGEST_LOGIT,
    MAXIMUM,
    TEMPERED,
    Case,
    Scores,
    default_score,
    detect,
    on_pseudo_outliers,
    prepared,
    scores_in_chunks,
    train_detectors,
)
from studies.images.training import Report
from studies.core.table import Bar, Row, format_number
from studies.core.run_folder import RunFolder

UPSIDE_DOWN = "upside down"


@dataclass(frozen=True)
class OutlierConfig:
    """Everything the out-of-distribution study depends on.

    Attributes:
        images: networks and their training; its ``dataset`` is the first set that is known.
        other: the set that is unknown to it, and known in the other direction; None for none.
        ensemble: members of the ensemble of classifiers.
        bootstrap: resamples of each interval.
    """

    images: ImagesConfig = field(default_factory=ImagesConfig)
    other: str | None = None
    ensemble: int = 5
    bootstrap: int = 1000

    def __post_init__(self) -> None:
        if self.ensemble < 1 or self.bootstrap < 1:
            raise ValueError(
                f"ensemble and bootstrap must be at least 1, got {self.ensemble} and "
                f"{self.bootstrap}"
            )


@dataclass(frozen=True)
class OutlierResults:
    """Everything the study found.

    Attributes:
        cases: the detection problems.
        default: the one score to offer, chosen on validation images over all cases.
        rows: their numbers, with bars.
        folder: where they lie on disk.
    """

    cases: list[Case]
    default: str
    rows: list[Row]
    folder: Path


def check_sets(sets: list[ImageSets]) -> None:
    """Check that one network can look at all sets, and that they differ.

    Raises:
        ValueError: says what is unfit.
    """
    shapes = {s.name: tuple(s.test.x.shape[1:]) for s in sets}
    if len(shapes) < len(sets):
        raise ValueError(f"the known and the unknown images are both {sets[0].name}: choose two")
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"the known and the unknown images should have one shape; got {shapes}: choose sets "
            "of the same size, such as mnist and fashion"
        )


def num_stages(config: OutlierConfig) -> int:
    """Return how many stages ``run`` reports, if no training is taken up."""
    trainings = (2 if config.other else 1) * 2 * config.images.seeds * (1 + config.ensemble)
    return trainings * (config.images.epochs + 1)


def run(
    config: OutlierConfig,
    sets: list[ImageSets],
    folder: Path,
    progress: Report = lambda _what: None,
) -> OutlierResults:
    """Run the study and write it to a folder; an interrupted training is taken up.

    Args:
        config: what to do.
        sets: the known set, and the other one if there is one.
        folder: where the results go; checkpoints in ``checkpoints/``.
        progress: called with what is being done.

    Raises:
        ValueError: for sets that cannot be compared, before anything is trained.
    """
    start = time.perf_counter()
    check_sets(sets)
    store = RunFolder(folder)
    store.write_config("ood", config)
    cases = []
    for known in sets:
        others = [s for s in sets if s.name != known.name]
        for normalised in (False, True):
            cases += _cases(config, known, others, normalised, folder, progress)
    default = default_score(cases)
    rows = [row for case in cases for row in case_rows(case, default)]
    store.write_metrics(rows, time.perf_counter() - start)
    return OutlierResults(cases, default, rows, folder)


def _cases(
    config: OutlierConfig,
    known: ImageSets,
    others: list[ImageSets],
    normalised: bool,
    folder: Path,
    progress: Report,
) -> list[Case]:
    """Train on one set, prepared in one way, and detect everything else."""
    images = prepared(known, normalised)
    unknown = {UPSIDE_DOWN: flip_vertical(images.test.x)}
    unknown |= {other.name: prepared(other, normalised).test.x for other in others}
    cases = {name: Case(known.name, name, normalised, {}, []) for name in unknown}
    how = "normalised" if normalised else "raw"
    for seed in config.images.all_seeds:
        detectors = train_detectors(
            config.images,
            images,
            seed,
            config.ensemble,
            folder / "checkpoints" / f"{known.name}-{how}",
            lambda what: progress(f"{known.name}, {how}, {what}"),
        )
        chosen_by = on_pseudo_outliers(config.images, detectors, images.validation, normalised)
        inside = scores_in_chunks(detectors, images.test.x, config.images.chunk)
        for name, x in unknown.items():
            outside = scores_in_chunks(detectors, x, config.images.chunk)
            found = detect(inside, outside, config.bootstrap)
            for score, detection in found.items():
                cases[name].detections.setdefault(score, []).append(detection)
            cases[name].validation.append(chosen_by)
            if seed == config.images.first_seed:
                _draw(folder / "figures", cases[name], inside, outside)
    return list(cases.values())


def _draw(folder: Path, case: Case, inside: Scores, outside: Scores) -> None:
    """Draw how scores are distributed, and their ROC curves (I3, Figure 4)."""
    figure = Figure(figsize=(16, 4), layout="constrained")
    axes = figure.subplots(1, 4)
    for ax, name in zip(axes, (TEMPERED, LARGEST_LOGIT, COSINE), strict=False):
        plots.histograms(inside[name].numpy(), outside[name].numpy(), ax, xlabel=name)
    curves = {}
    for name in (COSINE, TEMPERED, LARGEST_LOGIT, BASELINE):
        known, unknown = inside[name].numpy(), outside[name].numpy()
        outlying = np.repeat([0, 1], [len(known), len(unknown)])
        curves[name] = roc_curve(outlying, np.concatenate([known, unknown]))[:2]
    plots.roc(curves, axes[3])
    name = case.title.replace("->", "to").replace(",", "").replace(" ", "-")
    plots.save_figure(figure, folder, name)


def case_rows(case: Case, default: str) -> list[Row]:
    """Return the numbers of a case; bars stand where the paper's setting is the same."""

    def row(name: str, found: list[Detection], bar: Bar | None = None) -> Row:
        lows, highs = [d.auroc_low for d in found], [d.auroc_high for d in found]
        fpr = sum(d.fpr_at_95 for d in found) / len(found)
        note = (
            f"bootstrap {min(lows):.3f}-{max(highs):.3f} over images; "
            f"FPR at 95 %: {format_number(fpr)}"
        )
        if name in case.validation[0]:
            chosen_by = float(np.mean([seed[name] for seed in case.validation]))
            note += f"; on pseudo-outliers of validation: {chosen_by:.3f}"
        return Row.of("I4", f"{case.title}: AUROC, {name}", [d.auroc for d in found], bar, note)

    bars = _bars(case)
    rows = [row(name, found, bars.get(name)) for name, found in case.detections.items()]
    rows.append(row(f"default ({default})", case.detections[default], bars.get("default")))
    seeds = range(len(case.validation))
    own = " / ".join(dict.fromkeys(map(case.best_on_validation, seeds)))
    rows.append(row(f"best on this case's own validation ({own})", case.of_best_on_validation()))
    return rows


def _bars(case: Case) -> dict[str, Bar]:
    if not case.normalised:
        return {}
    if (case.known, case.unknown) == ("mnist", "fashion"):
        return {MAXIMUM: Bar(0.96, at_least=True), "default": Bar(0.99, at_least=True)}
    if (case.known, case.unknown) == ("fashion", "mnist"):
        above = max(0.99, case.mean_auroc(BASELINE))
        return {"default": Bar(above, at_least=True)}
    if (case.known, case.unknown) == ("mnist", UPSIDE_DOWN):
        return {"default": Bar(0.88, at_least=True)}
    return {}


def print_cases(cases: list[Case], default: str, console: Console) -> None:
    """Print AUROC by score, a table for each known set, the default first."""
    console.print(
        f"Default score: {default}. It is the best on pseudo-outliers made of validation images, "
        "over everything that is known here; * marks the best on a case's own."
    )
    for known in dict.fromkeys(case.known for case in cases):
        table = Table(
            title=f"AUROC, {known} known, mean over seeds",
            title_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1),
        )
        table.add_column("unknown:", min_width=34)
        shown = [case for case in cases if case.known == known]
        for case in shown:
            how = "normalised" if case.normalised else "raw"
            table.add_column(f"{case.unknown}\n{how}", justify="right", no_wrap=True)
        others = [name for name in shown[0].detections if name != default]
        for name in (default, *others):
            cells = [
                f"{case.mean_auroc(name):.3f}" + ("*" if name in _own_best(case) else " ")
                for case in shown
            ]
            table.add_row(name, *cells, end_section=name == default)
        console.print(table)


def _own_best(case: Case) -> set[str]:
    return {case.best_on_validation(seed) for seed in range(len(case.validation))}
