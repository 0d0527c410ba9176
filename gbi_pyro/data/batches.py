"""Windows of texts, and batches with equally many windows of every corpus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gbi_pyro.data._validate import check_count


def windows(tokens: Tensor, length: int, start: int = 0) -> Tensor:
    """Cut a text into windows that follow each other; what is left at the end is dropped.

    Args:
        tokens: ids of a text, (N,).
        length: tokens of each window, T.
        start: first token of the first window.

    Returns:
        ((N - start) // T, T), a view of the text.

    Raises:
        ValueError: if the text is too short for one window, or an argument out of range.

    Example:
        >>> windows(torch.arange(8), length=3, start=1)
        tensor([[1, 2, 3],
                [4, 5, 6]])
    """
    check_count("length", length)
    if tokens.ndim != 1:
        raise ValueError(f"tokens should be one text, (N,); got {tuple(tokens.shape)}")
    if not isinstance(start, int) or not 0 <= start <= len(tokens) - length:
        raise ValueError(
            f"start should be from 0 to {len(tokens) - length}, to leave a window of {length} in "
            f"the {len(tokens)} tokens; got {start!r}: take shorter windows or a longer text"
        )
    return tokens[start:].unfold(0, length, length)


class TextBatch(NamedTuple):
    """Windows of several corpora.

    Attributes:
        tokens: ids, (B, T) int64.
        corpora: id of the corpus of each window, (B,) int64.
    """

    tokens: Tensor
    corpora: Tensor


def balanced_batches(
    texts: Sequence[Tensor],
    length: int,
    per_corpus: int,
    generator: torch.Generator,
    num_batches: int,
) -> Iterator[TextBatch]:
    """Draw batches with equally many windows of every corpus, whatever its size.

    The windows of a corpus come in random order, each once before any comes again; every pass over
    it begins at another offset, so that windows differ between passes. A small corpus is passed
    over more often.

    Args:
        texts: ids of each corpus, (N_k,) int64, K of them.
        length: tokens of each window, T.
        per_corpus: windows of each corpus in a batch.
        generator: the only source of randomness.
        num_batches: how many batches.

    Returns:
        An iterator over batches of K ``per_corpus`` windows, corpus after corpus, on the device of
        the texts.

    Raises:
        ValueError: if a text is too short for one window, or a count is not a positive integer.

    Example:
        >>> texts = torch.arange(6), torch.arange(100, 200)
        >>> generator = torch.Generator().manual_seed(0)
        >>> batch = next(balanced_batches(texts, 3, 2, generator, num_batches=1))
        >>> batch.tokens.shape, batch.corpora
        (torch.Size([4, 3]), tensor([0, 0, 1, 1]))
    """
    for name, count in (("per_corpus", per_corpus), ("num_batches", num_batches)):
        check_count(name, count)
    check_count("length", length)
    if not texts:
        raise ValueError("texts should hold one text per corpus; got none")
    short = [k for k, text in enumerate(texts) if text.ndim != 1 or len(text) < length]
    if short:
        raise ValueError(
            f"texts should each be (N,) with a window of {length} tokens or more; got "
            f"{tuple(texts[short[0]].shape)} for corpus {short[0]}: take shorter windows or leave "
            "the corpus out"
        )
    return _batches(texts, length, per_corpus, generator, num_batches)


def _batches(
    texts: Sequence[Tensor],
    length: int,
    per_corpus: int,
    generator: torch.Generator,
    num_batches: int,
) -> Iterator[TextBatch]:
    streams = [_passes(text, length, per_corpus, generator) for text in texts]
    corpora = torch.arange(len(texts), device=texts[0].device).repeat_interleave(per_corpus)
    for _ in range(num_batches):
        yield TextBatch(torch.cat([next(stream) for stream in streams]), corpora.clone())


def _passes(text: Tensor, length: int, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield ``count`` windows of a text after another, pass after pass, without end."""
    device = generator.device
    within = torch.arange(length, device=device)
    pending = torch.empty(0, dtype=torch.int64, device=device)
    # In a text of less than two windows not every offset leaves one.
    offsets = min(length, len(text) - length + 1)
    while True:
        while len(pending) < count:
            offset = torch.randint(offsets, (), generator=generator, device=device)
            number = (len(text) - int(offset)) // length
            order = torch.randperm(number, generator=generator, device=device)
            pending = torch.cat([pending, offset + length * order])
        first, pending = pending[:count, None], pending[count:]
        yield text[(first + within).to(text.device)]
