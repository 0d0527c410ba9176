"""What the language study keeps of a seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from studies.language.identify import EXACT, Identified
from studies.language.stream import Stream
from studies.language.training import Curve


@dataclass(frozen=True)
class LanguageSeed:
    """One set of texts with the networks of one seed.

    Attributes:
        texts: the name of the set.
        corpora: the names of its corpora.
        vocabulary_size: words of its vocabulary.
        curves: how each network learned.
        identified: how well each network with a task infers the corpus.
        streams: likewise in a text whose corpus changes.
        weights: of the networks.
    """

    texts: str
    corpora: tuple[str, ...]
    vocabulary_size: int
    curves: dict[str, Curve]
    identified: dict[str, Identified]
    streams: dict[str, Stream]
    weights: dict[str, dict[str, Tensor]]

    @property
    def exact(self) -> bool:
        """Whether the exact posterior is known."""
        return any(EXACT in found.accuracy for found in self.identified.values())

    def with_networks_of(self, other: LanguageSeed) -> LanguageSeed:
        """Return the record with the networks of another of the same texts and seed."""
        dicts = ("curves", "identified", "streams", "weights")
        return replace(self, **{d: getattr(self, d) | getattr(other, d) for d in dicts})

    @property
    def title(self) -> str:
        """What it is reported under: sets of as many corpora are reported together."""
        return self.texts if self.exact else f"{len(self.corpora)} corpora"
