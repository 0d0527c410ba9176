"""The arithmetic of a function of one tensor, recorded once and replayed for other values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten


class _Step(NamedTuple):
    """One operation: its arguments, and which of them earlier steps give."""

    operation: Any
    args: list[Any]
    kwargs: dict[str, Any]
    given: list[tuple[int, int]]
    spec: TreeSpec | None  # where tensors of lists are given: how to build args and kwargs
    outputs: int


class Tape(TorchDispatchMode):
    """What torch computes from a tensor, step by step; what does not depend on it, once.

    A replay costs the arithmetic alone, without the Python code that asked for it. It is a function
    of tensors like any, with gradients, for inputs of the same shape. It repeats what happened: a
    branch that was taken, a random number that was drawn. (Under ``vmap`` no branch can depend on
    the input.)

    Args:
        function: from a tensor to several.
        x: the tensor to record it at.

    Raises:
        RuntimeError: for a function that writes into tensors it was given or made before.

    >>> tape = Tape(lambda x: (2 * x.exp(), torch.ones(2)), torch.zeros(2))
    >>> tape(torch.tensor([0.0, 1.0]))
    [tensor([2.0000, 5.4366]), tensor([1., 1.])]
    """

    def __init__(self, function: Callable[[Tensor], Sequence[Tensor]], x: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._values = [x]  # kept while the tape records, so that no id comes twice
        self._index = {id(x): 0}
        self._read: set[int] = set()  # memory of constants that steps have read
        self._steps: list[_Step] = []
        with torch.no_grad(), self:
            results = function(x)
        self._results = [self._index.get(id(r), r) for r in results]
        self._values, self._index = [], {}
        self._drop_unused()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch loads its compiler, for a second, to keep it away from this

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves, spec = tree_flatten((args, kwargs))
        live = [(i, self._index[id(a)]) for i, a in enumerate(leaves) if id(a) in self._index]
        found = func(*args, **kwargs)
        if func._schema.is_mutable:
            self._check_written(func, args, kwargs, depends=bool(live))
        if live:
            self._read |= _memory([a for a in leaves if id(a) not in self._index])
            given = [(i, self._index[id(a)]) for i, a in enumerate(args) if id(a) in self._index]
            nested = len(given) < len(live)
            arguments = leaves if nested else list(args)
            given = live if nested else given
            for i, _ in given:
                arguments[i] = None
            outputs = [o for o in tree_flatten(found)[0] if isinstance(o, Tensor)]
            self._index |= {id(o): len(self._values) + n for n, o in enumerate(outputs)}
            self._values += outputs
            step = _Step(func, arguments, kwargs, given, spec if nested else None, len(outputs))
            self._steps.append(step)
        return found

    def _check_written(self, func: Any, args: Any, kwargs: Any, *, depends: bool) -> None:
        """Refuse to write into what outlives a replay: the input, and constants that steps read."""
        arguments = func._schema.arguments
        values = dict(zip([a.name for a in arguments], args, strict=False)) | kwargs
        written = [
            values[a.name]
            for a in arguments
            if a.name in values and a.alias_info is not None and a.alias_info.is_write
        ]
        lasting = self._read | _memory(self._values[:1])
        if depends:
            lasting |= _memory([w for w in written if id(w) not in self._index])
        if not lasting.isdisjoint(_memory(written)):
            raise RuntimeError(
                f"{func} writes into a tensor that is used again; expected operations that return "
                "new ones"
            )

    def _drop_unused(self) -> None:
        """Forget steps that no result needs, checks included; the values keep their numbers."""
        needed = {r for r in self._results if isinstance(r, int)}
        end = 1 + sum(step.outputs for step in self._steps)
        for n in reversed(range(len(self._steps))):
            step = self._steps[n]
            end -= step.outputs
            writes = step.operation._schema.is_mutable
            if not writes and needed.isdisjoint(range(end, end + step.outputs)):
                self._steps[n] = step._replace(operation=None)
            else:
                needed |= {slot for _, slot in step.given}

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Return what the function would for another tensor of the same shape."""
        values = [x]
        for operation, arguments, kwargs, given, spec, outputs in self._steps:
            if operation is None:
                values += [x] * outputs
                continue
            args = arguments.copy()
            for i, n in given:
                args[i] = values[n]
            if spec is not None:
                args, kwargs = tree_unflatten(args, spec)
            found = operation(*args, **kwargs)
            if outputs == 1 and isinstance(found, Tensor):
                values.append(found)
            else:
                values += [o for o in tree_flatten(found)[0] if isinstance(o, Tensor)]
        return [values[r] if isinstance(r, int) else r for r in self._results]


def _memory(values: list[Any]) -> set[int]:
    """Return where tensors lie in memory."""
    return {v.untyped_storage().data_ptr() for v in values if isinstance(v, Tensor)}
