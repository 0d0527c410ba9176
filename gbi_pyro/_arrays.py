"""Arrays, lists and data frames as tensors, one rule wherever a tensor is expected; labels."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

UNKNOWN = -1
"""The label of an element whose task is not known."""


def as_tensor(
    value: Any,
    name: str,
    *,
    like: Tensor | None = None,
    error: type[ValueError] = ValueError,
) -> Tensor:
    """Return numbers as a tensor, as ``torch.as_tensor`` does.

    A tensor comes back as it is. Arrays keep their dtype and lists of Python's numbers take torch's
    default, unless ``like`` says otherwise. Series and data frames are arrays too.

    Args:
        value: a tensor; an array, a list (of lists, of arrays), a series, a frame or a number.
        name: what the error message calls it.
        like: floating numbers that are no tensor yet take its dtype, and all of them its device.
        error: the class of the error.

    Raises:
        ValueError: for what holds no numbers, hidden entries, or no data at all (device "meta").

    >>> as_tensor([[1.0, 2.0]], "x"), as_tensor(np.arange(2), "labels")
    (tensor([[1., 2.]]), tensor([0, 1]))
    >>> as_tensor(["a", "b"], "labels")
    Traceback (most recent call last):
    ValueError: labels: expected numbers, got list of <U1: encode categories as integers...
    """
    if isinstance(value, Tensor):
        if value.is_meta:
            raise error(
                f"{name}: expected numbers, got a tensor on device 'meta', which has a shape and "
                "no data: make it on 'cpu' or 'cuda'"
            )
        return value
    if np.ma.is_masked(value):
        raise error(
            f"{name}: expected numbers, got a masked array, whose mask a tensor does not keep: "
            "pass value.filled(0), and hide the entries by poutine.mask(mask=...)"
        )
    kind = type(value).__name__
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as reason:
        raise error(
            f"{name}: expected a tensor, or numbers in an array or in lists of equal length, got "
            f"{kind} ({reason}): pad it, or stack its tensors, torch.stack(...)"
        ) from reason
    if array.dtype.kind not in "biuf":
        got = kind if array.ndim == 0 and array.dtype == object else f"{kind} of {array.dtype}"
        raise error(
            f"{name}: expected numbers, got {got}: encode categories as integers, fill what is "
            "missing, and convert the rest by .astype(float)"
        )
    tensor = torch.from_numpy(_for_torch(array))
    if like is not None:
        return tensor.to(like.device, like.dtype if tensor.is_floating_point() else None)
    if tensor.is_floating_point() and type(_first(value)) in (float, int):
        return tensor.to(torch.get_default_dtype())
    return tensor


def _for_torch(array: np.ndarray) -> np.ndarray:
    """Return an array that torch can read: writeable, in native order, of a dtype it has."""
    dtype = array.dtype.newbyteorder("=")
    if dtype.kind == "f" and dtype.itemsize > 8:
        dtype = np.dtype(np.float64)
    if dtype.kind == "u" and dtype.itemsize > 1:
        dtype = np.dtype(np.int64)
    # pandas gives arrays that are read-only, which torch warns of; reversed ones it refuses.
    fit = array.flags.writeable and all(step >= 0 for step in array.strides)
    return array if fit and array.dtype == dtype else np.array(array, dtype=dtype, order="C")


def _first(value: Any) -> Any:
    """Return the first number of nested lists."""
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return value


def parameter_of(fn: Any) -> Tensor | None:
    """Return a floating parameter of a distribution, if it has one."""
    for _ in range(8):
        for value in getattr(fn, "__dict__", {}).values():
            if isinstance(value, Tensor) and value.is_floating_point():
                return value
        fn = getattr(fn, "base_dist", None) or getattr(fn, "_categorical", None)
        if fn is None:
            break
    return None


def scores_floats_alone(fn: Any) -> bool:
    """Whether a distribution scores no integers, as torch's Bernoulli."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, torch.distributions.Bernoulli)


def floating_weight(network: object) -> Tensor | None:
    """Return a floating weight or buffer of a network, whose dtype its data should have."""
    if not isinstance(network, torch.nn.Module):
        return None
    held = itertools.chain(network.parameters(), network.buffers())
    return next((t for t in held if t.is_floating_point()), None)


def check_order(order: Any, num_tasks: int) -> Tensor:
    """Return an order of tasks, ``(K,)`` int64: at k the present id of the task that becomes k.

    Raises:
        ValueError: for what does not hold each of 0 .. K - 1 once.

    >>> check_order([2, 0, 1], 3)
    tensor([2, 0, 1])
    """
    ids = as_tensor(order, "order").detach().cpu()
    whole = ids.ndim == 1 and not ids.is_floating_point() and ids.dtype != torch.bool
    if not whole or sorted(ids.tolist()) != list(range(num_tasks)):
        raise ValueError(
            f"order should hold each task id from 0 to {num_tasks - 1} once, ({num_tasks},); got "
            f"{ids.tolist()}: take order_tasks(values), or match_labels(q, labels)[:-1]"
        )
    return ids.long()


def check_labels(labels: Any, batch_shape: torch.Size, num_tasks: int) -> Tensor:
    """Return labels for each element of a task site, ``batch_shape``, on the labels' device.

    Args:
        labels: task ids, a tensor, an array or a list.
        batch_shape: of the task site.
        num_tasks: K.

    Raises:
        ValueError: for ids that are no integers, out of range, or of a shape that does not fit.
    """
    ids = as_tensor(labels, "labels")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(
            f"labels must hold integer task ids, {UNKNOWN} where unknown; got {ids.dtype}: take "
            f"one_hot.argmax(-1) of one-hot rows; of ids, put {UNKNOWN} where they are missing and "
            "call .long()"
        )
    ids = ids.long()
    try:
        ids = ids.expand(batch_shape)
    except RuntimeError:
        one_hot = ": take one_hot.argmax(-1)" * (ids.shape == (*batch_shape, num_tasks))
        raise ValueError(
            f"labels have shape {tuple(ids.shape)}, expected {tuple(batch_shape)}, one id for "
            f"each element of the task site, {UNKNOWN} where it is unknown{one_hot}"
        ) from None
    low, high = (ids.min().item(), ids.max().item()) if ids.numel() else (0, 0)
    if low < UNKNOWN or high >= num_tasks:
        raise ValueError(
            f"labels must be task ids 0 .. {num_tasks - 1}, or {UNKNOWN} where unknown; got ids "
            f"from {low} to {high}"
        )
    return ids
