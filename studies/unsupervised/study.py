"""The study of learning without task labels from one call: everything measured and written down."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gbi_pyro.export.inference_data import to_inference_data
from studies.unsupervised import batch, figures, labels, online, recurrent, rows
from studies.unsupervised.batch import draw_sets
from studies.unsupervised.config import LONGER, MEANS, USUAL, DiscoverConfig
from studies.unsupervised.networks import SideBySide
from studies.unsupervised.online import Condition
from studies.core.cache import Pieces
from studies.core.run_folder import RunFolder
from studies.core.protocol import Progress, StudyResults, bars_first
from studies.toy.evidence import exact_filter
from gbi_pyro.inference.chain import BayesFilter
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.learning.task_prior import TaskChain


@dataclass(frozen=True)
class DiscoverResults(StudyResults):
    """Everything the study found.

    Attributes:
        online: what the online form and its rivals scored, by stream.
    """

    online: dict[Condition, dict[str, Any]]


def found_cases(config: DiscoverConfig) -> list[tuple[int, float]]:
    """Return the numbers of tasks and the noise that batches are searched for tasks in."""
    return [(K, sigma) for K in LONGER for sigma in config.sigmas]


def recurrent_cases() -> list[tuple[int, str]]:
    """Return the numbers of tasks and the starts of recurrent networks."""
    starts = (recurrent.CLUSTERED, recurrent.RANDOM)
    return [(K, start) for start in starts for K in recurrent.RECURRENT]


def num_stages(config: DiscoverConfig) -> int:
    """Return how many stages ``run`` reports."""
    return (
        len(online.conditions(config))
        + len(found_cases(config))
        + len(batch.num_tasks_cases(config))
        + len(recurrent_cases())
        + len(labels.label_cases(config))
        + 1
    )


def run(
    config: DiscoverConfig, folder: Path, progress: Progress = lambda _what: None
) -> DiscoverResults:
    """Run the study and write it to a folder; pieces finished by an earlier run are taken up.

    Args:
        config: what to do.
        folder: where the results go; finished pieces in ``pieces/``.
        progress: called with what is being done, ``num_stages`` times.

    Returns:
        What was measured and where the files lie.
    """
    start = time.perf_counter()
    store = RunFolder(folder)
    store.write_config("discover", config)
    pieces = Pieces(folder / "pieces")

    def piece(name: str, function: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
        progress(name)
        return pieces.get(name, config, lambda: function(config, *args))

    streams = {c: piece(f"online: {c.name}", online.measure, c) for c in online.conditions(config)}
    found = {
        (K, sigma): piece(f"batch: K = {K}, sigma {sigma:g}", batch.measure_found, K, sigma)
        for K, sigma in found_cases(config)
    }
    numbers = {
        (K, sigma): piece(f"how many tasks: {K}, sigma {sigma:g}", batch.measure_number, K, sigma)
        for K, sigma in batch.num_tasks_cases(config)
    }
    lstm = {
        (K, begun): piece(f"LSTM: K = {K}, {begun}", recurrent.measure, K, USUAL, begun)
        for K, begun in recurrent_cases()
    }
    labelled = {
        (K, sigma): piece(f"labels: K = {K}, sigma {sigma:g}", labels.measure, K, sigma)
        for K, sigma in labels.label_cases(config)
    }
    table = [
        *rows.online_rows(streams),
        *rows.found_rows(found),
        *rows.number_rows(numbers),
        *rows.recurrent_rows(lstm),
        *rows.label_rows(labelled),
        *rows.speed_rows(streams),
    ]
    progress("figures and files")
    drawn = [
        figures.figure_online(store.figures, config, streams),
        figures.figure_labels(store.figures, labelled),
        figures.figure_number(store.figures, config, numbers),
    ]
    _write_network(store, config, labelled[5, USUAL])
    seconds = time.perf_counter() - start + pieces.earlier
    store.write_metrics(bars_first(table), seconds)
    return DiscoverResults(table, folder, drawn, streams)


def _write_network(store: RunFolder, config: DiscoverConfig, found: dict[str, Any]) -> None:
    """Write the first network that few labels served, and its filter beside the exact one."""
    network = SideBySide(torch.tensor(found["means"][:1]), torch.tensor(found["sigma"][:1]))
    test = draw_sets(config, MEANS[5], USUAL, config.test_sequences, "held out")
    x, z = test.x[0], test.z[0]
    chain = TaskChain.sticky(5, found["hazard"][0])
    infer = BayesFilter(Enumeration(check=False), chain.log_initial, chain.log_transition)
    store.write_posterior(
        to_inference_data(
            infer(network, x),
            observed={"x": x},
            labels={"z": z},
            exact=exact_filter(config.stream(MEANS[5], USUAL), x),
            attributes={"study": "discover", "labels": labels.FEW, "seed": config.first_seed},
        )
    )
    store.write_weights({"few_labels": network})
