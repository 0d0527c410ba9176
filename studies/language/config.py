"""The configuration of the language study."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from studies.core.protocol import Seeds

JUDGED_AFTER = 20  # words after which targets ask for the corpus
BIGRAMS: dict[str, Any] = {
    "draws": 0,
    "embedding_size": 16,
    "hidden_size": 128,
    "length": 50,
    "batch": 30,
    "rate": 1e-2,
    "decay": 0.5,
    "smoothing": 0.0,
    "bias_rate": 1.0,
    "average": 0.0,
    "updates_all": 800,
}
"""Settings for random bigram languages: small networks, quickly trained."""
TRANSFORMERS = {
    "plain": "plain transformer",
    "input": "transformer, task at the input",
    "head": "transformer, task at the head",
}
"""The networks that ``transformers`` names."""
OF_TRANSFORMERS = frozenset({"transformer_rate", "warm_up", "clip", "layers", "heads"})
"""The fields that no LSTM depends on."""
OF_LSTMS = frozenset({"smoothing", "bias_rate", "average"})
"""The fields that no transformer depends on."""


@dataclass(frozen=True)
class LanguageConfig(Seeds):
    """Everything the language study depends on. The defaults are those for real corpora.

    ``--data`` is a folder with ``train/``, ``dev/`` and ``test/``, a file for each corpus. Without
    it the texts are random bigram languages, whose posterior is exact.

    Attributes:
        seeds: how many networks of each kind are trained on each set of corpora.
        first_seed: their seeds are ``first_seed``, ``first_seed + 1``, ...
        draws: how many sets of a few corpora are drawn from all; 0 for none.
        draw_size: corpora of each.
        all_at_once: whether networks are also trained on all corpora together.
        leave_one_out: whether networks are trained without each corpus in turn, to adapt to it.
        vocabulary_size: V.
        embedding_size: of a word.
        hidden_size: H of the LSTM.
        length: words of a training sequence.
        batch: about how many sequences a weight update sees, the corpora's shares being equal.
        rate: Adam's.
        decay: share of the updates, the last ones, over which the rate falls to zero.
        smoothing: added to the counts of words whose log frequencies an LSTM's biases start at,
            those of each corpus where the corpus enters the logits, else of all; there these biases
            alone predict the first word of a text. 0 starts at zero.
        bias_rate: the rate of an LSTM's biases of words, in units of ``rate``.
        average: an LSTM's weights are averages over training, exponential with this factor an
            update; 0 takes the last ones.
        transformers: which of them learn beside the LSTMs, with as many parameters: plain, input,
            head (where the task enters). They infer the corpus of texts up to ``length`` words.
        transformer_rate: Adam's for them.
        warm_up: their first updates, over which the rate rises.
        clip: the most that their gradient's norm may be.
        layers: of them.
        heads: of their attention.
        updates: weight updates on a few corpora.
        updates_all: on all of them.
        updates_without_one: on all but one.
        every: updates from one measurement of the test loss to the next.
        lengths: numbers of words after which the corpus is inferred.
        fit_windows: texts of each corpus, of dev, that calibrations are fitted on.
        judge_windows: texts of each corpus, of test.
        iterative_steps: of iterative inference, by Adam on the logits.
        iterative_rate: its rate.
        piece: words of each piece of the stream whose corpus changes.
        pieces: how many pieces it has.
        adaptation_words: sizes of the sample of an unseen corpus that a network adapts to.
    """

    seeds: int = 1
    first_seed: int = 0
    draws: int = 3
    draw_size: int = 3
    all_at_once: bool = True
    leave_one_out: bool = False
    vocabulary_size: int = 4000
    embedding_size: int = 100
    hidden_size: int = 200
    length: int = 35
    batch: int = 32
    rate: float = 3e-3
    decay: float = 0.0
    smoothing: float = 0.3
    bias_rate: float = 0.1
    average: float = 0.99
    transformers: tuple[str, ...] = ()
    transformer_rate: float = 5e-3
    warm_up: int = 40
    clip: float = 1.0
    layers: int = 2
    heads: int = 4
    updates: int = 700
    updates_all: int = 1200
    updates_without_one: int = 800
    every: int = 50
    lengths: tuple[int, ...] = (1, 2, 5, 10, 20, 50)
    fit_windows: int = 100
    judge_windows: int = 300
    iterative_steps: int = 20
    iterative_rate: float = 0.3
    piece: int = 50
    pieces: int = 40
    adaptation_words: tuple[int, ...] = (100, 1000)
    method_fields = frozenset(
        {
            *("all_at_once", "leave_one_out", "embedding_size", "hidden_size", "batch", "rate"),
            *("decay", *OF_LSTMS, "updates", "updates_all", "updates_without_one", "every"),
            *("iterative_steps", "iterative_rate"),
            *("transformers", *OF_TRANSFORMERS),
        }
    )
    selection_fields = frozenset({"transformers"})

    def __post_init__(self) -> None:
        self.check_at_least_one("seeds", "draw_size", "updates", "updates_all", "every", "length")
        self.check_at_least_one("warm_up", "layers", "heads")
        if self.draws < 0:
            raise ValueError(f"draws must not be negative, got {self.draws}")
        if not (self.draws or self.all_at_once or self.leave_one_out):
            raise ValueError("nothing to learn: draw corpora, take all at once, or leave one out")
        if self.draw_size < 2:
            raise ValueError(f"draw_size must be at least 2 corpora, got {self.draw_size}")
        if JUDGED_AFTER not in self.lengths or min(self.lengths) < 1:
            raise ValueError(
                f"lengths must be positive and contain {JUDGED_AFTER} words, got {self.lengths}"
            )
        if min(self.smoothing, self.bias_rate) < 0 or not 0 <= self.average < 1:
            raise ValueError(
                "smoothing and bias_rate must not be negative, and average from 0 to below 1, got "
                f"{self.smoothing}, {self.bias_rate} and {self.average}"
            )
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay must be from 0 to 1, got {self.decay}")
        if unknown := set(self.transformers) - TRANSFORMERS.keys():
            raise ValueError(
                f"transformers should be of {', '.join(TRANSFORMERS)}, got {sorted(unknown)}"
            )
        if self.transformers and self.length < JUDGED_AFTER:
            raise ValueError(
                f"length must be at least {JUDGED_AFTER} with transformers, which know no later "
                f"positions than they learned; got {self.length}"
            )
        if not (self.transformer_rate > 0 and self.clip > 0):
            raise ValueError(
                "transformer_rate and clip must be positive, got "
                f"{self.transformer_rate} and {self.clip}"
            )
        for name in ("updates", "updates_all", "updates_without_one"):
            if getattr(self, name) % self.every:
                raise ValueError(
                    f"{name} must be a multiple of every = {self.every}, got {getattr(self, name)}"
                )

    def for_bigrams(self) -> LanguageConfig:
        """Return the settings for random bigram languages; those that were changed stay.

        Raises:
            ValueError: for settings that choose among corpora.
        """
        chosen = self.draws not in (LanguageConfig.draws, BIGRAMS["draws"])
        if chosen or self.leave_one_out or not self.all_at_once:
            raise ValueError(
                "draws, all_at_once and leave_one_out choose among corpora, and bigram languages "
                "are one set: name the folder of the corpora with --data"
            )
        usual = LanguageConfig()
        unchanged = {n: v for n, v in BIGRAMS.items() if getattr(self, n) == getattr(usual, n)}
        return replace(self, **unchanged)

    def fast(self) -> LanguageConfig:
        """Return a smoke test: everything runs in seconds, and the numbers are meaningless."""
        return replace(
            self,
            seeds=min(self.seeds, 2),
            vocabulary_size=30,
            embedding_size=6,
            hidden_size=8,
            length=JUDGED_AFTER if self.transformers else 10,
            layers=1,
            heads=2,
            transformer_rate=3e-2,
            warm_up=1,
            updates=4,
            updates_all=4,
            updates_without_one=4,
            every=2,
            lengths=(1, JUDGED_AFTER),
            fit_windows=10,
            judge_windows=20,
            iterative_steps=2,
            piece=10,
            pieces=6,
            adaptation_words=(20,),
        )
