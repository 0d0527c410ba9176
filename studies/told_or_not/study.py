"""One kind of network on several seeds: a run to compare with those of other kinds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from gbi_pyro import plots
from gbi_pyro.export.inference_data import to_inference_data
from gbi_pyro.logjoint import Passes
from gbi_pyro.posterior import TaskPosterior
from studies.core.protocol import Found, Report, Study
from studies.core.style import STYLES
from studies.core.table import Row
from studies.told_or_not.config import NETWORKS, ToldOrNotConfig
from studies.told_or_not.learners import make_predictor
from studies.told_or_not.measure import ToldOrNotSeed, held_out_data, log_evidence, measure
from studies.told_or_not.predictor import Predictor
from studies.told_or_not.table import told_or_not_table

NUM_DRAWS = 10  # of task ids: the likelihood does not depend on them


class ToldOrNotStudy(Study[ToldOrNotConfig]):
    """One kind of network, conditioned on its task or not, as a run for ``gbi-pyro compare``."""

    name = "told_or_not"
    title = "A network conditioned on its task, on shuffled labels or on none: runs to compare"
    config_type = ToldOrNotConfig

    def measure(self, seed: int, report: Report) -> ToldOrNotSeed:
        """Train and score the network of one seed."""
        report(NETWORKS[self.config.task])
        return measure(self.config, seed)

    def table(self, found: Found) -> list[Row]:
        """Return what the networks score."""
        return told_or_not_table(self.config, found[self.name])

    def figures(self, found: Found) -> Iterator[tuple[str, Figure]]:
        """Draw what a step costs above the generator's own filter, round after round."""
        config = self.config
        costs = np.array([r.cost - r.cost_best for r in found[self.name]])
        name = NETWORKS[config.task]
        ax = plots.curves(
            {name: costs / (config.sequences * config.length)},
            xlabel="round",
            ylabel="nats per step above the best",
            styles={name: STYLES[config.task]},
            better="lower",
        )
        assert isinstance(ax.figure, Figure)
        yield "learning", ax.figure

    def posterior(self, found: Found) -> Any:
        """Return the held-out sequences of all seeds, each under the weights of its own seed.

        These are fixed weights, which never saw the sequences, and no draws from a posterior: the
        likelihood is the same for every draw, so that ``az.loo`` gives the plain log score
        (p_loo = 0) and ``az.compare`` compares log scores. The seeds are not handed over as draws:
        leave-one-out would reweigh them as if they had learned the held-out data.
        """
        config = self.config
        tests = [held_out_data(config, seed) for seed in config.all_seeds]
        posteriors = [
            _in_order(self._predictor(record).infer(test.x), record)
            for test, record in zip(tests, found[self.name], strict=True)
        ]
        labels = {"z": torch.cat([test.z for test in tests])} if config.task != "none" else None
        return to_inference_data(
            _joined(posteriors),
            observed={"x": torch.cat([test.x for test in tests])},
            labels=labels,
            num_draws=NUM_DRAWS,
            attributes={
                "study": self.name,
                "network": NETWORKS[config.task],
                "seeds": [*config.all_seeds],
            },
        )

    def networks(self, found: Found) -> Mapping[str, nn.Module]:
        """Return the network of every seed."""
        return {
            f"seed_{seed}": self._predictor(record).network
            for seed, record in zip(self.config.all_seeds, found[self.name], strict=True)
        }

    def _predictor(self, record: ToldOrNotSeed) -> Predictor:
        network = make_predictor(self.config, 0).network
        network.load_state_dict(record.weights)
        return Predictor(network, record.chain)


def _in_order(posterior: TaskPosterior, record: ToldOrNotSeed) -> TaskPosterior:
    """Put tasks that were found in any order into that of the stream."""
    return replace(posterior, log_probs={"z": posterior.logits()[..., record.order]})


def _joined(posteriors: Sequence[TaskPosterior]) -> TaskPosterior:
    """Put the sequences of all seeds one after the other."""
    sites = [p.sites["z"] for p in posteriors]
    sequence, time = sites[0].plates
    assert sequence is not None
    n = len(sites) * sequence.size
    site = replace(
        sites[0],
        log_prior=torch.cat([s.log_prior for s in sites]),
        plates=(sequence._replace(size=n, full_size=n), time),
    )
    return replace(
        posteriors[0],
        log_probs={"z": torch.cat([p.logits() for p in posteriors])},
        sites={"z": site},
        log_evidence=torch.cat([log_evidence(p) for p in posteriors]),
        num_observations={},
        passes=Passes(*map(sum, zip(*(p.passes for p in posteriors), strict=True))),
    )
