"""One kind of network on several seeds, from one call: a run folder to compare with others."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from gbi_pyro import plots
from gbi_pyro.data.switching import Stream, SwitchingStream
from gbi_pyro.export.inference_data import to_inference_data
from studies.told_or_not.config import KINDS, FitConfig, generator
from studies.told_or_not.learners import Learner, make_learner
from studies.told_or_not.rows import SeedScores, fit_rows
from studies.core.run_folder import RunFolder
from studies.core.protocol import Progress, StudyResults
from studies.toy.evidence import exact_filter, exact_predictions
from gbi_pyro.learning.labels import match_labels
from gbi_pyro.logjoint import Passes
from gbi_pyro.posterior import TaskPosterior

NUM_DRAWS = 10  # of task ids: the likelihood does not depend on them


class Trained(NamedTuple):
    """A learner at the end of its stream.

    Attributes:
        learner: what has learned.
        cost: what each batch cost it before it was learned, in nats, ``(rounds,)``.
        cost_best: what each batch costs the generator.
        names: which of its tasks is the first, second, ... of the stream, ``(K,)``.
        milliseconds: of the processor for a weight update, median.
    """

    learner: Learner
    cost: np.ndarray
    cost_best: np.ndarray
    names: Tensor
    milliseconds: float


def num_stages(config: FitConfig) -> int:
    """Return how many stages ``run`` reports."""
    return config.seeds + 1


def run(config: FitConfig, folder: Path, progress: Progress = lambda _what: None) -> StudyResults:
    """Train one kind of network and write what it scored to a folder.

    ``posterior.nc`` holds the held-out sequences of all seeds one after the other, each with its
    log evidence under the weights of its own seed, which never saw it. These are fixed weights and
    no draws from a posterior: the likelihood is the same for every draw, so that ``az.loo`` gives
    the plain log score (p_loo = 0) and ``az.compare`` compares log scores. The seeds are not handed
    over as draws: leave-one-out would reweigh them as if they had learned the held-out data.

    Args:
        config: what to do.
        folder: where the results go; files of an earlier run there are replaced one by one.
        progress: called with what is being done, ``num_stages`` times.

    Returns:
        The table of results and where the files lie.
    """
    start = time.perf_counter()
    store = RunFolder(folder)
    store.write_config("fit", config)
    scores, found, tests, costs, networks = [], [], [], [], {}
    for seed in config.all_seeds:
        progress(f"seed {seed}: {KINDS[config.task]}")
        trained = train(config, seed)
        test = config.stream.sample(
            config.test_sequences, config.test_length, generator(seed, "test")
        )
        posterior = _named(trained.learner.infer(test.x), trained.names)
        scores.append(_score(config.stream, trained, posterior, test))
        found.append(posterior)
        tests.append(test)
        costs.append(trained.cost - trained.cost_best)
        networks[f"seed_{seed}"] = trained.learner.network
    progress("figures and files")
    rows = fit_rows(config, scores)
    drawn = [_draw(store, config, np.array(costs))]
    store.write_posterior(
        to_inference_data(
            _together(found),
            observed={"x": torch.cat([test.x for test in tests])},
            labels={"z": torch.cat([test.z for test in tests])} if config.task != "none" else None,
            num_draws=NUM_DRAWS,
            attributes={"study": "fit", "kind": KINDS[config.task], "seeds": [*config.all_seeds]},
        )
    )
    store.write_weights(networks)
    store.write_metrics(rows, time.perf_counter() - start)
    return StudyResults(rows, folder, drawn)


def train(config: FitConfig, seed: int) -> Trained:
    """Let a network predict and then learn the batches of a stream, each of them once.

    The code length of the stream is the sum over batches of -log p(x | weights learned from the
    batches before it), each step given its own past within the sequence and tasks summed out: the
    prequential code with weights that move after each batch. Labels, where there are any, are told
    after a batch is predicted, so that the code is one of x alone, given the labels of the past.
    """
    draw, learner = generator(seed, "train"), make_learner(config, seed)
    cost, seconds, batches = [], [], []
    for _ in range(config.rounds):
        batch = config.stream.sample(config.sequences, config.length, draw)
        batches.append(batch.x)
        predicted = learner.infer(batch.x)
        cost.append(-_evidence(predicted).sum().item())
        start = time.process_time()  # what else the machine does is not the network's fault
        learner.learn(batch)
        seconds.append(time.process_time() - start)
    best = -_evidence(exact_filter(config.stream, torch.cat(batches)))
    names = match_labels(learner.infer(batch.x).probs(), _labels(batch, predicted))[:-1]
    return Trained(
        learner,
        np.array(cost),
        best.reshape(config.rounds, -1).sum(-1).numpy(),
        names,
        1000 * float(np.median(seconds)),
    )


def _draw(store: RunFolder, config: FitConfig, costs: np.ndarray) -> Path:
    """Draw what a step cost above the generator's own filter, round after round, over seeds."""
    per_step = costs / (config.sequences * config.length)
    ax = plots.curves(
        {KINDS[config.task]: per_step},
        xlabel="round",
        ylabel="nats per step above the best",
    )
    figure = ax.figure
    assert isinstance(figure, Figure)
    return plots.save_figure(figure, store.figures, "learning")


def _labels(batch: Stream, posterior: TaskPosterior) -> Tensor:
    """Return the labels of a batch, all the same where there is one task."""
    return batch.z if posterior.probs().shape[-1] > 1 else torch.zeros_like(batch.z)


def _named(posterior: TaskPosterior, names: Tensor) -> TaskPosterior:
    """Put tasks that were found in any order into that of the stream."""
    return replace(posterior, log_probs={"z": posterior.logits()[..., names]})


def _score(
    stream: SwitchingStream, trained: Trained, posterior: TaskPosterior, test: Stream
) -> SeedScores:
    tells = posterior.probs().shape[-1] > 1
    right = (posterior.mode() == test.z).double().mean().item() if tells else math.nan
    error, error_best = (
        (mean - test.x).double().square().mean().item()
        for mean in (trained.learner.mean(test.x), exact_predictions(stream, test.x))
    )
    return SeedScores(
        _evidence(posterior).numpy(),
        _evidence(exact_filter(stream, test.x)).numpy(),
        float(trained.cost.sum()),
        float(trained.cost_best.sum()),
        error,
        error_best,
        right,
        trained.milliseconds,
    )


def _together(posteriors: Sequence[TaskPosterior]) -> TaskPosterior:
    """Put the sequences of all seeds one after the other."""
    sites = [p.sites["z"] for p in posteriors]
    sequence, time_ = sites[0].plates
    assert sequence is not None
    n = len(sites) * sequence.size
    site = replace(
        sites[0],
        log_prior=torch.cat([s.log_prior for s in sites]),
        plates=(sequence._replace(size=n, full_size=n), time_),
    )
    return replace(
        posteriors[0],
        log_probs={"z": torch.cat([p.logits() for p in posteriors])},
        sites={"z": site},
        log_evidence=torch.cat([_evidence(p) for p in posteriors]),
        num_observations={},
        passes=Passes(*map(sum, zip(*(p.passes for p in posteriors), strict=True))),
    )


def _evidence(posterior: TaskPosterior) -> Tensor:
    """Return log p(x) of each sequence, which enumeration knows."""
    assert posterior.log_evidence is not None
    return posterior.log_evidence.double()
