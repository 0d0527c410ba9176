"""The baselines study: inferences that cost one pass, on the same trained networks.

Images given their class (the task is the class), two kinds of network: the paper's, whose task
enters by concatenation, and the affine head. On each of them every way to infer the task:

- one gradient step, plain and calibrated (against enumeration, on validation images);
- enumeration, the exact posterior of the network, which the divergences are measured from;
- nearest centroid in a hidden layer of the frozen network's own encoder;
- a recogniser with an encoder of the same size, trained on the same images by forward KL (from
  labels, without the model) or by reverse KL (from the network's posterior, without labels).

Every choice is made on validation images: the layer by accuracy, the epoch at which a recogniser is
taken by its own divergence, temperatures by ``match_temperature``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from studies.baselines.config import BaselinesConfig
from studies.baselines.figures import draw_baselines
from studies.baselines.measure import CENTROID, METHODS, Compared, Scores, compare
from studies.baselines.training import train_model, train_recogniser
from studies.core.divergences import passes_in_words
from studies.core.image_data import image_sets, sets_checksum
from studies.core.image_networks import AFFINE, PAPER
from studies.core.protocol import Found, Report, Study
from studies.core.table import Row

NETWORKS = (PAPER, AFFINE)
CLAIM = "C5"


@dataclass(frozen=True)
class BaselinesSeed:
    """Everything that is measured of one seed, by network."""

    networks: dict[str, Compared]


class BaselinesStudy(Study[BaselinesConfig]):
    """One gradient step, nearest centroids and recognisers, compared with enumeration."""

    name = "baselines"
    title = "Inferences of one pass on images: one gradient step and its baselines"
    config_type = BaselinesConfig
    reads_files = True

    def inputs(self) -> dict[str, Any]:
        """Return the checksum of the images, whatever their split."""
        return {"images": sets_checksum(self.config.dataset, self.data)}

    def measure(self, seed: int, report: Report) -> BaselinesSeed:
        """Train the networks and the recognisers of one seed, and score every method."""
        config, sets = self.config, image_sets(self.config.dataset, self.data, seed)
        if config.judged_on == "validation":
            sets = sets._replace(test=sets.validation)
        found, forward = {}, None
        for name in NETWORKS:
            report(name)
            model = train_model(config, sets, name, seed)
            # Of the model it takes the uniform prior alone: one serves all.
            forward = forward or train_recogniser(config, sets, model, seed, reverse=False)
            found[name] = compare(config, sets, model, forward, seed)
        return BaselinesSeed(found)

    def table(self, found: Found) -> list[Row]:
        """Return accuracy, log score and divergences of every method on every network."""
        rows = []
        for network, by_method in _by_method(found[self.name]).items():
            layers = {record.networks[network].layer for record in found[self.name]}
            for method, scores in by_method.items():
                note = passes_in_words(scores[0].passes)
                if method == CENTROID:
                    note += f"; layers chosen: {', '.join(sorted(layers))}"
                columns = {
                    "accuracy, %": [100 * s.accuracy for s in scores],
                    "-log q(label), nats": [s.log_score for s in scores],
                    "KL(exact || it), nats": [s.kl for s in scores],
                    "KL(exact || it), one temperature, nats": [s.tempered_kl for s in scores],
                }
                for what, values in columns.items():
                    first = note if what.startswith("accuracy") else ""
                    rows.append(Row.of(CLAIM, f"{network}: {method}: {what}", values, note=first))
        return rows

    def figures(self, found: Found) -> Iterator[tuple[str, Figure]]:
        """Draw accuracies and divergences."""
        yield "baselines", draw_baselines(_by_method(found[self.name]))


def _by_method(records: Sequence[BaselinesSeed]) -> dict[str, dict[str, list[Scores]]]:
    return {
        network: {m: [r.networks[network].scores[m] for r in records] for m in METHODS}
        for network in NETWORKS
    }
