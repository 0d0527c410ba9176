"""What the language study keeps of a seed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from studies.language.identify import EXACT, Identified
from studies.language.stream import Stream
from studies.language.training import HEAD, Curve


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
        return EXACT in self.identified[HEAD].accuracy

    @property
    def title(self) -> str:
        """What it is reported under: sets of as many corpora are reported together."""
        return self.texts if self.exact else f"{len(self.corpora)} corpora"
