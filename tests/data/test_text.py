"""Reading corpora, the vocabulary, the sets.

The real corpora are tested where they are found: in the folder that GBI_PYRO_DATA names, or in
../shared/data beside the repository.
"""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gbi_pyro.data import (
    DATA_VARIABLE,
    CorpusText,
    TextSets,
    Vocabulary,
    encode,
    load_text,
    read_corpora,
    words,
)
from gbi_pyro.data.text import END, SPLITS, TEXT_FOLDER, UNKNOWN

REAL = Path(
    os.environ.get(DATA_VARIABLE) or Path(__file__).resolve().parents[2].parent / "shared" / "data"
)
SIGMAS = 5.0  # a sound test fails once in two million


@pytest.fixture(autouse=True)
def _no_folder_by_accident(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)


Texts = dict[str, tuple[str | bytes, str | bytes, str | bytes]]
TWO: Texts = {
    "chat": ("hi there\nlol !\n", "hi\n", "bye\n"),
    "mail": ("Dear all,\nhi\n", "Dear you\n", "Dear Ann\n"),
}


def write(folder: Path, corpora: Texts, own_ending: bool = False) -> Path:
    for name, texts in corpora.items():
        for split, text in zip(SPLITS, texts, strict=True):
            (folder / split).mkdir(parents=True, exist_ok=True)
            raw = text if isinstance(text, bytes) else text.encode()
            (folder / split / f"{name}.{split if own_ending else 'txt'}").write_bytes(raw)
    return folder


# --- words


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Don't STOP", "don't stop"),
        ("state-of-the-art U.S. 3.14", "state-of-the-art u.s 3.14"),
        ("'quoted' -- dashes- ...dots... a--b", "quoted dashes dots a b"),
        ("snake_case __init__", "snake case init"),
        ("Été à l'école, naïve Ελλάδα 東京", "été à l'école naïve ελλάδα 東京"),
        ("a,b;c\td", "a b c d"),
        (":-) !?", ""),
        ("", ""),
    ],
)
def test_words_are_runs_of_letters_or_digits(line: str, expected: str) -> None:
    assert words(line) == expected.split()


def test_words_of_words_are_the_same_words() -> None:
    line = "Well, I DON'T -- e.g. 3.5-inch disks; OK?"
    assert words(" ".join(words(line))) == words(line)


# --- reading


def test_each_line_is_its_words_and_an_end(tmp_path: Path) -> None:
    chat, mail = read_corpora(write(tmp_path, TWO))
    assert chat == CorpusText("chat", ("hi", "there", END, "lol", END), ("hi", END), ("bye", END))
    assert mail.name == "mail"
    assert mail.train == ("dear", "all", END, "hi", END)


@pytest.mark.parametrize(
    "text",
    [
        b"one two\nthree\n",
        b"one two\nthree",
        b"one two\r\nthree\r\n",
        b"\n\none two\n:-)\n \nthree\n\n",
        b"\xef\xbb\xbfone two\nthree",  # the byte order mark of some editors
        "one\u2028two\nthree".encode(),  # a line separator within an utterance
    ],
)
def test_only_line_feeds_end_an_utterance_and_one_without_a_word_is_none(
    tmp_path: Path, text: bytes
) -> None:
    chat, _ = read_corpora(write(tmp_path, {**TWO, "chat": (text, "a", "a")}))
    assert chat.train == ("one", "two", END, "three", END)


@pytest.mark.parametrize("own_ending", [False, True])
@pytest.mark.parametrize("inner", [".", TEXT_FOLDER])
def test_both_layouts_are_read_from_a_folder_or_the_folder_above(
    tmp_path: Path, own_ending: bool, inner: str
) -> None:
    write(tmp_path / inner, TWO, own_ending)
    for beside in ("README.md", ".chat.txt", f".{TEXT_FOLDER}", "list.csv"):
        (tmp_path / inner / "train" / beside).write_text("not a corpus")
    (tmp_path / inner / "dev" / "old.txt").mkdir()
    reference = read_corpora(write(tmp_path / "reference", TWO))
    assert read_corpora(tmp_path) == reference


def test_the_argument_wins_over_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other: Texts = {"a": ("x", "x", "x"), "b": ("y", "y", "y")}
    monkeypatch.setenv(DATA_VARIABLE, str(write(tmp_path / "here" / TEXT_FOLDER, TWO).parent))
    there = write(tmp_path / "there", other)
    assert [corpus.name for corpus in read_corpora()] == ["chat", "mail"]
    assert [corpus.name for corpus in read_corpora(there)] == ["a", "b"]


def test_names_choose_the_corpora_and_their_order(tmp_path: Path) -> None:
    broken: Texts = {"broken": (b"\xff", "", "")}  # and is not looked into
    write(tmp_path, {**TWO, **broken})
    (tmp_path / "test" / "broken.txt").unlink()
    assert [corpus.name for corpus in read_corpora(tmp_path, ["mail", "chat"])] == ["mail", "chat"]
    assert load_text(tmp_path, ("mail", "chat")).names == ("mail", "chat")


def broken_chat(train: bytes) -> Callable[[Path], object]:
    return lambda path: read_corpora(write(path, {**TWO, "chat": (train, "a", "a")}))


def without(file: str, names: list[str] | None = None) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        (write(path, TWO) / file).unlink()
        return read_corpora(path, names)

    return read


def without_folders(*splits: str) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        write(path, TWO)
        for split in splits:
            (path / split).rename(path / f"babylm_{split}")
        return read_corpora(path)

    return read


def with_both_endings(path: Path) -> object:
    write(path, TWO)
    write(path, TWO, own_ending=True)
    return read_corpora(path)


def emptied(path: Path) -> object:
    for file in (write(path, TWO) / "dev").iterdir():
        file.rename(file.with_suffix(".text"))
    return read_corpora(path)


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (
        broken_chat(b""),
        r"train/chat\.txt: the text should be one utterance a line; got an empty file: put the "
        r"text there, or leave the corpus out",
    ),
    "no word": (broken_chat(b"...\n:-)\n"), r"train/chat\.txt: .*got 3 lines without a letter"),
    "latin-1": (
        broken_chat("one\ncafé noir".encode("latin-1")),
        r"train/chat\.txt: the encoding should be UTF-8; got byte 0xe9 at offset 7: save the text",
    ),
    "cut off": (broken_chat("café".encode()[:-1]), r"chat\.txt: .*byte 0xc3 at offset 3"),
    "utf-16": (broken_chat("one".encode("utf-16")), r"chat\.txt: .*UTF-8; got byte 0xff at offset"),
    "utf-16 without its mark": (
        broken_chat("one".encode("utf-16-le")),
        r"chat\.txt: the encoding should be UTF-8; got byte 0x00 at offset 1",
    ),
    "one corpus": (
        lambda path: read_corpora(write(path, {"chat": TWO["chat"]})),
        r"should hold two corpora or more; got chat: with a single one nothing is left to infer",
    ),
    "one name": (
        lambda path: read_corpora(write(path, TWO), ["mail"]),
        r"^names: should hold two corpora or more; got mail",
    ),
    "no name": (lambda path: read_corpora(write(path, TWO), []), r"two corpora .*; got none"),
    "unknown name": (
        lambda path: read_corpora(write(path, TWO), ["chat", "male"]),
        r"^names should be .*among chat, mail; got 'male', which are not there: leave names out",
    ),
    "repeated name": (
        lambda path: read_corpora(write(path, TWO), ["chat", "mail", "chat"]),
        r"^names should be .*; got 'chat', which come twice",
    ),
    "both endings": (
        with_both_endings,
        r"train: should hold files that end all in \.txt or all in \.train; got mail\.txt and "
        r"mail\.train: keep one ending",
    ),
}
MISSING: dict[str, tuple[Callable[[Path], object], str]] = {
    "file": (
        without("test/mail.txt"),
        r"test: should hold the corpus mail, as train and dev do; got no such file: put the text",
    ),
    "file of a corpus asked for": (
        without("train/chat.txt", ["mail", "chat"]),
        r"train: should hold the corpus chat, as dev and test do",
    ),
    "split": (
        without_folders("dev", "test"),
        r"should hold train/, dev/ and test/; got babylm_dev/, babylm_test/, train/, not dev/, "
        r"test/: rename",
    ),
    "every split": (
        lambda path: read_corpora(path),
        r"should hold train/, dev/ and test/; got no folder, not train/, dev/, test/",
    ),
    "files of a split": (
        emptied,
        r"dev: should hold files that end all in \.txt or all in \.dev; got no such file",
    ),
    "folder": (
        lambda path: read_corpora(path / "nowhere"),
        r"^folder should be a folder that holds .*nowhere', which is no folder: correct the path",
    ),
    "file for a folder": (
        lambda path: read_corpora(write(path, TWO) / "train" / "chat.txt"),
        r"^folder should be a folder .*chat\.txt', which is no folder",
    ),
    "any folder": (
        lambda path: read_corpora(),
        r"^folder should be one that holds .*got none, and GBI_PYRO_DATA is not set: name a folder",
    ),
}


@pytest.mark.parametrize("fault", UNREADABLE)
def test_what_cannot_be_read_is_named_with_its_fix(tmp_path: Path, fault: str) -> None:
    read, message = UNREADABLE[fault]
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


@pytest.mark.parametrize("fault", MISSING)
def test_what_is_missing_is_named_with_its_place(tmp_path: Path, fault: str) -> None:
    read, message = MISSING[fault]
    with pytest.raises(FileNotFoundError, match=message):
        read(tmp_path)


def test_a_wrong_environment_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"^GBI_PYRO_DATA should be a folder .*nowhere"):
        read_corpora()


# --- vocabulary


def random_text(generator: torch.Generator, num_words: int = 60, length: int = 2000) -> list[str]:
    """Words w0, w1, ... of unequal frequency, many of them equally rare."""
    p = 1 / torch.arange(1, num_words + 1, dtype=torch.float64)
    ids = torch.multinomial(p, length, True, generator=generator).tolist()
    return [f"w{i}" for i in ids]


@pytest.mark.parametrize("size", [3, 10, 40, 1000])
def test_no_word_left_out_is_more_frequent_than_one_kept(
    size: int, generator: torch.Generator
) -> None:
    text = [*random_text(generator), *(f"rare{i}" for i in range(30))]
    kept = Vocabulary.most_frequent([text[:500], text[500:]], size)
    counts = Counter(text)
    assert len(kept) == min(size, 2 + len(counts))
    assert kept.words[:2] == (UNKNOWN, END)

    def rank(word: str) -> tuple[int, str]:
        return -counts[word], word

    ranked = [rank(word) for word in kept.words[2:]]
    assert ranked == sorted(ranked)
    assert all(rank(word) > ranked[-1] for word in set(counts) - set(kept.words))


def test_the_vocabulary_does_not_depend_on_the_order_of_texts_or_words(
    generator: torch.Generator,
) -> None:
    text = random_text(generator)
    order = torch.randperm(len(text), generator=generator).tolist()
    shuffled = [text[i] for i in order]
    one = Vocabulary.most_frequent([text, ["a", "b"]], 30)
    assert one == Vocabulary.most_frequent([["b"], shuffled[:700], ["a"], shuffled[700:]], 30)


def test_marks_in_the_text_take_no_second_place() -> None:
    kept = Vocabulary.most_frequent([[END, "a", END, UNKNOWN, "b", END, UNKNOWN, "b"]], 10)
    assert kept.words == (UNKNOWN, END, "b", "a")


def test_ids_and_words_come_back(generator: torch.Generator) -> None:
    text = [*random_text(generator), END]
    every = Vocabulary.most_frequent([text], 1000)
    tokens = every.encode(text)
    assert tokens.dtype == torch.int64
    assert every.decode(tokens) == text
    some = Vocabulary.most_frequent([text], 12)
    assert some.decode(some.encode(text)) == [w if w in some.words else UNKNOWN for w in text]
    ids = torch.randint(12, (500,), generator=generator)
    assert torch.equal(some.encode(some.decode(ids)), ids)
    assert torch.equal(some.encode([]), torch.zeros(0, dtype=torch.int64))
    assert some.decode(some.encode([])) == []


SMALL = Vocabulary((UNKNOWN, END, "a", "b"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Vocabulary(("a", "b", "c")), r"words should be <unk>, <eos> and.*got 3, .*'a'"),
        (lambda: Vocabulary((UNKNOWN, END)), "one word or more; got 2.*by most_frequent"),
        (lambda: Vocabulary((UNKNOWN, END, "a", "a")), "each occur once; got 'a' twice"),
        (lambda: Vocabulary.most_frequent([["a"]], 2), "size.*at least 3, <unk> and.*got 2"),
        (lambda: Vocabulary.most_frequent([["a"]], 5.0), r"size.*got 5\.0"),  # type: ignore[arg-type]
        (lambda: Vocabulary.most_frequent([["a"]], True), "size.*got True"),
        (lambda: Vocabulary.most_frequent([[END], []], 5), "texts should hold a word.*got none"),
        (lambda: Vocabulary.most_frequent(["one text"], 5), "string 'one text'.*split it by words"),
        (lambda: SMALL.encode("a b"), "string 'a b', whose members are letters"),
        (lambda: SMALL.decode(torch.tensor([0, 4])), r"tokens should be in 0\.\.3; got 0 to 4"),
        (lambda: SMALL.decode(torch.tensor([-1])), r"in 0\.\.3; got -1 to -1: decode with"),
        (lambda: SMALL.decode(torch.zeros(1, 2, dtype=torch.int64)), r"\(N,\); got \(1, 2\)"),
        (lambda: SMALL.decode(torch.zeros(2)), "tokens should be ids.*float32"),
        (lambda: encode([], SMALL), r"corpora should be one or more, each once; got \(\)"),
        (lambda: encode([CORPUS, CORPUS], SMALL), r"each once; got \('c', 'c'\)"),
        (lambda: encode([CORPUS], SMALL).split("valid"), "train, dev, test; got 'valid'"),
        (lambda: encode([CORPUS], SMALL).unknown_share("vocabulary"), "got 'vocabulary'"),
    ],
)
def test_invalid_words_ids_and_sizes_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# --- sets

CORPUS = CorpusText("c", ("a", "x", "b", END), ("a", END, "a", END), ("x", "y", "a", "z", END))


def test_a_corpus_is_encoded_split_by_split() -> None:
    sets = encode([CORPUS], SMALL)
    assert (sets.names, sets.num_corpora, sets.vocabulary) == (("c",), 1, SMALL)
    for split in SPLITS:
        (tokens,) = sets.split(split)
        assert torch.equal(tokens, SMALL.encode(getattr(CORPUS, split)))
    assert sets.unknown_share("train") == (1 / 3,)
    assert sets.unknown_share("dev") == (0,)
    assert sets.unknown_share("test") == (3 / 4,)


def test_nothing_of_dev_and_test_reaches_the_vocabulary(tmp_path: Path) -> None:
    """Other held-out texts, however frequent their words, change neither vocabulary nor train."""
    first = load_text(write(tmp_path / "first", TWO))
    other: Texts = {
        name: (train, f"{'secret ' * 50}\n", f"{'hidden ' * 50}\n")
        for name, (train, _, _) in TWO.items()
    }
    second = load_text(write(tmp_path / "second", other))
    assert first.vocabulary == second.vocabulary
    assert all(map(torch.equal, first.train, second.train))
    assert second.unknown_share("dev") == second.unknown_share("test") == (1, 1)
    assert second.unknown_share("train") == (0, 0)


def test_a_corpus_left_out_changes_nothing_for_the_others(tmp_path: Path) -> None:
    new: Texts = {"new": ("hi brave world world\n", "brave\n", "hi world\n")}
    corpora = read_corpora(write(tmp_path, {**TWO, **new}))
    known = [corpus for corpus in corpora if corpus.name != "new"]
    vocabulary = Vocabulary.most_frequent((corpus.train for corpus in known), 4000)
    alone = load_text(write(tmp_path / "alone", TWO))
    assert vocabulary == alone.vocabulary
    assert all(map(torch.equal, encode(known, vocabulary).train, alone.train))
    (left_out,) = encode([c for c in corpora if c.name == "new"], vocabulary).train
    assert vocabulary.decode(left_out) == ["hi", UNKNOWN, UNKNOWN, UNKNOWN, END]


def test_the_size_asked_for_is_the_size_of_the_vocabulary(tmp_path: Path) -> None:
    sets = load_text(write(tmp_path, TWO), vocabulary_size=4)
    assert sets.vocabulary.words == (UNKNOWN, END, "hi", "all")
    assert max(int(tokens.max()) for split in SPLITS for tokens in sets.split(split)) < 4


# --- the real corpora


@pytest.fixture(scope="module")
def real() -> tuple[CorpusText, ...]:
    if not (REAL / TEXT_FOLDER).is_dir():
        pytest.skip(f"no {TEXT_FOLDER}/ in {REAL}: name its folder by {DATA_VARIABLE}")
    return read_corpora(REAL)


# Lines and words of each split, distinct words of train and of all, as published with the corpora.
PUBLISHED = {
    "switchboard": ((4984, 853, 735), (50112, 6774, 6450), 3945, 4429),
    "nps_chat": ((5585, 485, 501), (22493, 2123, 2285), 3690, 4180),
    "brown_news": ((7595, 863, 831), (144044, 18414, 16173), 17842, 20106),
    "pros_cons": ((36249, 4483, 4373), (256787, 29660, 31983), 10128, 11306),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_real_corpora_have_their_published_sizes(real: tuple[CorpusText, ...], name: str) -> None:
    assert [corpus.name for corpus in real] == sorted(corpus.name for corpus in real)
    assert len(real) == 10
    (corpus,) = [corpus for corpus in real if corpus.name == name]
    lines, num_words, in_train, in_all = PUBLISHED[name]
    texts = [getattr(corpus, split) for split in SPLITS]
    assert tuple(text.count(END) for text in texts) == lines
    assert tuple(len(text) - text.count(END) for text in texts) == num_words
    assert len({*corpus.train} - {END}) == in_train
    assert len({word for text in texts for word in text} - {END}) == in_all


def real_sets(real: tuple[CorpusText, ...]) -> TextSets:
    return encode(real, Vocabulary.most_frequent((corpus.train for corpus in real), 4000))


def test_real_corpora_are_covered_by_a_vocabulary_of_their_training_text(
    real: tuple[CorpusText, ...],
) -> None:
    sets = real_sets(real)
    assert len(sets.vocabulary) == 4000
    known = set(sets.vocabulary.words)
    for split in SPLITS:
        for corpus, tokens, share in zip(
            real, sets.split(split), sets.unknown_share(split), strict=True
        ):
            text = getattr(corpus, split)
            num_words = len(text) - text.count(END)
            assert share == pytest.approx(sum(word not in known for word in text) / num_words)
            assert len(tokens) == len(text)
