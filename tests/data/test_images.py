"""Readers, splits and transforms of image sets; every file here is written in its published format.

The real MNIST and Fashion-MNIST are tested where they are found: in the folder that GBI_PYRO_DATA
names, or in ../shared/data beside the repository.
"""

import dataclasses
import gzip
import hashlib
import os
import socket
import sys
import tracemalloc
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gbi_pyro.data import (
    DATA_VARIABLE,
    DATASETS,
    Images,
    ImageSets,
    flip_vertical,
    formats,
    load_images,
    normalise_each,
    read_cifar,
    read_idx,
)
from gbi_pyro.data.formats import IDX_FILES, PUBLISHED, CifarSet, IdxSet

REAL = Path(
    os.environ.get(DATA_VARIABLE) or Path(__file__).resolve().parents[2].parent / "shared" / "data"
)
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = IDX_FILES


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads this machine's folder by accident, has pooch, or opens a connection."""

    def refuse(*args: object) -> None:
        raise AssertionError("a test opened a network connection")

    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "pooch", None)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def idx_bytes(array: np.ndarray) -> bytes:
    """The published format, written from its definition."""
    header = [0x0800 + array.ndim, *array.shape]
    return b"".join(n.to_bytes(4, "big") for n in header) + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, arrays: tuple[np.ndarray, ...], packed: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(IDX_FILES, arrays, strict=True):
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array), mtime=0))
        else:
            (folder / name).write_bytes(idx_bytes(array))


def small_arrays(seed: int = 0) -> tuple[np.ndarray, ...]:
    """60 training and 20 test images of 4 x 3 pixels, in ten classes, each image unlike others."""
    rng = np.random.default_rng(seed)
    return tuple(
        array
        for n in (60, 20)
        for array in (
            rng.integers(0, 256, (n, 4, 3), dtype=np.uint8),
            rng.permutation(np.arange(n, dtype=np.uint8) % 10),
        )
    )


def publish(monkeypatch: pytest.MonkeyPatch, name: str, arrays: tuple[np.ndarray, ...]) -> IdxSet:
    """Have the small files stand for the published ones, checksums and all."""
    published = PUBLISHED[name]
    assert isinstance(published, IdxSet)
    raw = [idx_bytes(array) for array in arrays]
    packed = [hashlib.sha256(gzip.compress(r, mtime=0)).hexdigest() for r in raw]
    small = dataclasses.replace(
        published,
        packed=tuple(packed),
        content=tuple(hashlib.sha256(r).hexdigest() for r in raw),
    )
    monkeypatch.setitem(PUBLISHED, name, small)
    return small


def cifar_rows(labels: np.ndarray, coarse: np.ndarray | None, seed: int) -> bytes:
    """Rows of one or two label bytes and 3072 pixel bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    columns = [labels[:, None], pixels]
    if coarse is not None:
        columns.insert(0, coarse[:, None])
    return np.concatenate(columns, 1).astype(np.uint8).tobytes()


def write_cifar(folder: Path, name: str, per_class: int = 2) -> None:
    published = PUBLISHED[name]
    assert isinstance(published, CifarSet)
    folder.mkdir(parents=True, exist_ok=True)
    K = len(published.class_names)
    for i, file in enumerate((*published.train, published.test)):
        labels = np.random.default_rng(i).permutation(np.repeat(np.arange(K), per_class))
        coarse = labels // 5 if K == 100 else None
        (folder / file).write_bytes(cifar_rows(labels, coarse, seed=i))


def keys(images: Images) -> set[bytes]:
    return {image.numpy().tobytes() for image in images.x}


def check_partition(sets: ImageSets, train_pixels: np.ndarray, test_pixels: np.ndarray) -> None:
    """Train and validation are disjoint and together the training file; test is the test file."""
    train, validation = keys(sets.train), keys(sets.validation)
    whole = {(p.astype(np.float32) / 255).tobytes() for p in train_pixels}
    assert len(whole) == len(train_pixels) == len(sets.train.x) + len(sets.validation.x)
    assert not train & validation
    assert train | validation == whole
    torch.testing.assert_close(
        sets.test.x.flatten(), torch.from_numpy(test_pixels.astype(np.float32) / 255).flatten()
    )


# --- IDX files


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("array", [small_arrays()[0], small_arrays()[1]], ids=["images", "labels"])
def test_an_idx_file_gives_back_what_was_written(
    tmp_path: Path, array: np.ndarray, packed: bool
) -> None:
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(idx_bytes(array)) if packed else idx_bytes(array))
    np.testing.assert_array_equal(read_idx(path), array)
    np.testing.assert_array_equal(read_idx(path, "images" if array.ndim == 3 else "labels"), array)


IMAGES = small_arrays()[0]
CORRUPTIONS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"magic number should be 2051 \(images\); got a file of 0 bytes"),
    "truncated gzip": (gzip.compress(idx_bytes(IMAGES))[:-50], "gzip stream should be followed by"),
    "gzip checksum": (
        gzip.compress(idx_bytes(IMAGES))[:-8] + bytes(8),
        "gzip stream should be intact; got CRC check failed",
    ),
    "bytes after gzip": (gzip.compress(idx_bytes(IMAGES)) + b"more", "gzip stream should be inta"),
    "truncated payload": (
        idx_bytes(IMAGES)[:-1],
        r"payload should be 720 bytes, as its header announces \(60, 4, 3\); got 719 bytes: remove",
    ),
    "truncated payload, packed anew": (gzip.compress(idx_bytes(IMAGES)[:-1]), "got 719 bytes"),
    "too long": (idx_bytes(IMAGES) + b"\0", "got 721 bytes"),
    "truncated header": (idx_bytes(IMAGES)[:15], "header should be 16 bytes; got 15 bytes"),
    "web page": (b"<!DOCTYPE html>", r"got 1008813135 \(bytes b'<!DO'\): it is no IDX file"),
    "floats": (b"\0\0\x0d\x03" + idx_bytes(IMAGES)[4:], "got 3331"),
    "labels": (
        idx_bytes(small_arrays()[1]),
        r"magic number should be 2051 \(images\); got 2049 \(labels\): give each file its own name",
    ),
}


@pytest.mark.parametrize("fault", CORRUPTIONS)
def test_a_damaged_idx_file_is_named_with_the_check_that_failed(tmp_path: Path, fault: str) -> None:
    content, message = CORRUPTIONS[fault]
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_idx(path, "images")
    assert str(error.value).startswith(f"{path}: ")


def test_no_cut_of_a_packed_file_is_read_as_data(tmp_path: Path) -> None:
    path, whole = tmp_path / "file.gz", gzip.compress(idx_bytes(small_arrays()[1]))
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"file\.gz: the "):
            read_idx(path)


def test_a_packed_file_is_not_expanded_beyond_what_its_header_announces(tmp_path: Path) -> None:
    path, zeros = tmp_path / "file.gz", bytes(2**27)
    for start in (b"no IDX file at all", idx_bytes(IMAGES)):
        path.write_bytes(gzip.compress(start + zeros))
        tracemalloc.start()
        with pytest.raises(ValueError, match=r"magic number should be|got 721 bytes"):
            read_idx(path, "images")
        assert tracemalloc.get_traced_memory()[1] < 2**23
        tracemalloc.stop()


def test_a_packed_file_that_announces_more_than_a_set_holds_is_refused(tmp_path: Path) -> None:
    path, huge = tmp_path / "file.gz", np.array([2**20, 2**10, 2**10], ">u4").tobytes()
    path.write_bytes(gzip.compress(idx_bytes(IMAGES)[:4] + huge + bytes(100)))
    with pytest.raises(ValueError, match="content should be of 1073741824 bytes or fewer; got a"):
        read_idx(path)


# --- sets of four IDX files


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("inner", ["mnist", "."])
def test_a_set_is_read_from_a_folder_or_the_folder_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool, inner: str
) -> None:
    arrays = small_arrays()
    publish(monkeypatch, "mnist", arrays)
    write_idx(tmp_path / inner, arrays, packed)
    sets = load_images("mnist", tmp_path, validation=20)
    check_partition(sets, arrays[0], arrays[2])
    assert sets.train.x.shape == (40, 1, 4, 3)
    assert (sets.train.x.dtype, sets.train.y.dtype) == (torch.float32, torch.int64)
    assert sets.test.y.tolist() == arrays[3].tolist()
    # 60 images, six a class: a third of each is held out.
    assert sets.validation.y.bincount().tolist() == [2] * 10
    by_image = {(p.astype(np.float32) / 255).tobytes(): y for p, y in zip(*arrays[:2], strict=True)}
    for images in (sets.train, sets.validation):
        assert [by_image[x.numpy().tobytes()] for x in images.x] == images.y.tolist()


def test_the_seed_alone_decides_what_is_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = small_arrays()
    publish(monkeypatch, "mnist", arrays)
    write_idx(tmp_path, arrays)
    first, again, other = (load_images("mnist", tmp_path, seed=s, validation=20) for s in (0, 0, 1))
    assert keys(first.validation) == keys(again.validation) != keys(other.validation)
    assert torch.equal(first.test.x, other.test.x)


def flip_bit(raw: bytes, byte: int) -> bytes:
    return raw[:byte] + bytes([raw[byte] ^ 1]) + raw[byte + 1 :]


def spoil(folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Change what a packed file holds, and pack it well again."""
    path = folder / f"{name}.gz"
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes())), mtime=0))


FAULTS: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "one bit of a pixel": (
        TRAIN_IMAGES,
        lambda raw: flip_bit(raw, 100),
        r"sha256 of the uncompressed content should be [0-9a-f]{64}; got [0-9a-f]{64}: put the fil",
    ),
    "one bit of a label": (TEST_LABELS, lambda raw: raw[:8] + bytes([raw[8] ^ 1]) + raw[9:], "sha"),
    "label 10": (
        TRAIN_LABELS,
        lambda raw: raw[:11] + b"\x0a" + raw[12:],
        r"every label should be in 0\.\.9; got 10 at image 3",
    ),
    "a label short": (
        TEST_LABELS,
        lambda raw: idx_bytes(np.frombuffer(raw, np.uint8, offset=8)[:-1]),
        r"number of labels should be 20, one per image of t10k-images-idx3-ubyte\.gz; got 19",
    ),
    "another file of the set": (
        TRAIN_LABELS,
        lambda raw: idx_bytes(small_arrays(seed=1)[1]),
        "which is train-labels-idx1-ubyte of fashion: put the files published at https://ossci",
    ),
    "images for labels": (
        TRAIN_LABELS,
        lambda raw: idx_bytes(small_arrays()[0]),
        r"magic number should be 2049 \(labels\); got 2051 \(images\)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_not_the_published_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    publish(monkeypatch, "mnist", small_arrays())
    publish(monkeypatch, "fashion", small_arrays(seed=1))
    write_idx(tmp_path, small_arrays())
    name, change, message = FAULTS[fault]
    spoil(tmp_path, name, change)
    with pytest.raises(ValueError, match=message) as error:
        load_images("mnist", tmp_path, validation=20)
    assert str(error.value).startswith(f"{tmp_path / name}.gz: ")


def test_a_flipped_bit_of_a_packed_file_never_changes_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error or, where the bit carries no data (gzip's time and system), the very same images."""
    arrays = small_arrays()
    publish(monkeypatch, "mnist", arrays)
    write_idx(tmp_path, arrays)
    path = tmp_path / f"{TRAIN_LABELS}.gz"
    whole, refused = path.read_bytes(), 0
    published = PUBLISHED["mnist"]
    for byte in range(len(whole)):
        path.write_bytes(flip_bit(whole, byte))
        message = ""
        try:
            train, _ = published.read(tmp_path, "")
        except ValueError as error:
            message = str(error)
        if message:
            assert message.startswith(f"{path}: ")
            refused += 1
        else:
            assert byte < 10, "only gzip's header has bits without data"
            np.testing.assert_array_equal(train.labels, arrays[1])
    assert refused >= len(whole) - 10


# --- where files are looked for


def test_the_argument_wins_over_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = small_arrays()
    publish(monkeypatch, "mnist", arrays)
    write_idx(tmp_path / "good" / "mnist", arrays)
    (tmp_path / "bare").mkdir()

    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "good"))
    assert len(load_images("mnist", validation=20).test.x) == 20
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "bare")):
        load_images("mnist", tmp_path / "bare")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "bare"))
    assert len(load_images("mnist", tmp_path / "good", validation=20).test.x) == 20


def fake_pooch(monkeypatch: pytest.MonkeyPatch, cache: Path, **members: Any) -> None:
    pooch = types.ModuleType("pooch")
    pooch.os_cache = lambda project: cache / project  # type: ignore[attr-defined]
    for name, member in members.items():
        setattr(pooch, name, member)
    monkeypatch.setitem(sys.modules, "pooch", pooch)


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_file_missing_from_a_given_folder_is_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    fake_pooch(monkeypatch, tmp_path / "cache")  # whose retrieve does not exist
    publish(monkeypatch, "mnist", small_arrays())
    write_idx(tmp_path / "mnist", small_arrays())
    (tmp_path / "mnist" / f"{TEST_IMAGES}.gz").unlink()
    data = tmp_path if by == "argument" else None
    if by == "environment":
        monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    message = f"{TEST_IMAGES}.gz or {TEST_IMAGES} should be in {tmp_path / 'mnist'}; got no such"
    with pytest.raises(FileNotFoundError, match=message):
        load_images("mnist", data, validation=20)


def test_a_folder_that_does_not_exist_is_named_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match=r"^data should be a folder .*nowhere"):
        load_images("mnist", tmp_path / "nowhere")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"^GBI_PYRO_DATA should be a folder .*nowhere"):
        load_images("cifar10")


def test_without_a_folder_the_published_files_are_fetched_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = small_arrays()
    small = publish(monkeypatch, "fashion", arrays)
    asked = []

    def retrieve(url: str, known_hash: str, fname: str, path: Path) -> str:
        asked.append((url, known_hash))
        Path(path).mkdir(parents=True, exist_ok=True)
        array = arrays[IDX_FILES.index(fname.removesuffix(".gz"))]
        (Path(path) / fname).write_bytes(gzip.compress(idx_bytes(array)))
        return str(Path(path) / fname)

    fake_pooch(monkeypatch, tmp_path, retrieve=retrieve)
    with pytest.raises(FileNotFoundError, match="allow the download"):
        load_images("fashion", validation=20, download=False)
    assert not asked

    sets = load_images("fashion", validation=20)
    check_partition(sets, arrays[0], arrays[2])
    mirror = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    assert asked == [
        (f"{mirror}{name}.gz", f"sha256:{sha256}")
        for name, sha256 in zip(IDX_FILES, small.packed, strict=True)
    ]
    again = load_images("fashion", validation=20, download=False)
    assert torch.equal(again.train.x, sets.train.x)
    assert len(asked) == 4


def test_cifar_is_fetched_as_its_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def untar(members: list[str], extract_dir: str) -> tuple[list[str], str]:
        return members, extract_dir

    def retrieve(
        url: str, known_hash: str, fname: str, path: Path, processor: tuple[list[str], str]
    ) -> None:
        assert url == f"https://www.cs.toronto.edu/~kriz/{fname}"
        assert known_hash == "md5:03b5dce01913d631647c71ecec9e9cb8"
        assert processor == (["cifar-100-binary/train.bin", "cifar-100-binary/test.bin"], ".")
        write_cifar(Path(path) / "cifar-100-binary", "cifar100")

    fake_pooch(monkeypatch, tmp_path, retrieve=retrieve, Untar=untar)
    assert len(load_images("cifar100", validation=100).test.x) == 200


@pytest.mark.parametrize("error", [OSError("no route to host"), ValueError("hash of downloaded")])
def test_a_failed_download_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def retrieve(**kwargs: object) -> None:
        raise error

    fake_pooch(monkeypatch, tmp_path, retrieve=retrieve)
    with pytest.raises(ConnectionError, match=f"{error}: try again, or put the files in a folder"):
        load_images("mnist")


def test_without_pooch_the_fix_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'gbi-pyro\[download\]', or put"):
        load_images("mnist")


# --- CIFAR


@pytest.mark.parametrize("num_classes", [10, 100])
def test_a_cifar_row_is_labels_then_planes(tmp_path: Path, num_classes: int) -> None:
    """Row by row from the definition: colour c, line h, column w at byte 1024 c + 32 h + w."""
    labels = np.array([3, 9, 0], np.uint8)
    coarse = np.array([19, 1, 7], np.uint8) if num_classes == 100 else None
    raw = cifar_rows(labels, coarse, seed=0)
    path = tmp_path / "file.bin"
    path.write_bytes(raw)
    found = read_cifar(path, num_classes)
    assert found.labels.tolist() == labels.tolist()
    assert found.pixels.shape == (3, 3, 32, 32)
    first = 1 if coarse is None else 2
    for n, c, h, w in [(0, 0, 0, 0), (1, 2, 5, 31), (2, 1, 31, 0)]:
        assert found.pixels[n, c, h, w] == raw[n * (first + 3072) + first + 1024 * c + 32 * h + w]


@pytest.mark.parametrize("inner", [True, False])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_sets_join_their_files(tmp_path: Path, name: str, inner: bool) -> None:
    published = PUBLISHED[name]
    K = len(published.class_names)
    write_cifar(tmp_path / published.folder if inner else tmp_path, name)
    sets = load_images(name, tmp_path, validation=K)
    files = 5 if name == "cifar10" else 1
    assert (sets.name, sets.num_classes) == (name, K)
    assert sets.train.x.shape == ((2 * files - 1) * K, 3, 32, 32)
    assert sets.validation.y.bincount().tolist() == [1] * K
    assert sets.test.y.bincount().tolist() == [2] * K
    train, test = published.read(tmp_path / published.folder if inner else tmp_path, "")
    check_partition(sets, train.pixels, test.pixels)


@pytest.mark.parametrize(
    ("num_classes", "raw", "message"),
    [
        (10, b"", "one or more rows of 3073 bytes, as in CIFAR-10; got 0 bytes"),
        (10, bytes(2 * 3073 - 1), r"rows of 3073 bytes, as in CIFAR-10; got 6145 bytes, 2\.000 ro"),
        (10, bytes(3074), "rows of 3073 bytes"),
        (100, bytes(3073), "rows of 3074 bytes"),
        (10, bytes(3073) + b"\x0a" + bytes(3072), r"label should be in 0\.\.9; got 10 at image 1"),
        (100, b"\x00\x64" + bytes(3072), r"label should be in 0\.\.99; got 100 at image 0"),
        (100, b"\x14\x00" + bytes(3072), r"label should be in 0\.\.19; got 20 at image 0"),
    ],
)
def test_a_damaged_cifar_file_is_named(
    tmp_path: Path, num_classes: int, raw: bytes, message: str
) -> None:
    path = tmp_path / "train.bin"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=message) as error:
        read_cifar(path, num_classes)
    assert str(error.value).startswith(f"{path}: ")


def test_a_cifar_file_cut_at_the_end_of_a_row_is_found_out(tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar10")
    path = tmp_path / "data_batch_4.bin"
    path.write_bytes(path.read_bytes()[:-3073])
    message = r"data_batch_4\.bin.*images per class should be the same .*; got from 9 to 10"
    with pytest.raises(ValueError, match=message):
        load_images("cifar10", tmp_path)


def test_a_missing_cifar_file_is_named(tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar10")
    (tmp_path / "data_batch_2.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_2\.bin should be in"):
        load_images("cifar10", tmp_path)


def test_cifar_has_two_layouts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_classes should be 10 or 100; got 20"):
        read_cifar(tmp_path, 20)


# --- digits, names, arguments


def test_digits_are_split_once_and_their_test_images_do_not_depend_on_the_seed() -> None:
    from sklearn.datasets import load_digits

    first, other = load_images(), load_images("digits", seed=1)
    parts = [first.train, first.validation, first.test]
    assert [len(p.x) for p in parts] == [1137, 300, 360]
    # Sixteenths are exact in float32, so images are compared bit by bit, each with its label.
    found = sorted(
        ((16 * x).flatten().tolist(), int(y)) for p in parts for x, y in zip(*p, strict=True)
    )
    whole = load_digits()
    assert found == sorted(zip(whole.data.tolist(), whole.target.tolist(), strict=True))
    assert torch.equal(first.test.x, other.test.x)
    assert not torch.equal(first.validation.x, other.validation.x)
    assert first.class_names == tuple("0123456789")
    for part in parts:
        share = part.y.bincount() / len(part.y)
        expected = torch.from_numpy(np.bincount(whole.target) / len(whole.target)).float()
        # A stratified count is off by less than one image, of either split.
        assert ((share - expected).abs() <= 2 / len(part.y)).all()


def test_every_set_has_a_name_for_each_class() -> None:
    assert DATASETS == ("digits", "mnist", "fashion", "cifar10", "cifar100")
    for name, K in [("mnist", 10), ("fashion", 10), ("cifar10", 10), ("cifar100", 100)]:
        assert len(set(PUBLISHED[name].class_names)) == K
    for published in PUBLISHED.values():
        if isinstance(published, IdxSet):
            assert {len(sha256) for sha256 in published.packed + published.content} == {64}
            assert len({*published.packed, *published.content}) == 8


def test_arguments_out_of_range_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one of digits, mnist, .*, cifar100; got 'MNIST'"):
        load_images("MNIST")
    with pytest.raises(ValueError, match=r"data should be None for digits"):
        load_images("digits", tmp_path)
    for seed in (-1, 2**32, 0.5):
        with pytest.raises(ValueError, match="seed should be an integer from 0"):
            load_images("digits", seed=seed)  # type: ignore[arg-type]
    for size in (-1, 0, 9, 1428, 1437, 0.1):
        with pytest.raises(ValueError, match=f"validation should be .* 10 to 1427.*got {size}"):
            load_images("digits", validation=size)  # type: ignore[arg-type]
    for size in (10, 1427):
        sets = load_images("digits", validation=size)
        assert (len(sets.validation.y), len(sets.train.y)) == (size, 1437 - size)
        assert len(sets.validation.y.unique()) == len(sets.train.y.unique()) == 10


# --- the real files

COUNTS = {
    "mnist": (
        [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    ),
    "fashion": ([6000] * 10, [1000] * 10),
}
MOMENTS = {
    "mnist": ((0.1307, 0.3081), (0.1325, 0.3105)),
    "fashion": ((0.2860, 0.3530), (0.2868, 0.3524)),
}


@pytest.mark.parametrize("name", COUNTS)
def test_the_real_files_have_their_published_counts_and_moments(name: str) -> None:
    if not (REAL / PUBLISHED[name].folder).is_dir():
        pytest.skip(f"no {PUBLISHED[name].folder}/ in {REAL}: name its folder by {DATA_VARIABLE}")
    sets = load_images(name, REAL)
    train = Images(
        torch.cat([sets.train.x, sets.validation.x]), torch.cat([sets.train.y, sets.validation.y])
    )
    assert (len(sets.train.y), len(sets.validation.y), len(sets.test.y)) == (55000, 5000, 10000)
    for images, counts, (mean, std) in zip(
        (train, sets.test), COUNTS[name], MOMENTS[name], strict=True
    ):
        assert images.x.shape[1:] == (1, 28, 28)
        assert images.y.bincount().tolist() == counts
        assert (float(images.x.min()), float(images.x.max())) == (0.0, 1.0)
        # Published to four digits.
        assert abs(float(images.x.double().mean()) - mean) <= 0.5e-4
        assert abs(float(images.x.double().std()) - std) <= 0.5e-4
    # No image occurs twice in the training file, so equal sets of images mean a clean split.
    assert len(keys(train)) == 60000
    assert not keys(sets.train) & keys(sets.validation)
    exact = torch.tensor(COUNTS[name][0]) * 5000 / 60000
    assert ((sets.validation.y.bincount() - exact).abs() < 1).all()


# --- transforms


@pytest.mark.parametrize("shape", [(5, 3, 4, 6), (5, 4, 6), (0, 1, 4, 6)])
def test_a_normalised_image_has_mean_zero_and_variance_one(
    shape: tuple[int, ...], generator: torch.Generator
) -> None:
    x = torch.rand(shape, generator=generator, dtype=torch.float64)
    before = x.clone()
    z = normalise_each(x).flatten(1)
    assert torch.equal(x, before)
    torch.testing.assert_close(z.mean(1), torch.zeros(len(x), dtype=x.dtype))
    torch.testing.assert_close(z.square().mean(1), torch.ones(len(x), dtype=x.dtype))
    # Brightness and contrast are what it takes away, and all it does.
    torch.testing.assert_close(normalise_each(0.1 + 3 * x), normalise_each(x))


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1.0])
def test_an_image_of_one_value_becomes_zeros(value: float) -> None:
    """Whose mean over 784 pixels may differ from the value by rounding."""
    x = torch.full((2, 1, 28, 28), value)
    x[1, 0, 3, 4] += 1 / 255
    flat, spot = normalise_each(x)
    assert torch.equal(flat, torch.zeros_like(flat))
    assert spot.isfinite().all()
    torch.testing.assert_close(spot.square().mean(), torch.tensor(1.0), rtol=1e-4, atol=0)


def test_flipping_turns_lines_around_and_twice_is_nothing(generator: torch.Generator) -> None:
    x = torch.rand(2, 3, 4, 5, generator=generator)
    flipped = flip_vertical(x)
    assert torch.equal(flipped[:, :, 0], x[:, :, -1])
    assert torch.equal(flip_vertical(flipped), x)
    assert torch.equal(flip_vertical(x[:, 0]), flipped[:, 0])


@pytest.mark.parametrize("transform", [normalise_each, flip_vertical])
def test_transforms_take_images_only(transform: Callable[[Tensor], Tensor]) -> None:
    for shape in [(4, 6), (1, 1, 1, 4, 6), (3, 0, 4)]:
        with pytest.raises(ValueError, match=r"x should be images of shape"):
            transform(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"x should be floating; got torch\.uint8"):
        normalise_each(torch.zeros(1, 2, 2, dtype=torch.uint8))


def test_a_file_error_reads_as_a_sentence() -> None:
    error = formats.failed_check("a.bin", "the length", 3, 2)
    assert str(error) == "a.bin: the length should be 3; got 2: remove the file and fetch it again"
