"""Windows of texts, and batches that mix the corpora alike."""

import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gbi_pyro.data import DATA_VARIABLE, balanced_batches, load_text, windows
from gbi_pyro.data.text import TEXT_FOLDER

REAL = Path(
    os.environ.get(DATA_VARIABLE) or Path(__file__).resolve().parents[2].parent / "shared" / "data"
)
SIGMAS = 5.0  # a sound test fails once in two million


@pytest.mark.parametrize(("length", "start"), [(1, 0), (4, 0), (4, 3), (5, 13), (18, 0), (17, 1)])
def test_windows_are_the_text_in_order_without_its_rest(length: int, start: int) -> None:
    text = torch.arange(100, 118)
    cut = windows(text, length, start)
    assert cut.shape == ((18 - start) // length, length)
    assert torch.equal(cut.flatten(), text[start : start + cut.numel()])
    assert 18 - start - cut.numel() < length
    assert cut.data_ptr() == text[start:].data_ptr()


TOKENS = torch.arange(9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda g: windows(TOKENS, 10), "start should be from 0 to -1.*window of 10 in the 9 tok"),
        (lambda g: windows(TOKENS, 3, 7), "start should be from 0 to 6.*got 7: take shorter"),
        (lambda g: windows(TOKENS, 3, -1), "start.*got -1"),
        (lambda g: windows(TOKENS, 3, 1.0), r"start.*got 1\.0"),
        (lambda g: windows(TOKENS, 0), "length should be an integer of at least 1; got 0"),
        (lambda g: windows(TOKENS[None], 3), r"tokens should be one text, \(N,\); got \(1, 9\)"),
        (lambda g: balanced_batches([], 3, 1, g, 1), "texts should hold one text per corpus"),
        (
            lambda g: balanced_batches([TOKENS, TOKENS[:2]], 3, 1, g, 1),
            r"a window of 3 tokens or more; got \(2,\) for corpus 1: take shorter",
        ),
        (lambda g: balanced_batches([TOKENS[None]], 3, 1, g, 1), r"texts.*got \(1, 9\) for corp"),
        (lambda g: balanced_batches([TOKENS], 0, 1, g, 1), "length should be.*got 0"),
        (lambda g: balanced_batches([TOKENS], 3, 0, g, 1), "per_corpus should be.*got 0"),
        (lambda g: balanced_batches([TOKENS], 3, 1, g, -1), "num_batches should be.*got -1"),
    ],
)
def test_invalid_windows_are_named_before_the_first_batch(
    make: Callable[[torch.Generator], object], message: str, generator: torch.Generator
) -> None:
    with pytest.raises(ValueError, match=message):
        make(generator)


# --- balanced batches

LENGTH = 7


def starts(num_tokens: int, per_corpus: int, num_batches: int, seed: int = 0) -> list[int]:
    """First tokens of the windows of the second corpus, whose tokens are 0, 1, 2, ..."""
    texts = torch.arange(-1000, -900), torch.arange(num_tokens)
    generator = torch.Generator().manual_seed(seed)
    batches = balanced_batches(texts, LENGTH, per_corpus, generator, num_batches)
    return [int(w[0]) for tokens, corpora in batches for w in tokens[corpora == 1]]


def passes(first: list[int], num_tokens: int) -> list[list[int]]:
    """Split a stream of windows where a whole pass is over; the last one may be unfinished."""
    found = []
    while first:
        number = (num_tokens - first[0] % LENGTH) // LENGTH
        found.append(first[:number])
        first = first[number:]
    return found


def test_every_corpus_gives_every_batch_the_same_number_of_its_own_windows() -> None:
    texts = [torch.arange(1000 * k, 1000 * k + n) for k, n in enumerate((900, 40, LENGTH))]
    generator = torch.Generator().manual_seed(0)
    batches = list(balanced_batches(texts, LENGTH, 5, generator, 30))
    assert len(batches) == 30
    for tokens, corpora in batches:
        assert tokens.shape == (15, LENGTH)
        assert tokens.dtype == corpora.dtype == torch.int64
        assert corpora.bincount().tolist() == [5, 5, 5]
        assert torch.equal(tokens // 1000, corpora[:, None].expand_as(tokens))
        assert torch.equal(tokens, tokens[:, :1] + torch.arange(LENGTH))
    # The corpus of one window has no other to show.
    assert all(torch.equal(t[c == 2], texts[2].expand(5, -1)) for t, c in batches)


@pytest.mark.parametrize("per_corpus", [1, 4, 50])
@pytest.mark.parametrize("num_tokens", [LENGTH, LENGTH + 3, 2 * LENGTH, 100])
def test_a_pass_shows_every_window_once_before_any_comes_again(
    num_tokens: int, per_corpus: int
) -> None:
    *whole, last = passes(starts(num_tokens, per_corpus, 400 // per_corpus), num_tokens)
    assert len(whole) > 20
    for one in whole:
        offset = min(one)
        assert offset < LENGTH
        assert sorted(one) == list(range(offset, num_tokens - LENGTH + 1, LENGTH))
    assert len(set(last)) == len(last)
    assert len({start % LENGTH for start in last}) == 1


@pytest.mark.parametrize("num_tokens", [LENGTH + 3, 10 * LENGTH])
def test_every_offset_begins_as_many_passes(num_tokens: int) -> None:
    """Chi-square; a text of less than two windows has fewer offsets."""
    whole = passes(starts(num_tokens, 10, 700), num_tokens)[:-1]
    possible = min(LENGTH, num_tokens - LENGTH + 1)
    counts = torch.tensor([min(one) for one in whole]).bincount(minlength=LENGTH).double()
    assert not counts[possible:].any()
    expected, df = len(whole) / possible, possible - 1
    chi2 = float((counts[:possible] - expected).square().sum() / expected)
    assert chi2 <= df + SIGMAS * math.sqrt(2 * df)


def test_windows_come_in_random_order() -> None:
    """The place of a window in its pass is uniform: mean (n - 1) / 2, variance (n^2 - 1) / 12."""
    num_tokens = 12 * LENGTH
    whole = [one for one in passes(starts(num_tokens, 5, 3000), num_tokens)[:-1] if len(one) == 11]
    assert len(whole) > 900
    for window in range(11):
        places = [one.index(min(one) + window * LENGTH) for one in whole]
        error = math.sqrt((11**2 - 1) / 12 / len(whole))
        assert abs(sum(places) / len(places) - 5) < SIGMAS * error


def test_batches_follow_from_the_generator_alone() -> None:
    before = torch.get_rng_state()
    assert starts(100, 4, 50) == starts(100, 4, 50)
    assert starts(100, 4, 50) != starts(100, 4, 50, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_can_be_changed_without_changing_the_text_or_the_next_one() -> None:
    texts = torch.arange(50), torch.arange(60)
    for tokens, corpora in balanced_batches(texts, 3, 2, torch.Generator().manual_seed(0), 3):
        assert corpora.tolist() == [0, 0, 1, 1]
        assert tokens.min() >= 0
        tokens.fill_(-1)
        corpora.fill_(-1)
    assert torch.equal(texts[0], torch.arange(50))


def test_batches_lie_where_the_texts_are(device: torch.device) -> None:
    texts = [torch.arange(50), torch.arange(60)]
    there = [text.to(device) for text in texts]
    here, moved = (
        list(balanced_batches(t, 3, 2, torch.Generator().manual_seed(0), 5)) for t in (texts, there)
    )
    for batch, other in zip(here, moved, strict=True):
        assert other.tokens.device.type == other.corpora.device.type == device.type
        assert torch.equal(batch.tokens, other.tokens.cpu())
        assert torch.equal(batch.corpora, other.corpora.cpu())


@pytest.mark.skipif(not (REAL / TEXT_FOLDER).is_dir(), reason=f"no {TEXT_FOLDER}/ in {REAL}")
def test_real_batches_hold_every_corpus_alike(generator: torch.Generator) -> None:
    def found_in(text: Tensor, window: Tensor) -> bool:
        return bool((text.unfold(0, len(window), 1) == window).all(-1).any())

    train = load_text(REAL).train
    for tokens, corpora in balanced_batches(train, 35, 2, generator, 2):
        assert corpora.bincount().tolist() == [2] * 10
        assert all(found_in(train[k], w) for k, w in zip(corpora.tolist(), tokens, strict=True))
