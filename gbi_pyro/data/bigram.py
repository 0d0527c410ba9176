"""Random bigram languages: texts that need no file and whose exact posterior is known.

A language is a Markov chain over words. The exact posterior over
the language follows word by word from the chains, so that every estimate can be compared with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gbi_pyro.data._validate import check_count
from gbi_pyro.data.switching import GeometricBlocks, SwitchingStream

ROUNDING = 1e-9  # by which a float64 row of probabilities may miss the sum 1
LEAST_CONCENTRATION = 1e-3  # below, all gamma variates of a row underflow


class BigramStream(NamedTuple):
    """Sampled texts.

    Attributes:
        tokens: ids of the words, (N, T) int64.
        languages: id of the language, one per text, (N,), or one per word, (N, T); int64.
    """

    tokens: Tensor
    languages: Tensor


@dataclass(frozen=True, eq=False)
class BigramLanguages:
    """K languages over the same V words, each a Markov chain of first order.

    p(x_1..T | k) = initial[k, x_1] prod_{t > 1} transition[k, x_{t-1}, x_t].

    Attributes:
        initial: probability of the first word, (K, V) float64.
        transition: probability of a word, columns, after another, rows, (K, V, V) float64.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> languages = BigramLanguages.draw(num_languages=3, generator=generator)
        >>> tokens, _ = languages.sample(2, 50, generator, languages=torch.tensor([2, 0]))
        >>> languages.log_posterior(tokens)[:, -1].argmax(-1)
        tensor([2, 0])
    """

    initial: Tensor
    transition: Tensor

    def __post_init__(self) -> None:
        shape = tuple(self.initial.shape)
        if len(shape) != 2 or min(shape) < 2:
            raise ValueError(
                f"initial should be (K, V), of two languages and two words or more; got {shape}: "
                "with a single one nothing is left to infer"
            )
        want = (*shape, shape[-1])
        if tuple(self.transition.shape) != want:
            raise ValueError(
                f"transition should be (K, V, V) = {want}, as initial is {shape}; got "
                f"{tuple(self.transition.shape)}"
            )
        for name, rows in (("initial", self.initial), ("transition", self.transition)):
            if rows.dtype != torch.float64:
                raise ValueError(f"{name} should be float64; got {rows.dtype}: call .double()")
            # Written so that NaN fails too.
            if not ((rows >= 0).all() and ((rows.sum(-1) - 1).abs() <= ROUNDING).all()):
                raise ValueError(
                    f"{name} should have rows of probabilities, each with sum 1; got entries from "
                    f"{rows.min():.6g} and sums up to {rows.sum(-1).max():.6g}: divide each row by "
                    "its sum"
                )

    @classmethod
    def draw(
        cls,
        num_languages: int = 5,
        num_words: int = 32,
        concentration: float = 3.0,
        *,
        generator: torch.Generator,
    ) -> BigramLanguages:
        """Draw each row of each language from a symmetric Dirichlet.

        The concentration a sets how alike the languages are: a word of one of them tells it from
        another one by E KL(row || row') = (1 - 1 / V) / a nats on average.

        Args:
            num_languages: K, at least 2.
            num_words: V, at least 2.
            concentration: a, of every word, from 0.001 up; with the default 20 words name one of
                five languages about nine times in ten.
            generator: the only source of randomness; its device is where the languages lie.

        Raises:
            ValueError: if an option is out of range.
        """
        check_count("num_languages", num_languages)
        check_count("num_words", num_words)
        if not LEAST_CONCENTRATION <= concentration < math.inf:
            raise ValueError(
                f"concentration should be at least {LEAST_CONCENTRATION} and finite; got "
                f"{concentration}"
            )
        shape = (num_languages, num_words + 1, num_words)
        each = torch.full(shape, concentration, dtype=torch.float64, device=generator.device)
        # torch.distributions.Dirichlet calls this too, but takes no generator.
        rows = torch._sample_dirichlet(each, generator)
        return cls(rows[:, -1], rows[:, :-1])

    @property
    def num_languages(self) -> int:
        """K, the number of languages."""
        return self.initial.shape[0]

    @property
    def num_words(self) -> int:
        """V, the number of words."""
        return self.initial.shape[1]

    @property
    def _rows(self) -> Tensor:
        """All rows of each language, (K, V + 1, V): the first word follows a word V."""
        return torch.cat([self.transition, self.initial.unsqueeze(1)], 1)

    def sample(
        self,
        num_sequences: int,
        length: int,
        generator: torch.Generator,
        languages: Tensor | None = None,
    ) -> BigramStream:
        """Draw texts, each in one language.

        Args:
            num_sequences: N, how many texts.
            length: T, words of each.
            generator: the only source of randomness; its device is where the texts lie.
            languages: language of each text, (N,); ``None`` draws them, each equally probable.

        Returns:
            Tokens (N, T), languages (N,).

        Raises:
            ValueError: if a count is not a positive integer or ``languages`` does not fit.
        """
        check_count("num_sequences", num_sequences)
        check_count("length", length)
        K, shape, device = self.num_languages, (num_sequences,), generator.device
        if languages is None:
            languages = torch.randint(K, shape, generator=generator, device=device)
        _check_ids("languages", languages, K)
        if languages.shape != shape:
            raise ValueError(
                f"languages should be {shape}, one per text; got {tuple(languages.shape)}: "
                "sample_switching changes the language within a text"
            )
        languages = languages.to(device)
        each_word = languages.unsqueeze(-1).expand(-1, length)
        return BigramStream(self._words(each_word, generator), languages)

    def sample_switching(
        self, num_sequences: int, length: int, hazard: float, generator: torch.Generator
    ) -> BigramStream:
        """Draw texts within which the language changes.

        Before each word but the first the language changes with probability ``hazard`` to one of
        the K - 1 others, each equally probable. The word after a change is drawn from the new
        language's row of the word before it. The exact posterior is ``hmm_posterior`` of this chain
        with :meth:`log_likelihood` as its emission.

        Args:
            num_sequences: N, how many texts.
            length: T, words of each.
            hazard: probability of a change at a word, in (0, 1).
            generator: the only source of randomness; its device is where the texts lie.

        Returns:
            Tokens and the language of each of them, (N, T) both.

        Raises:
            ValueError: if a count is not a positive integer or ``hazard`` out of range.
        """
        chain = SwitchingStream(tuple(range(self.num_languages)), blocks=GeometricBlocks(hazard))
        languages = chain.sample(num_sequences, length, generator).z
        return BigramStream(self._words(languages, generator), languages)

    def _words(self, languages: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the words of texts whose language at each word is given, (N, T) to (N, T)."""
        device = languages.device
        cumulative = self._rows.to(device).cumsum(-1)
        # So that the last value is one, above every draw, and a word of probability zero has none.
        cumulative = cumulative / cumulative[..., -1:]
        shape = (*languages.T.shape, 1)
        uniform = torch.rand(shape, dtype=torch.float64, device=device, generator=generator)
        word, words = torch.full_like(languages[:, 0], self.num_words), []
        for language, draw in zip(languages.T, uniform, strict=True):
            word = torch.searchsorted(cumulative[language, word], draw, right=True).squeeze(-1)
            words.append(word)
        return torch.stack(words, -1)

    def log_likelihood(self, tokens: Tensor) -> Tensor:
        """Return log p(x_t | x_{t-1}, k), the log likelihood of each language at each word.

        Args:
            tokens: ids of the words, (N, T).

        Returns:
            (N, T, K) float64, the first word by ``initial``; -inf where a language forbids a word.

        Raises:
            ValueError: if tokens are not (N, T) ids of words, T >= 1.
        """
        _check_ids("tokens", tokens, self.num_words)
        if tokens.ndim != 2 or not tokens.shape[-1]:
            raise ValueError(
                f"tokens should be (N, T), a text per row of one word or more; got "
                f"{tuple(tokens.shape)}"
            )
        previous = torch.nn.functional.pad(tokens[:, :-1], (1, 0), value=self.num_words)
        return self._rows.log().to(tokens.device)[:, previous, tokens].movedim(0, -1)

    def log_posterior(self, tokens: Tensor, log_prior: Tensor | None = None) -> Tensor:
        """Return the exact posterior over the language after each word: log p(k | x_1..t).

        Args:
            tokens: ids of the words, (N, T), each text in one language.
            log_prior: log p(k), (K,) or (N, K); ``None`` is uniform.

        Returns:
            (N, T, K) float64, normalised.

        Raises:
            ValueError: if an argument does not fit, or no language can have produced a text.
        """
        log_joint = self.log_likelihood(tokens).cumsum(1)
        if log_prior is not None:
            allowed = ((self.num_languages,), (len(tokens), self.num_languages))
            if tuple(log_prior.shape) not in allowed:
                raise ValueError(
                    f"log_prior should be (K,) = {allowed[0]} or (N, K) = {allowed[1]}; got "
                    f"{tuple(log_prior.shape)}"
                )
            # Such a sum float32 can hold; written so that NaN fails too.
            if not (log_prior.logsumexp(-1).abs() <= 1e-4).all():
                raise ValueError(
                    "log_prior should hold log probabilities with sum 1; got a log sum of "
                    f"{log_prior.logsumexp(-1).abs().max():.6g}: pass prior.log()"
                )
            log_joint = log_joint + log_prior.to(log_joint).unsqueeze(-2)
        impossible = (log_joint == -math.inf).all(-1).nonzero()
        if len(impossible):
            text, word = impossible[0].tolist()
            raise ValueError(
                f"tokens should have positive probability in some language; got text {text}, "
                f"impossible from word {word} on: sample from these languages, or smooth their rows"
            )
        return log_joint.log_softmax(-1)


def _check_ids(name: str, ids: Tensor, count: int) -> None:
    if ids.dtype != torch.int64:
        raise ValueError(f"{name} should be ids, int64; got {ids.dtype}: call .long()")
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < count:
        raise ValueError(
            f"{name} should be in 0..{count - 1}; got ids from {int(ids.min())} to {int(ids.max())}"
        )
