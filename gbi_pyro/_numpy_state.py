"""NumPy's global random state, remembered and put back at the cost of a copy of 2.5 kB.

``np.random.get_state`` and ``set_state`` convert 624 words one by one, which takes longer than all
else that is put back after a run. So the state is compared as it lies in memory, and written, by
``set_state``, only if it has moved.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from typing import Any

import numpy as np

_WORDS = 624
_TWISTER = struct.Struct(f"={_WORDS}Ii")  # a Mersenne twister: its words, and a position
_STOCK = struct.Struct("=i4xd")  # whether the second of a pair of normal numbers is left; which


def _find_stock() -> int | None:
    """Return where a ``RandomState`` keeps its stock, in bytes from its beginning.

    Found on a generator that is known, so that another layout is noticed: then None.
    """
    if sys.implementation.name != "cpython":  # elsewhere an id is no address
        return None
    probe = np.random.RandomState(0)
    size = type(probe).__basicsize__
    empty = ctypes.string_at(id(probe), size)
    probe.standard_normal()
    full = ctypes.string_at(id(probe), size)
    at = full.find(struct.pack("=d", probe.get_state(legacy=False)["gauss"])) - 8
    held = [_STOCK.unpack_from(memory, at)[0] for memory in (empty, full)] if at >= 0 else []
    return at if held == [0, 1] else None


_GENERATOR: Any = np.random.mtrand._rand  # behind np.random.rand ...
_AT = _find_stock()


def _memory() -> tuple[bytes, bytes] | None:
    """Return twister and stock as they lie in memory; None for any other generator."""
    twister = _GENERATOR._bit_generator
    if _AT is None or type(twister) is not np.random.MT19937:
        return None
    return (
        ctypes.string_at(twister.ctypes.state_address, _TWISTER.size),
        ctypes.string_at(id(_GENERATOR) + _AT, _STOCK.size),
    )


class NumpyState:
    """NumPy's global random state at one moment.

    >>> state = NumpyState()
    >>> drawn = np.random.normal()
    >>> state.put_back()
    >>> drawn == np.random.normal()
    True
    """

    def __init__(self) -> None:
        self.memory = _memory()
        self.state: Any = None
        if self.memory is None:
            self.state = np.random.get_state(legacy=False)  # noqa: NPY002

    def put_back(self) -> None:
        """Put the generator back to that moment, if it has moved."""
        if self.memory is None:
            np.random.set_state(self.state)  # noqa: NPY002
        elif self.memory != _memory():
            np.random.set_state(_unpacked(*self.memory))  # noqa: NPY002


def _unpacked(twister: bytes, stock: bytes) -> Any:
    *words, position = _TWISTER.unpack(twister)
    has_gauss, gauss = _STOCK.unpack(stock)
    return {
        "bit_generator": "MT19937",
        "state": {"key": np.array(words, dtype=np.uint32), "pos": position},
        "has_gauss": has_gauss,
        "gauss": gauss,
    }
