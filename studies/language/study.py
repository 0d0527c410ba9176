"""The language study: which corpus a text comes from, and adaptation to a new one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn

from gbi_pyro.export.inference_data import to_inference_data
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.models.language_model import LanguageModel
from studies.core.protocol import Found, Part, Report, Study
from studies.core.table import Row
from studies.language import figures
from studies.language.adaptation import ADAPTING, Adaptation, Adapted, Way, adapt, compare_ways
from studies.language.config import (
    JUDGED_AFTER,
    OF_LSTMS,
    OF_TRANSFORMERS,
    TRANSFORMERS,
    LanguageConfig,
)
from studies.language.identify import identify, judged_windows
from studies.language.record import LanguageSeed
from studies.language.stream import read_stream
from studies.language.table import adaptation_markdown, language_table
from studies.language.texts import Choice, choose_sets, read_texts, texts_checksum
from studies.language.training import HEAD, NETWORKS, PAPER, SAME_TASK, build, train

CONDITIONED = (PAPER, HEAD)
SHOWN_TEXTS = 50  # of each corpus, in the posterior that is written


class LanguageStudy(Study[LanguageConfig]):
    """Word-level networks that are given the corpus of a text, and infer it."""

    name = "language"
    title = "The corpus of a text from a few words, and adaptation to a new one (Figure 5)"
    config_type = LanguageConfig
    reads_files = True
    uses_device = True
    trains_together = True

    def __init__(self, config: LanguageConfig, data: Path | None = None) -> None:
        super().__init__(config if data else config.for_bigrams(), data)

    def inputs(self) -> dict[str, Any]:
        """Return the checksum of the corpora."""
        return {"texts": texts_checksum(self.data)} if self.data else {}

    def parts(self) -> list[Part[Any]]:
        """Return one part for the LSTMs of each set of texts, and one for each transformer."""
        found: list[Part[Any]] = []
        kinds = [(TRANSFORMERS[k],) for k in self.config.transformers]
        for choice in choose_sets(self.config, self.data):
            lstm = partial(Part.of_seed, choice.name, unused=OF_TRANSFORMERS)
            if choice.left_out:
                found.append(lstm(Adaptation, partial(self._adapt, choice)))
                continue
            found.append(lstm(LanguageSeed, partial(self._learn, choice, NETWORKS)))
            found += [
                Part.of_seed(
                    f"{choice.name}, {kind[0]}",
                    LanguageSeed,
                    partial(self._learn, choice, kind),
                    unused=OF_LSTMS,
                )
                for kind in kinds
            ]
        return found

    def _learn(
        self, choice: Choice, kinds: Sequence[str], seed: int, report: Report
    ) -> LanguageSeed:
        """Train kinds of network on a set of texts, and infer corpora with them."""
        config, texts = self.config, read_texts(self.config, self.data, choice)
        networks, curves = {}, {}
        for kind in kinds:
            report(f"training, {kind}")
            networks[kind], curves[kind] = train(config, texts, kind, seed, self.checkpoints)
        report("inferring the corpus")
        inferring = [kind for kind in kinds if SAME_TASK.get(kind, kind) in CONDITIONED]
        return LanguageSeed(
            texts=texts.name,
            corpora=texts.sets.names,
            vocabulary_size=len(texts.sets.vocabulary),
            curves=curves,
            identified={kind: identify(config, texts, networks[kind]) for kind in inferring},
            streams={kind: read_stream(config, texts, networks[kind]) for kind in inferring},
            weights={kind: network.state_dict() for kind, network in networks.items()},
        )

    def _adapt(self, choice: Choice, seed: int, report: Report) -> Adaptation:
        """Train networks without a corpus, and adapt them to it."""
        config, texts = self.config, read_texts(self.config, self.data, choice)
        assert choice.left_out
        losses: dict[Way, torch.Tensor] = {}
        for kind in ADAPTING:
            report(f"training, {kind}")
            network, _ = train(config, texts, kind, seed, self.checkpoints)
            report(f"adapting, {kind}")
            losses |= adapt(config, texts, kind, network)
        return Adaptation(choice.left_out, losses)

    def table(self, found: Found) -> list[Row]:
        """Return how networks learn, how well corpora are inferred, and gains by adaptation."""
        return language_table(_groups(found), _adapted(found))

    def figures(self, found: Found) -> Iterator[tuple[str, Figure]]:
        """Draw Figure 5 of the paper, and a text whose corpus changes."""
        groups = _groups(found)
        for title, records in groups.items():
            name = title.replace(" ", "-")
            yield f"learning-{name}", figures.figure_learning(records)
            if self.config.transformers:
                drawn = figures.figure_learning(records, figures.BESIDE)
                yield f"transformers-{name}", drawn
        if adapted := _adapted(found):
            yield "adaptation", figures.figure_adaptation(adapted)
        if groups:
            yield "stream", figures.figure_stream(_example(found))

    def posterior(self, found: Found) -> Any:
        """Return calibrated one step on test texts of the last set, with enumeration beside it."""
        if not _groups(found):
            return None
        config, record = self.config, _example(found)
        (choice,) = [c for c in choose_sets(config, self.data) if c.name == record.texts]
        tokens, labels = judged_windows(config, read_texts(config, self.data, choice))
        few = [part[:SHOWN_TEXTS] for part in tokens[:, :JUDGED_AFTER].chunk(len(record.corpora))]
        true = [part[:SHOWN_TEXTS] for part in labels.chunk(len(record.corpora))]
        network, words = self._networks(record)[HEAD], torch.cat(few)
        calibration = record.identified[HEAD].calibration
        return to_inference_data(
            OneStepGradient(calibration=calibration)(network, words),
            observed={"words": words},
            dims={"words": ["sequence", "time"]},
            labels={"z": torch.cat(true).unsqueeze(-1)},
            exact=Enumeration(check=False)(network, words),
            task_names={"z": list(record.corpora)},
            attributes={
                "study": self.name,
                "corpora": record.texts,
                "seed": self.config.first_seed,
            },
        )

    def networks(self, found: Found) -> Mapping[str, nn.Module]:
        """Return the first seed's networks of the last set."""
        if not _groups(found):
            return {}
        return {
            k.replace(",", "").replace(" ", "_"): n
            for k, n in self._networks(_example(found)).items()
        }

    def extra_files(self, found: Found) -> Mapping[str, Any]:
        """Return every way to adapt, corpus by corpus."""
        if not (adapted := _adapted(found)):
            return {}
        return {
            "adaptation.json": {"ways": [asdict(a) for a in adapted]},
            "adaptation.md": adaptation_markdown(adapted),
        }

    def _networks(self, record: LanguageSeed) -> dict[str, LanguageModel]:
        networks = {}
        for kind, weights in record.weights.items():
            sizes = record.vocabulary_size, len(record.corpora)
            networks[kind] = build(self.config, *sizes, kind, self.config.first_seed)
            networks[kind].load_state_dict(weights)
            networks[kind].requires_grad_(False).eval()
        return networks


def _groups(found: Found) -> dict[str, list[LanguageSeed]]:
    """Return the records of sets that are reported together, each with all its networks."""
    whole: dict[tuple[str, int], LanguageSeed] = {}
    for records in found.values():
        for i, record in enumerate(records):
            if isinstance(record, LanguageSeed):
                before = whole.get((record.texts, i))
                whole[record.texts, i] = before.with_networks_of(record) if before else record
    groups: dict[str, list[LanguageSeed]] = {}
    for record in whole.values():
        groups.setdefault(record.title, []).append(record)
    return groups


def _example(found: Found) -> LanguageSeed:
    """Return the first record of the last group."""
    return list(_groups(found).values())[-1][0]


def _adapted(found: Found) -> list[Adapted]:
    """Return the results of adaptation, corpus by corpus."""
    records = [r for r in found.values() if isinstance(r[0], Adaptation)]
    return [adapted for of_corpus in records for adapted in compare_ways(of_corpus)]
