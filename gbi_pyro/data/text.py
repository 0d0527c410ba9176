"""Texts of several corpora as word ids: which words there are, and what they are in each text.

Three steps that can be taken apart: :func:`read_corpora` reads a folder, :class:`Vocabulary` says
which words have an id, :func:`encode` makes tensors. The vocabulary comes from the training text
alone; a corpus that was not there when it was made can be encoded with it all the same.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from gbi_pyro.data._validate import failed_check
from gbi_pyro.data.images import DATA_VARIABLE

SPLITS = ("train", "dev", "test")
TEXT_FOLDER = "text10"
UNKNOWN, END = "<unk>", "<eos>"
_WORD = re.compile(r"[^\W_]+(?:['\-.][^\W_]+)*")
_ANOTHER = "put the text there, or leave the corpus out by names"


def words(line: str) -> list[str]:
    """Return the words of a line: lower-cased runs of letters or digits, with inner ``'``-``.``.

    >>> words("Well, I don't -- e.g. 3.5-inch disks, OK?")
    ['well', 'i', "don't", 'e.g', '3.5-inch', 'disks', 'ok']
    """
    return [word.lower() for word in _WORD.findall(line)]


@dataclass(frozen=True)
class CorpusText:
    """The words of a corpus, with ``<eos>`` after each line.

    Attributes:
        name: of the corpus.
        train: for fitting weights, and the vocabulary.
        dev: for every choice.
        test: for the reported numbers, and for nothing else.
    """

    name: str
    train: tuple[str, ...] = field(repr=False)
    dev: tuple[str, ...] = field(repr=False)
    test: tuple[str, ...] = field(repr=False)


def read_corpora(
    folder: str | os.PathLike[str] | None = None, names: Sequence[str] | None = None
) -> tuple[CorpusText, ...]:
    r"""Read a folder of corpora, one UTF-8 file per corpus and split, one utterance a line.

    The folder holds ``train/``, ``dev/`` and ``test/``, or ``text10/`` with these in it; each of
    them holds ``<corpus>.txt``, or else ``<corpus>.train``, ``.dev`` or ``.test`` as BabyLM's. A
    line without a word is skipped.

    Args:
        folder: of the corpora; ``None`` is the one that the environment variable ``GBI_PYRO_DATA``
            names.
        names: corpora wanted, in this order; ``None`` is all of them, sorted.

    Returns:
        The corpora, two or more.

    Raises:
        FileNotFoundError: if the folder, a split or the file of a corpus in one is missing.
        ValueError: if names are unknown, repeated or fewer than two, a file is not UTF-8 or has no
            word, or the files of a split end in both ways.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for split in SPLITS:
        ...         (Path(folder) / split).mkdir()
        ...         for name, text in (("mail", "Dear all,"), ("chat", "hi !\n:-)\nlol")):
        ...             _ = (Path(folder) / split / f"{name}.txt").write_text(text)
        ...     [(corpus.name, corpus.train) for corpus in read_corpora(folder)]
        [('chat', ('hi', '<eos>', 'lol', '<eos>')), ('mail', ('dear', 'all', '<eos>'))]
    """
    root = _root(folder)
    files = {split: _files(root, split) for split in SPLITS}
    found = sorted({name for split in SPLITS for name in files[split]})
    chosen = found if names is None else list(names)
    wrong = [name for name in chosen if name not in found]
    if wrong or len(set(chosen)) != len(chosen):
        problem = "which are not there" if wrong else "which come twice"
        wrong = wrong or [name for name, count in Counter(chosen).items() if count > 1]
        raise ValueError(
            f"names should be different corpora of {root}, among {', '.join(found)}; got "
            f"{', '.join(map(repr, wrong))}, {problem}: leave names out to read all"
        )
    if len(chosen) < 2:
        source = root if names is None else "names"
        raise ValueError(
            f"{source}: should hold two corpora or more; got {', '.join(chosen) or 'none'}: with a "
            "single one nothing is left to infer"
        )
    for name in chosen:
        there = [split for split in SPLITS if name in files[split]]
        for split in SPLITS:
            if split not in there:
                raise FileNotFoundError(
                    f"{root / split}: should hold the corpus {name}, as {' and '.join(there)} "
                    f"{'do' if len(there) > 1 else 'does'}; got no such file: {_ANOTHER}"
                )
    return tuple(CorpusText(name, *(_read(files[s][name]) for s in SPLITS)) for name in chosen)


def _root(folder: str | os.PathLike[str] | None) -> Path:
    source = "folder" if folder is not None else DATA_VARIABLE
    folder = folder if folder is not None else os.environ.get(DATA_VARIABLE) or None
    splits = "train/, dev/ and test/"
    if folder is None:
        raise FileNotFoundError(
            f"folder should be one that holds {splits}; got none, and {DATA_VARIABLE} is not set: "
            "name a folder, or take BigramLanguages, which need no files"
        )
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(
            f"{source} should be a folder that holds {splits}; got {str(folder)!r}, which is no "
            "folder: correct the path"
        )
    root = root / TEXT_FOLDER if (root / TEXT_FOLDER).is_dir() else root
    missing = [f"{split}/" for split in SPLITS if not (root / split).is_dir()]
    if missing:
        inside = ", ".join(f"{p.name}/" for p in sorted(root.iterdir()) if p.is_dir())
        raise FileNotFoundError(
            f"{root}: should hold {splits}; got {inside or 'no folder'}, not {', '.join(missing)}: "
            "rename what is there, or hold out a tenth of every corpus for each of dev and test"
        )
    return root


def _files(root: Path, split: str) -> dict[str, Path]:
    """Return the file of each corpus in a split, by name."""
    folder, endings = root / split, (".txt", f".{split}")
    # Hidden files are not the user's: some systems put one beside every file.
    paths = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix in endings and path.is_file() and not path.name.startswith(".")
    ]
    both = {path.suffix: path.name for path in paths}
    if len(both) != 1:
        got = " and ".join(both[ending] for ending in endings) if both else "no such file"
        fix = "keep one ending" if both else "put one file per corpus there"
        error = ValueError if both else FileNotFoundError
        raise error(
            f"{folder}: should hold files that end all in {endings[0]} or all in {endings[1]}; got "
            f"{got}: {fix}"
        )
    return {path.stem: path for path in paths}


def _read(path: Path) -> tuple[str, ...]:
    raw = path.read_bytes()
    try:
        # UTF-16 without its mark decodes as UTF-8, every other character being zero.
        offset = raw.find(b"\0")
        lines = raw.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        offset = error.start
    if offset >= 0:
        got = f"byte {raw[offset]:#04x} at offset {offset}"
        raise failed_check(path, "the encoding", "UTF-8", got, "save the text as UTF-8")
    # A corpus repeats its words: interned, each is kept once.
    found = [[*map(sys.intern, words(line)), END] for line in lines]
    text = tuple(word for line in found if len(line) > 1 for word in line)
    if not text:
        got = "an empty file" if not raw else f"{len(lines)} lines without a letter or digit"
        raise failed_check(path, "the text", "one utterance a line", got, _ANOTHER)
    return text


@dataclass(frozen=True)
class Vocabulary:
    """The words that have an id, which is their place; all others are ``<unk>``.

    Attributes:
        words: ``<unk>``, ``<eos>``, then one word or more.

    Example:
        >>> vocabulary = Vocabulary.most_frequent([["a", "b", "<eos>", "b"]], size=3)
        >>> vocabulary.encode(["b", "a", "<eos>"])
        tensor([2, 0, 1])
        >>> vocabulary.decode(torch.tensor([2, 0, 1]))
        ['b', '<unk>', '<eos>']
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(self.words))
        if self.words[:2] != (UNKNOWN, END) or len(self.words) < 3:
            raise ValueError(
                f"words should be {UNKNOWN}, {END} and one word or more; got {len(self.words)}, "
                f"the first of them {self.words[:3]}: make the vocabulary by most_frequent"
            )
        if len(self._ids) != len(self.words):
            repeated = [word for word, count in Counter(self.words).items() if count > 1]
            raise ValueError(
                f"words should each occur once; got {repeated[0]!r} twice or more: one id per word"
            )

    @classmethod
    def most_frequent(cls, texts: Iterable[Sequence[str]], size: int) -> Vocabulary:
        """Keep the most frequent words of texts; of two equally frequent, the first by alphabet.

        Args:
            texts: words of each text, from training alone: a word of dev or test that gets an id
                here is known to the model in advance.
            size: words kept, ``<unk>`` and ``<eos>`` included, at least 3; fewer if there are
                fewer.

        Raises:
            ValueError: if ``size`` is too small or the texts have no word.
        """
        if not isinstance(size, int) or isinstance(size, bool) or size < 3:
            raise ValueError(
                f"size should be an integer of at least 3, {UNKNOWN} and {END} included; got "
                f"{size!r}"
            )
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(_checked(text))
        del counts[UNKNOWN], counts[END]
        if not counts:
            raise ValueError("texts should hold a word or more; got none: pass the training texts")
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls((UNKNOWN, END, *ranked[: size - 2]))

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, words: Sequence[str]) -> Tensor:
        """Return the id of each word, (N,) int64."""
        return torch.tensor([self._ids.get(word, 0) for word in _checked(words)], dtype=torch.int64)

    def decode(self, tokens: Tensor) -> list[str]:
        """Return the word of each id, (N,).

        Raises:
            ValueError: if tokens are not (N,) ids of this vocabulary.
        """
        if tokens.ndim != 1 or tokens.is_floating_point():
            raise ValueError(
                f"tokens should be ids, (N,); got {tuple(tokens.shape)} of {tokens.dtype}: decode "
                "one text at a time"
            )
        ids = tokens.tolist()
        if ids and not 0 <= min(ids) <= max(ids) < len(self):
            raise ValueError(
                f"tokens should be in 0..{len(self) - 1}; got {min(ids)} to {max(ids)}: decode "
                "with the vocabulary that encoded them"
            )
        return [self.words[i] for i in ids]


def _checked(text: Sequence[str]) -> Sequence[str]:
    if isinstance(text, str):
        raise ValueError(
            f"a text should be a sequence of words; got the string {text[:20]!r}, whose members "
            "are letters: split it by words()"
        )
    return text


@dataclass(frozen=True, eq=False)
class TextSets:
    """Corpora as ids of one vocabulary, split as they came.

    Attributes:
        names: of the corpora, K of them.
        vocabulary: what the ids mean.
        train: ids of each corpus, (N_k,) int64, for fitting weights.
        dev: likewise, for every choice.
        test: likewise, for the reported numbers, and for nothing else.
    """

    names: tuple[str, ...]
    vocabulary: Vocabulary = field(repr=False)
    train: tuple[Tensor, ...] = field(repr=False)
    dev: tuple[Tensor, ...] = field(repr=False)
    test: tuple[Tensor, ...] = field(repr=False)

    @property
    def num_corpora(self) -> int:
        """K, the number of corpora."""
        return len(self.names)

    def split(self, name: str) -> tuple[Tensor, ...]:
        """Return train, dev or test by name.

        Raises:
            ValueError: if there is no such split.
        """
        if name not in SPLITS:
            raise ValueError(f"name should be one of {', '.join(SPLITS)}; got {name!r}")
        found: tuple[Tensor, ...] = getattr(self, name)
        return found

    def unknown_share(self, name: str) -> tuple[float, ...]:
        """Return the share of each corpus's words, ``<eos>`` aside, that have no id of their own.

        Raises:
            ValueError: if there is no such split.
        """
        unknown, end = self.vocabulary.encode((UNKNOWN, END)).tolist()
        return tuple(float((t[t != end] == unknown).double().mean()) for t in self.split(name))


def encode(corpora: Sequence[CorpusText], vocabulary: Vocabulary) -> TextSets:
    """Turn corpora into ids, by a vocabulary that need not come from them.

    Args:
        corpora: one or more.
        vocabulary: its words keep their ids, all others become ``<unk>``.

    Returns:
        The ids, in the order of the corpora.

    Raises:
        ValueError: if there is no corpus, or one comes twice.

    Example:
        Leave one out: the vocabulary from the others, as if the corpus had never been seen.

        >>> corpora = [CorpusText(n, (n, "x"), ("x",), ("x",)) for n in ("one", "two", "new")]
        >>> vocabulary = Vocabulary.most_frequent((c.train for c in corpora[:2]), size=5)
        >>> encode(corpora[2:], vocabulary).train
        (tensor([0, 2]),)
    """
    names = tuple(corpus.name for corpus in corpora)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"corpora should be one or more, each once; got {names}")
    train, dev, test = (
        tuple(vocabulary.encode(getattr(corpus, split)) for corpus in corpora) for split in SPLITS
    )
    return TextSets(names, vocabulary, train, dev, test)


def load_text(
    folder: str | os.PathLike[str] | None = None,
    names: Sequence[str] | None = None,
    vocabulary_size: int = 4000,
) -> TextSets:
    """Read corpora and encode them by the most frequent words of their training texts.

    Args:
        folder: see :func:`read_corpora`.
        names: see :func:`read_corpora`.
        vocabulary_size: see :meth:`Vocabulary.most_frequent`.

    Returns:
        The corpora as ids.

    Raises:
        FileNotFoundError: see :func:`read_corpora`.
        ValueError: see :func:`read_corpora` and :meth:`Vocabulary.most_frequent`.
    """
    corpora = read_corpora(folder, names)
    texts = (corpus.train for corpus in corpora)
    return encode(corpora, Vocabulary.most_frequent(texts, vocabulary_size))
