"""Run a model without side effects: no parameter, gradient, random draw or flag is left.

One model runs at a time: Pyro's handlers are global to the process, so threads take turns. And
nothing is left whenever Ctrl-C is pressed: each step back may be taken twice.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import unwrap
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import _global_forward_pre_hooks, register_module_forward_pre_hook

from gbi_pyro._numpy_state import NumpyState

ONE_MODEL = threading.RLock()
"""Held while a model runs. Whatever else runs models in threads should hold it, too."""
if hasattr(os, "register_at_fork"):  # no thread that might release it lives on in a child process
    os.register_at_fork(after_in_child=ONE_MODEL._at_fork_reinit)  # type: ignore[attr-defined]


def module_of(model: Callable[..., Any]) -> nn.Module | None:
    """Return the network behind a model: itself, a bound method's owner, a partial's inside.

    >>> net = nn.Linear(2, 1)
    >>> module_of(partial(net.forward, torch.zeros(2))) is net
    True
    """
    while not isinstance(model, nn.Module):
        inner = unwrap(model)  # Pyro's handlers: poutine.condition(model, ...)
        if inner is model:
            inner = model.func if isinstance(model, partial) else getattr(model, "__self__", None)
        if inner is None:
            return None
        model = inner
    return model


@contextlib.contextmanager
def pure(model: Callable[..., Any], *, freeze: bool = False) -> Iterator[list[nn.Module]]:
    """Run ``model`` inside without side effects.

    Kept: Pyro's parameter store and handler stack, the random state of torch (CPU and CUDA), NumPy
    and Python, the buffers of networks in training mode (batch statistics move when they run).
    Handlers outside see nothing of what happens inside, and plates outside take no dimension.

    Another thread waits until this one has left. An interrupt (Ctrl-C) of the steps around the
    run is raised when they are complete.

    Args:
        model: the Pyro model that will run; a network is looked for behind it.
        freeze: switch off ``requires_grad`` of the weights meanwhile. The backward pass then stops
            where the task enters, and no weight can collect a gradient.

    Yields:
        The layers that have run as in training: dropout, and statistics of the batch, by which its
        elements influence each other. It fills as they run.
    """
    run = _PureRun(module_of(model), freeze)
    try:
        try:
            run.begin()
            yield run.in_training
        finally:
            run.end()
    except BaseException:
        run.end()  # once more, where an exception has cut the first short
        raise


class _PureRun:
    """What a run may change: remembered before, put back after. ``end`` may be repeated."""

    def __init__(self, module: nn.Module | None, freeze: bool) -> None:
        self.networks = [] if module is None else list(module.modules())
        self.freeze = freeze
        self.in_training: list[nn.Module] = []
        self.defers_interrupts = self.remembers = False
        self.held: list[Any] = []  # the lock, once it is held
        self.frozen: list[Tensor] = []
        self.buffers: dict[nn.Module, dict[str, Tensor | None]] = {}
        self.filters = contextlib.ExitStack()

    def begin(self) -> None:
        if _interrupts_raise():
            self.defers_interrupts = True
            signal.signal(signal.SIGINT, _on_interrupt)
        while not self.held:  # in short turns, between which an interrupt is seen
            self.held.extend([ONE_MODEL] * ONE_MODEL.acquire(timeout=0.1))
            _raise_deferred()
        self.remember()
        self.change()
        _raise_deferred()

    def change(self) -> None:
        for p in self.frozen:
            p.requires_grad_(False)
        for network in self.networks:
            self.lend_copies(network)
        # A model that is a plain function keeps its networks in its closure or among its globals:
        # they show themselves when they run.
        register_module_forward_pre_hook(self.watch)
        if self.handlers:  # outside
            poutine.block().__enter__()
        _DIM_ALLOCATOR._stack = []  # plates choose their dimensions as if none stood outside
        self.filters.enter_context(warnings.catch_warnings())
        if self.frozen:  # pyro.module wonders at constant weights in training mode
            warnings.filterwarnings("ignore", ".* was not registered in the param store")

    def remember(self) -> None:
        """Remember everything before anything changes."""
        store = pyro.get_param_store()
        if self.freeze:
            weights = [p for network in self.networks for p in network._parameters.values()]
            weights += [p for p in store._params.values() if p.is_leaf]
            self.frozen = [p for p in weights if p is not None and p.requires_grad]
        # Only what the run adds is taken out again: tensors stay the same objects. An interrupt may
        # leave a parameter in some of these alone.
        parts = store._params, store._constraints, store._param_to_name
        self.store: list[tuple[dict[Any, Any], set[Any]]] = [(part, set(part)) for part in parts]
        self.random_state = torch.get_rng_state(), random.getstate(), NumpyState()
        self.cuda_state = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        self.handlers, self.dimensions = list(_PYRO_STACK), _DIM_ALLOCATOR._stack
        self.grad_enabled = torch.is_grad_enabled()
        self.kernels = torch._C._get_cudnn_enabled(), torch._C._get_mkldnn_enabled()
        self.remembers = True

    def end(self) -> None:
        if self.remembers:
            self.put_back()
        if self.held:
            self.held.pop().release()
        if self.defers_interrupts:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        _raise_deferred()

    def put_back(self) -> None:
        self.filters.close()
        _DIM_ALLOCATOR._stack = self.dimensions
        _PYRO_STACK[:] = self.handlers
        for key in [k for k, hook in _global_forward_pre_hooks.items() if hook == self.watch]:
            del _global_forward_pre_hooks[key]
        for network, buffers in self.buffers.items():
            network._buffers.update(buffers)
        for p in self.frozen:
            p.requires_grad_(True)
        for part, known in self.store:
            for key in set(part) - known:
                del part[key]
        torch.set_rng_state(self.random_state[0])
        random.setstate(self.random_state[1])
        self.random_state[2].put_back()
        if self.cuda_state:
            torch.cuda.set_rng_state_all(self.cuda_state)
        torch.set_grad_enabled(self.grad_enabled)
        torch._C._set_cudnn_enabled(self.kernels[0])
        torch._C._set_mkldnn_enabled(self.kernels[1])
        self.remembers = False

    def lend_copies(self, network: nn.Module) -> None:
        """Let a network in training mode move copies of its buffers.

        Copies, because the graph of the run may still need them as the run left them.
        """
        if network.training and network not in self.buffers:
            self.buffers[network] = dict(network._buffers)
            for name, buffer in self.buffers[network].items():
                if buffer is not None:
                    network._buffers[name] = buffer.detach().clone()

    def watch(self, network: nn.Module, _: Any) -> None:
        """Note a layer that runs as in training, wherever its network is kept."""
        if not network.training and not isinstance(network, _BatchNorm):
            return  # at once: this is called for every layer
        drops = isinstance(network, _DropoutNd) and network.training and network.p > 0
        mixes = isinstance(network, _BatchNorm) and (
            network.training or network.running_mean is None
        )
        if drops or mixes:
            self.in_training.append(network)
        self.lend_copies(network)


_deferred: list[int] = []


def _interrupts_raise() -> bool:
    """Whether Ctrl-C raises KeyboardInterrupt in this thread, as Python does by itself."""
    return (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt inside a model; remember it where ``pure`` itself is at work."""
    at = frame
    while at is not None:
        code = at.f_code
        if code.co_filename == contextlib.__file__:  # it enters and leaves ``pure``
            code = getattr(getattr(at.f_locals.get("self"), "gen", None), "gi_code", code)
        if code is _CODE:
            _deferred.append(number)
            return
        at = at.f_back
    signal.default_int_handler(number, frame)


def _raise_deferred() -> None:
    """Raise the interrupt that was remembered."""
    if _deferred and threading.current_thread() is threading.main_thread():
        _deferred.clear()
        raise KeyboardInterrupt


_CODE = pure.__wrapped__.__code__  # type: ignore[attr-defined]


def differentiable_networks(order: int) -> contextlib.AbstractContextManager[None]:
    """Choose kernels that have the derivatives asked for, and no others.

    cuDNN's recurrent kernels have no backward pass in eval mode, and oneDNN's have no second
    derivative; the flags are put back on leaving.
    """
    first = order == 1 and not torch.cuda.is_initialized()
    return contextlib.nullcontext() if first or not order else _other_kernels(order)


@contextlib.contextmanager
def _other_kernels(order: int) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if torch.cuda.is_initialized():
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        if order > 1:
            with warnings.catch_warnings():  # about Intel GPUs, on every other machine
                warnings.filterwarnings("ignore", "TF32 acceleration on top of oneDNN")
                stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        yield
