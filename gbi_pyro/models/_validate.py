"""Checks of options, images and series."""

from __future__ import annotations

from typing import Any, get_args

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gbi_pyro._arrays import as_tensor


def check_images(x: Tensor | ArrayLike, image_shape: tuple[int, ...]) -> Tensor:
    """Return ``x`` as a tensor if it is a batch of images of the given shape, in floating numbers.

    Arrays take torch's default dtype.
    """
    images = as_tensor(x, "images", like=None if isinstance(x, Tensor) else torch.zeros(()))
    if tuple(images.shape[1:]) != image_shape or not images.ndim:
        raise ValueError(
            f"images have shape {tuple(images.shape)}, expected (number of images, "
            f"{', '.join(map(str, image_shape))}); reshape them, or build the model for theirs"
        )
    if not images.is_floating_point():
        raise ValueError(
            f"images have dtype {images.dtype}, expected floating numbers from 0 to 1: divide "
            "bytes by 255"
        )
    return images


def check_series(x: Tensor | ArrayLike, name: str, weight: Tensor, axes: str) -> Tensor:
    """Return numbers as a tensor of the weights' dtype, if it has the axes named.

    A tensor of another floating dtype is refused, since the model would compute in neither.
    """
    series = as_tensor(x, name, like=weight)
    if series.ndim != axes.count(",") + 1:
        raise ValueError(f"{name} has shape {tuple(series.shape)}, expected ({axes})")
    if not series.is_floating_point():
        return series.to(weight.dtype)
    if series.dtype != weight.dtype:
        raise ValueError(
            f"{name} has dtype {series.dtype}, but the weights are {weight.dtype}: call "
            f"{name}.to({weight.dtype}), or network.to({series.dtype})"
        )
    return series


def check_choice(name: str, value: str, choices: Any) -> None:
    """Check that an option is one of a ``Literal``'s values."""
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {get_args(choices)}, got {value!r}")
