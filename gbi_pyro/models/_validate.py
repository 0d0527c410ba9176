"""Checks of options and images."""

from __future__ import annotations

from typing import Any, get_args

from torch import Tensor


def check_images(x: Tensor, image_shape: tuple[int, ...]) -> Tensor:
    """Return ``x`` if it is a batch of images of the given shape."""
    if tuple(x.shape[1:]) != image_shape or not x.ndim:
        raise ValueError(
            f"images have shape {tuple(x.shape)}, expected (number of images, "
            f"{', '.join(map(str, image_shape))}); reshape them, or build the model for theirs"
        )
    return x


def check_choice(name: str, value: str, choices: Any) -> None:
    """Check that an option is one of a ``Literal``'s values."""
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {get_args(choices)}, got {value!r}")
