"""Run a model without side effects: no parameter, gradient, random draw or flag is left."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import unwrap
from pyro.poutine.runtime import _DIM_ALLOCATOR
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import register_module_forward_pre_hook


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

    Args:
        model: the Pyro model that will run; a network is looked for behind it.
        freeze: switch off ``requires_grad`` of the weights meanwhile. The backward pass then stops
            where the task enters, and no weight can collect a gradient.

    Yields:
        The layers that have run as in training: dropout, and statistics of the batch, by which its
        elements influence each other. It fills as they run.
    """
    store = pyro.get_param_store()
    module = module_of(model)
    weights = set(module.parameters()) if module is not None else set()
    weights.update(p for p in store._params.values() if p.is_leaf)
    frozen = [p for p in weights if freeze and p.requires_grad]
    # Only names that the run adds are taken out again: tensors stay the same objects.
    names = set(store.keys())
    random_state = pyro.util.get_rng_state()
    cuda_state = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    for p in frozen:
        p.requires_grad_(False)
    try:
        with (
            _borrowed_buffers(module) as in_training,
            poutine.block(),
            _plates_of_its_own(),
            warnings.catch_warnings(),
        ):
            if frozen:  # pyro.module wonders at constant weights in training mode
                warnings.filterwarnings("ignore", ".* was not registered in the param store")
            yield in_training
    finally:
        for p in frozen:
            p.requires_grad_(True)
        for name in set(store.keys()) - names:
            del store[name]
        pyro.util.set_rng_state(random_state)
        if cuda_state:
            torch.cuda.set_rng_state_all(cuda_state)


@contextlib.contextmanager
def _borrowed_buffers(module: nn.Module | None) -> Iterator[list[nn.Module]]:
    """Let networks in training mode move copies of their buffers, wherever they are kept.

    Yields the layers that run as in training.

    Copies, because the graph of the run may still need them as the run left them.
    """
    own: dict[nn.Module, dict[str, Tensor | None]] = {}
    in_training: list[nn.Module] = []

    def lend_copies(network: nn.Module) -> None:
        if network.training and network not in own:
            own[network] = dict(network._buffers)
            for name, buffer in own[network].items():
                if buffer is not None:
                    network._buffers[name] = buffer.detach().clone()

    for network in module.modules() if module is not None else ():
        lend_copies(network)

    def watch(network: nn.Module, _: Any) -> None:
        drops = isinstance(network, _DropoutNd) and network.training and network.p > 0
        mixes = isinstance(network, _BatchNorm) and (
            network.training or network.running_mean is None
        )
        if drops or mixes:
            in_training.append(network)
        lend_copies(network)

    # A model that is a plain function keeps its networks in its closure or among its globals:
    # they show themselves when they run.
    hook = register_module_forward_pre_hook(watch)
    try:
        yield in_training
    finally:
        hook.remove()
        for network, buffers in own.items():
            network._buffers.update(buffers)


@contextlib.contextmanager
def _plates_of_its_own() -> Iterator[None]:
    """Let plates choose their dimensions as if none stood outside."""
    outside, _DIM_ALLOCATOR._stack = _DIM_ALLOCATOR._stack, []
    try:
        yield
    finally:
        _DIM_ALLOCATOR._stack = outside


@contextlib.contextmanager
def differentiable_networks(order: int) -> Iterator[None]:
    """Choose kernels that have the derivatives asked for, and no others.

    cuDNN's recurrent kernels have no backward pass in eval mode, and oneDNN's have no second
    derivative; the flags are put back on leaving.
    """
    with contextlib.ExitStack() as stack:
        if order and torch.cuda.is_initialized():
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        if order > 1:
            with warnings.catch_warnings():  # about Intel GPUs, on every other machine
                warnings.filterwarnings("ignore", "TF32 acceleration on top of oneDNN")
                stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        yield
