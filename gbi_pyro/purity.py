"""Run somebody's model and leave nothing behind: no parameter, gradient, random draw or flag."""

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
from torch import nn


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
def pure(model: Callable[..., Any], *, freeze: bool = False) -> Iterator[None]:
    """Run ``model`` inside and find everything as it was afterwards.

    Kept: Pyro's parameter store and handler stack, the random state of torch (CPU and CUDA), NumPy
    and Python, the buffers of a network in training mode (batch statistics move when it runs).
    Handlers outside see nothing of what happens inside.

    Args:
        model: the Pyro model that will run; a network is looked for behind it.
        freeze: switch off ``requires_grad`` of the weights meanwhile. The backward pass then stops
            where the task enters, and no weight can collect a gradient.
    """
    store = pyro.get_param_store()
    module = module_of(model)
    weights = set(module.parameters()) if module is not None else set()
    weights.update(p for p in store._params.values() if p.is_leaf)
    frozen = [p for p in weights if freeze and p.requires_grad]
    buffers = (
        [(b, b.detach().clone()) for b in module.buffers()]
        if module is not None and module.training
        else []
    )
    # Only names that the run adds are taken out again: tensors stay the same objects.
    names = set(store.keys())
    random_state = pyro.util.get_rng_state()
    cuda_state = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    for p in frozen:
        p.requires_grad_(False)
    try:
        with poutine.block():
            yield
    finally:
        for p in frozen:
            p.requires_grad_(True)
        for buffer, before in buffers:
            buffer.copy_(before)
        for name in set(store.keys()) - names:
            del store[name]
        pyro.util.set_rng_state(random_state)
        if cuda_state:
            torch.cuda.set_rng_state_all(cuda_state)


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
