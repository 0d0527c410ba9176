"""Image sets for studies: loaded once, with a checksum for the keys of what depends on them."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Literal

from torch import Tensor

from gbi_pyro.data.images import ImageSets, load_images

Dataset = Literal["digits", "mnist", "fashion", "cifar10", "cifar100"]
"""The names of the image sets, so that a command refuses any other."""


@functools.lru_cache(maxsize=2)
def image_sets(dataset: str, data: Path | None, seed: int = 0) -> ImageSets:
    """Load an image set; nothing may be written into its tensors, which later calls return too.

    Args:
        dataset: the name of the set, as in ``load_images``.
        data: the folder of the files; None for digits, which need none.
        seed: decides which images are held out for validation.

    Raises:
        ValueError: see ``load_images``.
    """
    return load_images(dataset, data, seed=seed)


@functools.lru_cache
def sets_checksum(dataset: str, data: Path | None) -> str:
    """Return the checksum of all images and labels of a set."""
    sets = image_sets(dataset, data)
    return checksum(*sets.train, *sets.validation, *sets.test)


def checksum(*tensors: Tensor) -> str:
    """Return the SHA-256 of what tensors hold.

    >>> import torch
    >>> checksum(torch.zeros(2)) == checksum(torch.zeros(2)) != checksum(torch.ones(2))
    True
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
