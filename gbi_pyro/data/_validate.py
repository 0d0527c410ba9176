"""Checks of counts and of files."""

from __future__ import annotations

import os

AGAIN = "remove the file and fetch it again"


def check_count(name: str, value: int) -> None:
    """Check that a number of things is a positive integer.

    Raises:
        ValueError: names the argument.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} should be an integer of at least 1; got {value!r}")


def failed_check(
    path: str | os.PathLike[str], check: str, expected: object, got: object, fix: str = AGAIN
) -> ValueError:
    """Return the error that tells which check a file failed, and what to do.

    >>> raise failed_check("a.gz", "the magic number", 2051, 2049, "swap the two files")
    Traceback (most recent call last):
    ValueError: a.gz: the magic number should be 2051; got 2049: swap the two files
    """
    return ValueError(f"{os.fspath(path)}: {check} should be {expected}; got {got}: {fix}")
