"""Image sets with their classes: digits, MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100.

Each is split once into train, validation and test, always in the same way: the test images are the
published ones and stay out of every choice. Hyperparameters, temperatures, scores and thresholds
are chosen on validation, never on test.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.data.formats import PUBLISHED, Arrays, CifarSet, IdxSet

DATASETS = ("digits", *PUBLISHED)
DATA_VARIABLE = "GBI_PYRO_DATA"


class Images(NamedTuple):
    """Images with their classes.

    Attributes:
        x: pixels from 0 to 1, (N, C, H, W) float32.
        y: id of the class of each, (N,) int64.
    """

    x: Tensor
    y: Tensor


class ImageSets(NamedTuple):
    """An image set, split once.

    Attributes:
        name: which of :data:`DATASETS`.
        class_names: name of each class, K of them, in the order of the ids.
        train: for fitting weights.
        validation: for every choice.
        test: for the reported numbers, and for nothing else.
    """

    name: str
    class_names: tuple[str, ...]
    train: Images
    validation: Images
    test: Images

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.class_names)


def _folder(
    published: IdxSet | CifarSet, data: str | os.PathLike[str] | None, download: bool
) -> tuple[Path, str]:
    """Return where the files are to be read from, and what to do if they are missing or damaged."""
    source = "data" if data is not None else DATA_VARIABLE
    data = data if data is not None else os.environ.get(DATA_VARIABLE) or None
    files = f"the files published at {published.url}"
    if data is not None:
        root = Path(data).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(
                f"{source} should be a folder that holds {published.folder}/ or its files; got "
                f"{str(data)!r}, which is no folder"
            )
        inner = root / published.folder
        fix = f"put {files} there, or set neither data nor {DATA_VARIABLE} to have them downloaded"
        return inner if inner.is_dir() else root, fix
    try:
        import pooch
    except ImportError:
        raise ModuleNotFoundError(
            f"pooch should be installed to download {published.folder}; got no such package: pip "
            f"install 'gbi-pyro[download]', or put {files} in a folder and name it by data or "
            f"{DATA_VARIABLE}, or take 'digits', which needs no files"
        ) from None
    cache = Path(pooch.os_cache("gbi-pyro"))
    if not download:
        return cache / published.folder, "allow the download, or name a folder by data"
    try:
        published.fetch(pooch, cache)
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"{published.folder} should be had from {published.url}; got {error}: try again, or "
            f"put the files in a folder and name it by data or {DATA_VARIABLE}"
        ) from error
    return cache / published.folder, "remove the file and have it downloaded again"


def _split(labels: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return indices of the rest and of ``size`` held out, each class in proportion, in order."""
    from sklearn.model_selection import train_test_split

    rest, held = train_test_split(
        np.arange(len(labels)), test_size=size, stratify=labels, random_state=seed
    )
    return np.sort(rest), np.sort(held)


def _digits() -> tuple[Arrays, Arrays]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    # No published test set: one seed for all, so that no seed trains on what another tests.
    rest, test = _split(labels, size=360, seed=0)
    return Arrays(pixels[rest], labels[rest]), Arrays(pixels[test], labels[test])


def _images(arrays: Arrays, index: np.ndarray | slice, white: int) -> Images:
    pixels = arrays.pixels[index].astype(np.float32)
    x = torch.from_numpy(pixels if pixels.ndim == 4 else pixels[:, None]).div_(white)
    return Images(x, torch.from_numpy(arrays.labels[index].astype(np.int64)))


def load_images(
    name: str = "digits",
    data: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
    validation: int | None = None,
    download: bool = True,
) -> ImageSets:
    """Load an image set, split into train, validation and test.

    Test is the published test set, whatever the seed (of digits, which has none, a fixed fifth);
    validation is held out from the published training set, each class in proportion. Every choice
    belongs on validation: a number chosen on test says nothing about new images.

    Files are read from the folder ``data``, else from the one that the environment variable
    ``GBI_PYRO_DATA`` names, else from pooch's cache, where they are downloaded once. The folder
    holds ``mnist/``, ``fashion-mnist/``, ``cifar-10-batches-bin/`` or ``cifar-100-binary/``, or the
    files themselves; IDX files may be compressed or plain. Nothing is downloaded when a folder is
    given. IDX files are compared with the published checksums.

    Args:
        name: ``digits`` (8 x 8, comes with scikit-learn), ``mnist``, ``fashion``, ``cifar10`` or
            ``cifar100``.
        data: folder of the files; not for digits.
        seed: decides which images are held out for validation.
        validation: how many; ``None`` is 5000, of digits 300.
        download: whether missing files may be downloaded where no folder is given.

    Returns:
        The three sets, disjoint, together all images, each in its published order.

    Raises:
        ValueError: if an argument is out of range, or a file is damaged or not the published one.
        FileNotFoundError: if a given folder or a file in it is missing.
        ModuleNotFoundError: if a download is needed and pooch is not installed.
        ConnectionError: if the download fails.

    Example:
        >>> digits = load_images("digits")
        >>> digits.train.x.shape, digits.validation.x.shape, digits.test.x.shape
        (torch.Size([1137, 1, 8, 8]), torch.Size([300, 1, 8, 8]), torch.Size([360, 1, 8, 8]))
    """
    if name not in DATASETS:
        raise ValueError(f"name should be one of {', '.join(DATASETS)}; got {name!r}")
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed should be an integer from 0 to 2**32 - 1; got {seed!r}")
    if name == "digits":
        if data is not None:
            raise ValueError(
                f"data should be None for digits, which come with scikit-learn; got {str(data)!r}: "
                "leave it out, or name another set"
            )
        class_names, white = tuple("0123456789"), 16
        train, test = _digits()
    else:
        published = PUBLISHED[name]
        class_names, white = published.class_names, 255
        train, test = published.read(*_folder(published, data, download))
    if validation is None:
        validation = 300 if name == "digits" else 5000
    K, N = len(class_names), len(train.labels)
    if not isinstance(validation, int) or not K <= validation <= N - K:
        raise ValueError(
            f"validation should be an integer from {K} to {N - K}, to leave an image of each of "
            f"the {K} classes on either side of {N}; got {validation!r}"
        )
    rest, held = _split(train.labels, validation, seed)
    return ImageSets(
        name,
        class_names,
        _images(train, rest, white),
        _images(train, held, white),
        _images(test, slice(None), white),
    )


def normalise_each(x: Tensor) -> Tensor:
    """Shift and scale each image to mean zero and variance one over its pixels and channels.

    (x - mean(x)) / sqrt(mean((x - mean(x))^2)). An image of one value carries no contrast to scale
    and becomes zeros.

    Args:
        x: images, (N, C, H, W) or (N, H, W), floating.

    Returns:
        The same shape and dtype.

    Raises:
        ValueError: if x is not floating or has no pixels.

    Example:
        >>> normalise_each(torch.tensor([[[0.0, 1.0]], [[0.3, 0.3]]]))
        tensor([[[-1.,  1.]],
                [[ 0.,  0.]]])
    """
    _check_images(x)
    if not x.is_floating_point():
        raise ValueError(f"x should be floating; got {x.dtype}: divide the pixels by 255")
    flat = x.flatten(1)
    # By its extremes, since the mean of equal numbers may differ from them by rounding.
    constant = (flat.amax(1) == flat.amin(1)).unsqueeze(-1)
    deviation = flat - flat.mean(1, keepdim=True)
    scale = deviation.square().mean(1, keepdim=True).sqrt()
    return (deviation / scale).masked_fill(constant, 0.0).view_as(x)


def flip_vertical(x: Tensor) -> Tensor:
    """Turn images upside down: the last row first, (..., H, W), a near out-of-distribution set.

    >>> flip_vertical(torch.tensor([[[1, 2], [3, 4]]]))
    tensor([[[3, 4],
             [1, 2]]])
    """
    _check_images(x)
    return x.flip(-2)


def _check_images(x: Tensor) -> None:
    if x.ndim not in (3, 4) or 0 in x.shape[1:]:
        raise ValueError(
            f"x should be images of shape (N, C, H, W) or (N, H, W) with one pixel or more; got "
            f"{tuple(x.shape)}"
        )
