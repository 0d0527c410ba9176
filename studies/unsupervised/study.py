"""The study of unsupervised learning: streams learned online and in batches, with few labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn

from gbi_pyro.export.inference_data import to_inference_data
from gbi_pyro.inference.chain import BayesFilter
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.task_chain import TaskChain
from studies.core.protocol import Found, Part, Study
from studies.core.streams import exact_filter
from studies.core.table import Row
from studies.unsupervised import batch, figures, labels, online, recurrent, streams, table
from studies.unsupervised.config import SIDE_BY_SIDE, USUAL, UnsupervisedConfig, generator
from studies.unsupervised.networks import SideBySide
from studies.unsupervised.streams import Condition

ONLINE, BATCH, NUMBER, LABELS, LSTM = "online", "batch", "number of tasks", "labels", "LSTM"
WRITTEN = Condition(5, USUAL)  # whose network with few labels is written


class UnsupervisedStudy(Study[UnsupervisedConfig]):
    """Tasks learned without labels, compared with the exact filter and with baselines."""

    name = "unsupervised"
    title = "Unsupervised learning of tasks, compared with the exact filter and baselines"
    config_type = UnsupervisedConfig

    @property
    def kinds(self) -> dict[str, tuple[type, Any, list[Condition]]]:
        """The measurements: by name their record, their function and their conditions."""
        config = self.config
        return {
            ONLINE: (online.OnlineSeed, online.measure_online, streams.online_conditions(config)),
            BATCH: (batch.FoundTasks, batch.measure_found, streams.batch_conditions(config)),
            NUMBER: (batch.ChosenNumber, batch.measure_number, streams.number_conditions(config)),
            LABELS: (labels.LabelsSeed, labels.measure_labels, streams.label_conditions(config)),
        }

    def parts(self) -> list[Part[Any]]:
        """Return a part for each condition; networks of its seeds run side by side."""
        config = self.config
        blocks = [
            Part(f"{kind}: {c.name}", record, partial(measure, config, c), SIDE_BY_SIDE)
            for kind, (record, measure, conditions) in self.kinds.items()
            for c in conditions
        ]
        measure = recurrent.measure_recurrent
        single = [
            Part.of_seed(name, recurrent.RecurrentSeed, partial(measure, config, *case))
            for case, name in _recurrent_cases().items()
        ]
        return [*blocks, *single]

    def table(self, found: Found) -> list[Row]:
        """Return every quantity, with its target."""
        by_kind = {kind: self._by_condition(found, kind) for kind in self.kinds}
        lstm = {case: found[name] for case, name in _recurrent_cases().items()}
        return [
            *table.online_rows(by_kind[ONLINE]),
            *table.batch_rows(by_kind[BATCH]),
            *table.number_rows(by_kind[NUMBER]),
            *table.recurrent_rows(lstm),
            *table.label_rows(by_kind[LABELS]),
            *table.speed_rows(by_kind[ONLINE]),
        ]

    def figures(self, found: Found) -> Iterator[tuple[str, Figure]]:
        """Draw online learning, few labels and the choice of the number of tasks."""
        yield "online", figures.draw_online(self._by_condition(found, ONLINE))
        yield "labels", figures.draw_labels(self._by_condition(found, LABELS))
        number = self._by_condition(found, NUMBER)
        yield "number", figures.draw_number(number, self.config.most_tasks)

    def posterior(self, found: Found) -> Any:
        """Return the filter that the first data set has by few labels, and the exact one."""
        config, first = self.config, self._first(found)
        stream = WRITTEN.stream(config)
        draw = generator(config.first_seed, "held out")
        x, z = stream.sample(config.test_sequences, config.length, draw)
        chain = TaskChain.sticky(stream.num_tasks, first.hazard)
        infer = BayesFilter(Enumeration(check=False), chain)
        return to_inference_data(
            infer(self.networks(found)["few_labels"], x),
            observed={"x": x},
            labels={"z": z},
            exact=exact_filter(stream, x),
            attributes={"study": self.name, "labels": labels.FEW, "seed": config.first_seed},
        )

    def networks(self, found: Found) -> Mapping[str, nn.Module]:
        """Return the network that the first data set has by few labels."""
        first = self._first(found)
        means = first.means.float().unsqueeze(0)
        return {"few_labels": SideBySide(means, torch.tensor([first.sigma]))}

    def _first(self, found: Found) -> labels.LabelsSeed:
        record: labels.LabelsSeed = found[f"{LABELS}: {WRITTEN.name}"][0]
        return record

    def _by_condition(self, found: Found, kind: str) -> dict[Condition, Any]:
        return {c: found[f"{kind}: {c.name}"] for c in self.kinds[kind][2]}


def _recurrent_cases() -> dict[tuple[Condition, str], str]:
    """Return the names of the parts of recurrent networks, by condition and start."""
    starts, conditions = recurrent.STARTS, [Condition(K, USUAL) for K in recurrent.RECURRENT]
    return {(c, start): f"{LSTM}: {c.name}, {start}" for start in starts for c in conditions}
