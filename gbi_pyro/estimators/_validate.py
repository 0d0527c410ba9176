"""Checks of options."""

from __future__ import annotations

from numbers import Integral
from typing import Any


def check_whole(name: str, value: Any, least: int) -> None:
    """Refuse what is no whole number, or too small a one."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} should be a whole number from {least}; got {value!r}")
