"""The toy study from one call: train, infer, compare, write everything down."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from gbi_pyro.export.inference_data import to_inference_data
from studies.core.run_folder import RunFolder
from studies.core.protocol import Progress, StudyResults
from studies.toy import adaptation as adapting
from studies.toy import figures, rows
from studies.toy.blocks import BlockRun, learn_blocks
from studies.toy.config import FOUR_MEANS, NOISY, ToyConfig
from studies.toy.evidence import (
    Responses,
    filtered_estimates,
    respond,
    semi_markov_divergences,
    test_stream,
)
from studies.toy.identities import method_identities
from studies.toy.training import Trained, make_stream, train_network
from gbi_pyro.logjoint import Passes

NETWORKS_PER_SEED = 5


Estimates = dict[str, list[dict[str, tuple[float, Passes]]]]


def num_stages(config: ToyConfig) -> int:
    """Return how many stages ``run`` reports."""
    return config.seeds * (NETWORKS_PER_SEED + 2 + 1) + 6


def run(config: ToyConfig, folder: Path, progress: Progress = lambda _what: None) -> StudyResults:
    """Run the toy study and write it to a folder.

    Args:
        config: what to do.
        folder: where the results go; files of an earlier run there are replaced one by one.
        progress: called with what is being done, ``num_stages`` times.

    Returns:
        The table of results and where the files lie.
    """
    start = time.perf_counter()
    store = RunFolder(folder)
    store.write_config("toy", config)
    networks = _train(config, progress)
    told, plain = networks.told, networks.plain
    block_runs: dict[str, list[BlockRun]] = {rows.TOLD: [], rows.PLAIN: []}
    responses, identities = [], []
    for seed, trained in zip(config.all_seeds, told, strict=True):
        for name, runs in block_runs.items():
            progress(f"seed {seed}: {name}, one stream block after block")
            runs.append(learn_blocks(config, seed, told=name == rows.TOLD))
        progress(f"seed {seed}: gradients beside the exact posterior")
        responses.append(respond(config, seed, trained))
        identities.append(method_identities(config, seed, trained))
    progress("switching streams: choosing rates on validation streams")
    x, _ = adapting.test_streams(config, told)
    to_switches = adapting.adapters_to_switches(config, told, plain)
    progress("switching streams: online")
    online = {name: adapter(x) for name, adapter in to_switches.items()}
    progress("unseen means: choosing rates on validation streams")
    to_unseen = adapting.adapters_to_unseen(config, told, plain)
    progress("unseen means: online")
    adaptation = adapting.adapt(config, to_unseen, plain)
    progress("the affine model and the rivals")
    engaged = online[adapting.ON_SIMPLEX]
    predicted, values = engaged.mean.numpy(), engaged.values.numpy()
    table = [
        *rows.affine_rows(config),
        *rows.identity_rows(identities),
        *rows.training_rows(told, plain),
        *rows.block_rows(config, block_runs),
        *rows.response_rows(config, responses),
        *rows.engaged_rows(responses, predicted, values),
        *rows.adaptation_rows(config, adaptation),
        *rows.evidence_rows(networks.estimates),
        *rows.semi_markov_rows(networks.semi_markov),
        *rows.rival_rows(adapting.rivals(config, online, told, plain)),
    ]
    progress("figures and files")
    drawn = [
        figures.figure_1(store.figures, config, responses[0]),
        figures.figure_2(store.figures, config, told, plain, block_runs),
        figures.figure_3(store.figures, config, responses[0], adaptation, predicted[0], values[0]),
    ]
    _write_posterior(store, config, responses[0])
    names = {f"told_{s}": t.network for s, t in zip(config.all_seeds, told, strict=True)}
    names |= {f"plain_{s}": t.network for s, t in zip(config.all_seeds, plain, strict=True)}
    store.write_weights(names)
    store.write_metrics(table, time.perf_counter() - start)
    return StudyResults(table, folder, drawn)


@dataclass
class _Networks:
    """Trained networks by seed; of the kinds that only serve a comparison, its outcome."""

    told: list[Trained] = field(default_factory=list)
    plain: list[Trained] = field(default_factory=list)
    estimates: Estimates = field(default_factory=dict)
    semi_markov: list[dict[str, float]] = field(default_factory=list)


def _train(config: ToyConfig, progress: Progress) -> _Networks:
    """Train every kind of network for every seed."""
    usual, noisy = f"K = 2, sigma {config.sigma:g}", f"K = 2, sigma {NOISY:g}"
    four = f"K = 4, sigma {config.sigma:g}"
    kinds = {
        usual: (make_stream(config), False),
        noisy: (make_stream(config, sigma=NOISY), False),
        four: (make_stream(config, means=FOUR_MEANS), False),
        f"{four}, mixtures": (make_stream(config, means=FOUR_MEANS), True),
    }
    networks = _Networks(estimates={kind: [] for kind in kinds})
    for seed in config.all_seeds:
        progress(f"seed {seed}: training the {rows.PLAIN}")
        networks.plain.append(train_network(config, seed, make_stream(config), told=False))
        for kind, (stream, mixtures) in kinds.items():
            progress(f"seed {seed}: training the {rows.TOLD}, {kind}")
            trained = train_network(config, seed, stream, mixtures=mixtures)
            networks.estimates[kind].append(filtered_estimates(config, seed, trained))
            if kind == usual:
                networks.told.append(trained)
            if kind == noisy:
                networks.semi_markov.append(semi_markov_divergences(config, seed, trained))
    return networks


def _write_posterior(store: RunFolder, config: ToyConfig, response: Responses) -> None:
    data = test_stream(config, config.first_seed, make_stream(config))
    store.write_posterior(
        to_inference_data(
            response.filtered,
            observed={"x": data.x},
            labels={"z": data.z},
            exact=response.exact,
            attributes={"study": "toy", "seed": config.first_seed},
        )
    )
