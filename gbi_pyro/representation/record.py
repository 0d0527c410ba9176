"""Record the activity of a network's modules while it runs."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


@contextlib.contextmanager
def record(module: nn.Module, *names: str) -> Iterator[dict[str, list[Tensor]]]:
    """Record what modules return, one tensor for each call.

    An inference runs the network once for each forward pass, so that there are as many recordings
    as ``posterior.passes.forward`` counts (and those of checks). Nothing is left behind: hooks are
    removed, weights and gradients are not touched.

    ``stepwise`` takes the steps of a ``SequenceLSTM`` by its folded weights, past its modules:
    record ``network.mean(x, z)``, with the posterior as z, instead. Modules that were never called
    are warned of.

    Args:
        module: the network.
        names: of its modules, as in ``named_modules``; all without children if none is named.

    Yields:
        By name the output of each call, detached; of a tuple (``nn.LSTM``, attention) the first
        tensor. It fills as the network runs.

    Raises:
        ValueError: for an unknown name.
        TypeError: when a module returns no tensor.

    >>> import torch
    >>> network = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
    >>> with record(network, "1") as activity:
    ...     _ = network(torch.zeros(5, 3)), network(torch.zeros(4, 3))
    >>> [tuple(a.shape) for a in activity["1"]]
    [(5, 2), (4, 2)]
    """
    known = dict(module.named_modules())
    chosen = names or tuple(name for name, m in known.items() if not any(m.children()))
    if unknown := [name for name in chosen if name not in known]:
        raise ValueError(
            f"{unknown[0]!r} is no module of {type(module).__name__}; expected one of "
            f"{[name for name in known if name]}"
        )
    activity: dict[str, list[Tensor]] = {name: [] for name in chosen}
    with contextlib.ExitStack() as hooks:
        for name in chosen:
            handle = known[name].register_forward_hook(_Recorder(name, activity[name]))
            hooks.callback(handle.remove)
        yield activity
    if silent := [name for name, calls in activity.items() if not calls]:
        warnings.warn(
            f"nothing was recorded of {silent}: expected the network to call them inside the "
            "block. stepwise takes the steps of a recurrent network past its modules: record the "
            "run network.mean(x, z), or name other modules",
            stacklevel=3,
        )


class _Recorder:
    """A forward hook that keeps what its module returns."""

    def __init__(self, name: str, kept: list[Tensor]) -> None:
        self.name, self.kept = name, kept

    def __call__(self, module: nn.Module, _: Any, output: Any) -> None:
        while isinstance(output, (tuple, list)) and output:
            output = output[0]
        if not isinstance(output, Tensor):
            raise TypeError(
                f"module {self.name!r} returned a {type(output).__name__}; expected a tensor, or a "
                "tuple that begins with one: record the modules inside it"
            )
        self.kept.append(output.detach())
