"""The language study from one call: train, name the corpus, adapt, write everything down."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from gbi_pyro.export.inference_data import to_inference_data
from studies.language import figures, rows
from studies.language.adaptation import Adapted, adapt
from studies.language.config import NAMED_AFTER, LanguageConfig
from studies.language.identify import identify
from studies.language.rows import Run
from studies.language.stream import read_stream
from studies.language.texts import Texts
from studies.language.training import (
    HEAD,
    PAPER,
    PLAIN,
    SHUFFLED,
    Report,
    Trained,
    side_by_side,
    train_all,
)
from studies.core.table import Row
from studies.core.run_folder import RunFolder
from studies.core.protocol import StudyResults, bars_first
from gbi_pyro.files import replacing
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.gradient import OneStepGradient

KINDS = (PLAIN, PAPER, HEAD, SHUFFLED)
TOLD = (PAPER, HEAD)
ADAPTING = (PLAIN, PAPER)  # to a corpus left out
Networks = dict[tuple[str, str, int], Trained]


@dataclass(frozen=True)
class LanguageResults(StudyResults):
    """Everything the study found.

    Attributes:
        adapted: what every way to adapt came to.
    """

    adapted: list[Adapted]


def trainings(config: LanguageConfig, texts: Sequence[Texts]) -> list[tuple[Texts, str, int]]:
    """Return what is trained: a set of corpora, a kind of network and a seed each."""
    todo = []
    for t in texts:
        kinds = KINDS if t.unseen is None else ADAPTING
        seeds = config.all_seeds if t.unseen is None else config.all_seeds[:1]
        todo += [(t, kind, seed) for seed in seeds for kind in kinds]
    return todo


def num_stages(config: LanguageConfig, texts: Sequence[Texts]) -> int:
    """Return how many stages ``run`` reports."""
    after = sum(config.seeds if t.unseen is None else len(ADAPTING) for t in texts)
    return len(trainings(config, texts)) + after + 1


def run(
    config: LanguageConfig,
    texts: Sequence[Texts],
    folder: Path,
    progress: Report = lambda _what: None,
) -> LanguageResults:
    """Run the language study and write it to a folder; finished trainings are taken up.

    Args:
        config: what to do.
        texts: the sets of corpora, as ``corpora_texts`` or ``bigram_texts`` give them.
        folder: where the results go; checkpoints in ``checkpoints/``.
        progress: called with what was done.

    Returns:
        What was measured and where the files lie.
    """
    start = time.perf_counter()
    store = RunFolder(folder)
    store.write_config("language", config)
    trained = train_all(config, trainings(config, texts), folder / "checkpoints", progress)
    groups = _groups(config, texts, trained, progress)
    adapted = _adapt(config, texts, trained, progress)
    found: list[Row] = []
    drawn: list[Path] = []
    for title, runs in groups.items():
        real = runs[0].texts.exact is None
        found += rows.learning_rows(title, runs, real)
        found += rows.identification_rows(title, runs, real)
        found += rows.stream_rows(title, runs)
        drawn.append(figures.figure_learning(store.figures, title, runs, HEAD))
    if adapted:
        found += rows.adaptation_rows(adapted)
        drawn.append(figures.figure_adaptation(store.figures, adapted, PAPER))
        store.write_json("adaptation.json", {"ways": [asdict(a) for a in adapted]})
        with replacing(folder / "adaptation.md") as temporary:
            temporary.write_text(rows.adaptation_markdown(adapted))
    if groups:
        last = list(groups.values())[-1][0]
        drawn.append(figures.figure_stream(store.figures, last, HEAD))
        _write_posterior(store, last)
        store.write_weights({k.replace(" ", "_"): n.network for k, n in last.trained.items()})
    progress("figures and files")
    store.write_metrics(bars_first(found), time.perf_counter() - start)
    return LanguageResults(found, folder, drawn, adapted)


def _groups(
    config: LanguageConfig, texts: Sequence[Texts], trained: Networks, progress: Report
) -> dict[str, list[Run]]:
    """Name the corpora of every set; sets of one size are reported together."""
    todo = [(t, seed) for t in texts if t.unseen is None for seed in config.all_seeds]
    calls = [(config, t, seed, {k: trained[t.name, k, seed] for k in KINDS}) for t, seed in todo]
    groups: dict[str, list[Run]] = {}
    for run in side_by_side(_named, calls, config.jobs):
        t = run.texts
        title = t.name if t.exact is not None else f"{t.num_tasks} corpora"
        groups.setdefault(title, []).append(run)
        progress(f"{t.name}, seed {run.seed}: named")
    return groups


def _named(config: LanguageConfig, t: Texts, seed: int, trained: dict[str, Trained]) -> Run:
    identified = {kind: identify(config, t, trained[kind].network) for kind in TOLD}
    streams = {kind: read_stream(config, t, trained[kind].network) for kind in TOLD}
    return Run(t, seed, trained, identified, streams)


def _adapt(
    config: LanguageConfig, texts: Sequence[Texts], trained: Networks, progress: Report
) -> list[Adapted]:
    calls = [
        (config, t, kind, trained[t.name, kind, config.first_seed].network)
        for t in texts
        if t.unseen is not None
        for kind in ADAPTING
    ]
    adapted: list[Adapted] = []
    for found in side_by_side(adapt, calls, config.jobs):
        adapted += found
        progress(f"{found[0].corpus}: {found[0].network} adapted")
    return adapted


def _write_posterior(store: RunFolder, run: Run) -> None:
    """Write the calibrated one-step posterior over corpora with enumeration beside it."""
    network, found = run.trained[HEAD].network, run.identified[HEAD]
    tokens: Tensor = found.tokens[:, :NAMED_AFTER]
    tokens = torch.cat([part[:50] for part in tokens.chunk(run.texts.num_tasks)])
    labels = torch.cat([part[:50] for part in found.labels.chunk(run.texts.num_tasks)])
    store.write_posterior(
        to_inference_data(
            OneStepGradient(calibration=found.calibration)(network, tokens),
            observed={"words": tokens},
            dims={"words": ["sequence", "time"]},
            labels={"z": labels.unsqueeze(-1)},
            exact=Enumeration(check=False)(network, tokens),
            task_names={"z": list(run.texts.sets.names)},
            attributes={"study": "language", "corpora": run.texts.name, "seed": run.seed},
        )
    )
