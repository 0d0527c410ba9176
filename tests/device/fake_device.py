"""A device that computes on the CPU and raises what CUDA raises: a test of devices everywhere.

Its tensors live in torch's place for other backends (PrivateUse1). They refuse to meet tensors of
the CPU, generators of the CPU and NumPy, as CUDA's do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

NAME = "fake"
aten = torch.ops.aten
# Index with tensors of the CPU, and copies between devices, are what CUDA takes, too.
MIXED = {aten.index, aten.index_put, aten.index_put_, aten.copy_, aten._copy_from}
NO_SCALARS = {aten.cat, aten.stack}  # of the CPU; elsewhere CUDA takes them


class FakeDeviceTensor(torch.Tensor):
    """A tensor on the fake device; ``raw`` holds its numbers."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> FakeDeviceTensor:
        found = torch.Tensor._make_wrapper_subclass(
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
        )
        found.raw = raw
        return found

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self) -> str:
        return f"FakeDeviceTensor({self.raw})"

    def tolist(self) -> Any:
        return self.raw.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(
            f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu()"
        )

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        check(func, (args, kwargs))
        to = kwargs.get("device")
        here = to is None or torch.device(to).type == NAME
        if to is not None:
            kwargs["device"] = "cpu"
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, FakeDeviceTensor)]
        in_place = {id(t.raw): t for t in given}
        args, kwargs = tree_map_only(FakeDeviceTensor, lambda t: t.raw, (args, kwargs))
        found = CELLS.get(func, func)(*args, **kwargs)
        if not here:
            return found

        def wrapped(raw: torch.Tensor) -> torch.Tensor:
            return in_place[id(raw)] if id(raw) in in_place else cls(raw)

        return tree_map_only(torch.Tensor, wrapped, found)


def check(func: Any, given: Any) -> None:
    """Refuse what CUDA refuses."""
    packet = func.overloadpacket
    for leaf in tree_leaves(given):
        if isinstance(leaf, torch.Generator) and leaf.device.type != NAME:
            raise RuntimeError(
                f"Expected a '{NAME}' device type for generator but found '{leaf.device}'"
            )
    if packet in MIXED and not isinstance(given[0][0], FakeDeviceTensor) and packet != aten.copy_:
        raise RuntimeError(f"indices should be on the CPU, as the tensor; got {NAME}:0")
    if packet in MIXED:
        return
    for leaf in tree_leaves(given):
        other = isinstance(leaf, torch.Tensor) and not isinstance(leaf, FakeDeviceTensor)
        if other and (leaf.ndim or packet in NO_SCALARS):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{NAME}:0 and {leaf.device}! (in {func})"
            )


def lstm_cell(inputs: Any, hidden: Any, c: Any, b: Any = None, d: Any = None) -> Any:
    """Return h, c and the gates: the cell that torch uses on other devices than the CPU."""
    i, f, g, o = (inputs + hidden + (0 if b is None else b + d)).chunk(4, -1)
    gates = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    new = gates[1] * c + gates[0] * gates[2]
    return gates[3] * new.tanh(), new, torch.cat(gates, -1)


def lstm_cell_backward(dh: Any, dc: Any, c: Any, new: Any, gates: Any, has_bias: bool) -> Any:
    """Return the gradients of the gates before they are squashed, of c and of the bias."""
    i, f, g, o = gates.chunk(4, -1)
    dh, dc = (torch.zeros_like(c) if d is None else d for d in (dh, dc))
    dc = dc + dh * o * (1 - new.tanh() ** 2)
    parts = dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2)
    dgates = torch.cat([*parts, dh * new.tanh() * o * (1 - o)], -1)
    return dgates, dc * f, dgates.sum(0) if has_bias else None


CELLS = {
    aten._thnn_fused_lstm_cell.default: lstm_cell,
    aten._thnn_fused_lstm_cell_backward_impl.default: lstm_cell_backward,
}


class FakeModule(_DummyBackendModule):
    """What ``torch.fake`` holds; the device has no random state of its own."""

    def get_rng_state(self, device: Any) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any) -> None:
        torch.set_rng_state(state)


def register() -> None:
    """Add the device to torch, once a process."""
    if hasattr(torch, NAME):
        return
    _setup_privateuseone_for_python_backend(NAME, FakeModule())

    def empty(size: Any, *, dtype: Any = None, **_: Any) -> torch.Tensor:
        return FakeDeviceTensor(torch.empty(size, dtype=dtype))

    def empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> torch.Tensor:
        return FakeDeviceTensor(torch.empty_strided(size, stride, dtype=dtype))

    def copy_from(source: Any, to: Any, non_blocking: bool = False) -> Any:
        raw = [t.raw if isinstance(t, FakeDeviceTensor) else t for t in (to, source)]
        raw[0].copy_(raw[1])
        return to

    torch.library.impl("aten::_copy_from", "PrivateUse1")(copy_from)
    torch.library.impl("aten::empty.memory_format", "PrivateUse1")(empty)
    torch.library.impl("aten::empty_strided", "PrivateUse1")(empty_strided)
