"""Checks of the options of an inference."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from torch import Tensor


def check_numbers(infer: object, *names: str, integers: tuple[str, ...] = ()) -> None:
    """Check that options of an inference are numbers; a model may stand there by mistake.

    Raises:
        TypeError: for anything else.
    """
    kind = type(infer).__name__
    for name in (*names, *integers):
        value = getattr(infer, name)
        whole = name in integers
        if isinstance(value, Integral if whole else (Real, Tensor)):
            continue
        cure = f": the model comes at the call, {kind}()(model, *args)" * callable(value)
        raise TypeError(
            f"{name} of {kind} should be {'an integer' if whole else 'a number'}, got a "
            f"{type(value).__name__}{cure}"
        )


def check_chunk_size(infer: Any) -> None:
    """Check how many combinations an inference tries in one run: an integer, or None.

    Raises:
        TypeError: for anything else.
        ValueError: for less than 1.
    """
    if infer.chunk_size is None:
        return
    check_numbers(infer, integers=("chunk_size",))
    if infer.chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1 or None, got {infer.chunk_size}")
