"""Image sets as they are published: which files, and readers of their formats, IDX and CIFAR.

A file that is cut short, damaged or of another kind is an error that names the file and the check
that failed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from gbi_pyro.data._validate import AGAIN, failed_check

Kind = Literal["images", "labels"]
_IDX_KINDS: dict[int, tuple[Kind, int]] = {2051: ("images", 3), 2049: ("labels", 1)}
_LONGEST_HEADER = 16  # bytes
_MOST_BYTES, _PART_BYTES = 2**30, 2**20  # of what a file expands to, and of it at a time
_CIFAR_PIXELS = (3, 32, 32)
_CIFAR_SUPERCLASSES = 20


class Arrays(NamedTuple):
    """Images and labels as published.

    Attributes:
        pixels: (N, H, W) or, in colour, (N, C, H, W), uint8.
        labels: id of the class of each, (N,) uint8.
    """

    pixels: np.ndarray
    labels: np.ndarray


def unpack(path: str | os.PathLike[str]) -> bytes:
    """Read an IDX file, decompressed if its first bytes, whatever its name, say gzip.

    Of a compressed file no more is expanded than its header announces, and one byte, to recognise
    a longer one; of one without the header of an IDX file, no more than that header.

    Raises:
        ValueError: if the gzip stream is cut short, its own checksum fails, or the header announces
            more than 1 GiB.
    """
    raw = Path(path).read_bytes()
    if not raw.startswith(b"\x1f\x8b"):
        return raw
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
            start = file.read(_LONGEST_HEADER)
            most, parts = _announced(start) + 1, [start]
            if most > _MOST_BYTES:
                expected = f"of {_MOST_BYTES} bytes or fewer"
                raise failed_check(path, "the content", expected, f"a header of {most - 1} bytes")
            while (left := most - sum(map(len, parts))) > 0:
                # A part at a time: what is asked for is allocated, whether it is there or not.
                if not (part := file.read(min(left, _PART_BYTES))):
                    break
                parts.append(part)
            return b"".join(parts)
    except EOFError:
        got = f"{len(raw)} bytes that end before it"
        raise failed_check(path, "the gzip stream", "followed by its end mark", got) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise failed_check(path, "the gzip stream", "intact", f"{error}") from None


def _announced(start: bytes) -> int:
    """Return how long an IDX file is, by its first bytes; 0 where they are no IDX header."""
    magic = int.from_bytes(start[:4], "big")
    if magic not in _IDX_KINDS or len(start) < 4 * (1 + (ndim := _IDX_KINDS[magic][1])):
        return 0
    header = 4 + 4 * ndim
    return header + math.prod(int(n) for n in np.frombuffer(start, ">u4", ndim, offset=4))


def parse_idx(raw: bytes, path: str | os.PathLike[str], kind: Kind | None = None) -> np.ndarray:
    """Parse what an IDX file holds; see :func:`read_idx`. The path is for messages only."""
    magic = int.from_bytes(raw[:4], "big")
    if len(raw) < 4 or magic not in _IDX_KINDS or kind not in (None, _IDX_KINDS[magic][0]):
        expected = " or ".join(
            f"{number} ({name})" for number, (name, _) in _IDX_KINDS.items() if kind in (None, name)
        )
        if len(raw) < 4:
            raise failed_check(path, "the magic number", expected, f"a file of {len(raw)} bytes")
        if magic in _IDX_KINDS:
            got, fix = f"{magic} ({_IDX_KINDS[magic][0]})", "give each file its own name again"
        else:
            got, fix = f"{magic} (bytes {raw[:4]!r})", f"it is no IDX file; {AGAIN}"
        raise failed_check(path, "the magic number", expected, got, fix)
    ndim = _IDX_KINDS[magic][1]
    header = 4 + 4 * ndim
    if len(raw) < header:
        raise failed_check(path, "the header", f"{header} bytes", f"{len(raw)} bytes")
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", ndim, offset=4))
    if len(raw) - header != math.prod(shape):
        expected = f"{math.prod(shape)} bytes, as its header announces {shape}"
        raise failed_check(path, "the payload", expected, f"{len(raw) - header} bytes")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def read_idx(path: str | os.PathLike[str], kind: Kind | None = None) -> np.ndarray:
    """Read an IDX file of images or of labels, gzip-compressed or plain.

    Big-endian header of the magic number (2051 images, 2049 labels) and the counts, then one
    unsigned byte per pixel, row by row, or per label.

    Args:
        path: the file.
        kind: what it should hold; ``None`` accepts both.

    Returns:
        Images (N, H, W) or labels (N,), uint8, read-only.

    Raises:
        ValueError: if the file is cut short, damaged, no IDX file or of the other kind.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "labels-idx1-ubyte"
        ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 1]))
        ...     read_idx(path, "labels")
        array([7, 1], dtype=uint8)
    """
    return parse_idx(unpack(path), path, kind)


def _check_labels(path: str | os.PathLike[str], labels: np.ndarray, num_classes: int) -> None:
    """Check that labels are ids of classes.

    Raises:
        ValueError: naming the first one that is not.
    """
    wrong = np.flatnonzero(labels >= num_classes)
    if wrong.size:
        first = int(wrong[0])
        expected, got = f"in 0..{num_classes - 1}", f"{labels[first]} at image {first}"
        raise failed_check(path, "every label", expected, got)


def read_cifar(path: str | os.PathLike[str], num_classes: int) -> Arrays:
    """Read a file of CIFAR-10 or CIFAR-100 in the published binary version.

    One row per image, nothing else: the label (CIFAR-100: superclass, then class), one byte each,
    then 3 x 32 x 32 pixels, a byte each, all red ones before the green and blue ones. The number of
    images follows from the length of the file.

    Args:
        path: the extracted file, for instance ``data_batch_1.bin`` or ``train.bin``.
        num_classes: 10 or 100, which of the two layouts.

    Returns:
        Pixels (N, 3, 32, 32) and labels (N,), read-only; for CIFAR-100 those of the 100 classes.

    Raises:
        ValueError: if the file is empty, not a whole number of rows, or a label out of range.
    """
    if num_classes not in (10, 100):
        raise ValueError(f"num_classes should be 10 or 100; got {num_classes}")
    raw = Path(path).read_bytes()
    label_bytes = 1 if num_classes == 10 else 2
    row = label_bytes + math.prod(_CIFAR_PIXELS)
    if not raw or len(raw) % row:
        expected = f"one or more rows of {row} bytes, as in CIFAR-{num_classes}"
        got = f"{len(raw)} bytes, {len(raw) / row:.3f} rows"
        raise failed_check(path, "the file", expected, got)
    rows = np.frombuffer(raw, np.uint8).reshape(-1, row)
    if label_bytes == 2:
        _check_labels(path, rows[:, 0], _CIFAR_SUPERCLASSES)
    labels = rows[:, label_bytes - 1]
    _check_labels(path, labels, num_classes)
    return Arrays(rows[:, label_bytes:].reshape(-1, *_CIFAR_PIXELS), labels)


@dataclass(frozen=True)
class IdxSet:
    """A set published as four compressed IDX files: train images and labels, test ones.

    Attributes:
        folder: name of the folder that holds them.
        url: folder of a public mirror.
        class_names: name of each class, in the order of the ids.
        packed: sha256 of each file as published.
        content: sha256 of what each holds, the same however it was packed.
    """

    folder: str
    url: str
    class_names: tuple[str, ...]
    packed: tuple[str, str, str, str]
    content: tuple[str, str, str, str]

    def fetch(self, pooch: Any, cache: Path) -> None:
        """Have pooch download whatever is not yet in its cache."""
        for name, sha256 in zip(IDX_FILES, self.packed, strict=True):
            file, path = f"{name}.gz", cache / self.folder
            pooch.retrieve(
                url=self.url + file, known_hash=f"sha256:{sha256}", fname=file, path=path
            )

    def read(self, folder: Path, fix: str) -> tuple[Arrays, Arrays]:
        """Read train and test from a folder; messages about the choice of file end in ``fix``."""
        return self._pair(folder, 0, fix), self._pair(folder, 2, fix)

    def _pair(self, folder: Path, first: int, fix: str) -> Arrays:
        paths = [_locate(folder, (f"{n}.gz", n), fix) for n in IDX_FILES[first : first + 2]]
        raw = [unpack(path) for path in paths]
        found = Arrays(parse_idx(raw[0], paths[0], "images"), parse_idx(raw[1], paths[1], "labels"))
        if len(found.pixels) != len(found.labels):
            expected = f"{len(found.pixels)}, one per image of {paths[0].name}"
            raise failed_check(paths[1], "the number of labels", expected, len(found.labels), fix)
        _check_labels(paths[1], found.labels, len(self.class_names))
        # The checksums come last: what an earlier check finds, it tells more exactly.
        for path, content, expected in zip(paths, raw, self.content[first:], strict=False):
            got = hashlib.sha256(content).hexdigest()
            if got != expected:
                check = "the sha256 of the uncompressed content"
                raise failed_check(path, check, expected, got + _whose(got), fix)
        return found


@dataclass(frozen=True)
class CifarSet:
    """A set published as an archive of binary files.

    Attributes:
        folder: name of the folder in the archive.
        url: of the archive.
        md5: of the archive, from the page that publishes it.
        class_names: name of each class, in the order of the ids.
        train: names of the training files.
        test: name of the test file.
    """

    folder: str
    url: str
    md5: str
    class_names: tuple[str, ...]
    train: tuple[str, ...]
    test: str

    def fetch(self, pooch: Any, cache: Path) -> None:
        """Have pooch download and extract whatever is not yet in its cache."""
        members = [f"{self.folder}/{name}" for name in (*self.train, self.test)]
        pooch.retrieve(
            url=self.url,
            known_hash=f"md5:{self.md5}",
            fname=self.url.rpartition("/")[-1],
            path=cache,
            processor=pooch.Untar(members=members, extract_dir="."),
        )

    def read(self, folder: Path, fix: str) -> tuple[Arrays, Arrays]:
        """Read train and test from a folder; messages about the choice of file end in ``fix``."""
        return self._join(folder, self.train, fix), self._join(folder, (self.test,), fix)

    def _join(self, folder: Path, names: tuple[str, ...], fix: str) -> Arrays:
        num_classes = len(self.class_names)
        parts = [read_cifar(_locate(folder, (name,), fix), num_classes) for name in names]
        found = Arrays(*map(np.concatenate, zip(*parts, strict=True)))
        # A file that ends early, but on a whole row, would pass every other check.
        counts = np.bincount(found.labels, minlength=num_classes)
        if counts.min() != counts.max():
            expected = "the same number for all classes, as published"
            got = f"from {counts.min()} to {counts.max()}"
            raise failed_check(folder / " + ".join(names), "images per class", expected, got, fix)
        return found


def _locate(folder: Path, names: tuple[str, ...], fix: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{' or '.join(names)} should be in {folder}; got no such file: {fix}")


def _whose(content: str) -> str:
    """Name the published file that has this content."""
    for name, published in PUBLISHED.items():
        if isinstance(published, IdxSet) and content in published.content:
            return f", which is {IDX_FILES[published.content.index(content)]} of {name}"
    return ""


IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

_CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""

PUBLISHED: dict[str, IdxSet | CifarSet] = {
    "mnist": IdxSet(
        "mnist",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        tuple("0123456789"),
        (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "fashion": IdxSet(
        "fashion-mnist",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (
            *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
            *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
        ),
        (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
    "cifar10": CifarSet(
        "cifar-10-batches-bin",
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
        tuple(_CIFAR10_CLASSES.split()),
        tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        "test_batch.bin",
    ),
    "cifar100": CifarSet(
        "cifar-100-binary",
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
        tuple(_CIFAR100_CLASSES.split()),
        ("train.bin",),
        "test.bin",
    ),
}
