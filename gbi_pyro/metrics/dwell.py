"""How long tasks last and how often they switch, in paths of tasks and by the law of a chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gbi_pyro._arrays import as_tensor
from gbi_pyro.inference.task_chain import TaskChain


class DwellTimes(NamedTuple):
    """The blocks of paths: steps in a row of one task; a row for each block, (B,) each.

    Attributes:
        task: its task id.
        length: its steps.
        censored: whether it is the last of its sequence, so that it lasts ``length`` steps or more.
        sequence: which sequence it is of, counted through all leading dimensions.
    """

    task: Tensor
    length: Tensor
    censored: Tensor
    sequence: Tensor

    def of(self, task: int) -> DwellTimes:
        """Return the blocks of one task."""
        here = self.task == task
        return DwellTimes(*(column[here] for column in self))


def dwell_times(tasks: Tensor | ArrayLike, padding: Tensor | ArrayLike | None = None) -> DwellTimes:
    """Return the blocks of paths of tasks, with their lengths.

    A first block begins where its sequence begins, as a chain has it. A last one is right-censored:
    whether its last step was the end of the block is not known.

    Args:
        tasks: task ids, ``(..., T)``: a path for each sequence, or draws of paths.
        padding: which steps are none, ``(..., T)``, such as ``posterior.padding()``; it may lack
            leading dimensions of ``tasks``. They follow the real steps of each sequence.

    Raises:
        ValueError: for tasks that are no integers, or padding of another shape or before a step.

    Example:
        >>> found = dwell_times([[0, 0, 1, 1], [1, 0, 0, 0]])
        >>> found.task, found.length, found.censored
        (tensor([0, 1, 1, 0]), tensor([2, 2, 1, 3]), tensor([False,  True, False,  True]))
    """
    z, real = checked_paths(tasks, padding)
    z, real = z.reshape(-1, z.shape[-1]), real.reshape(-1, z.shape[-1])
    begins = torch.ones_like(real)
    begins[:, 1:] = z[:, 1:] != z[:, :-1]
    sequence, first = (begins & real).nonzero().unbind(-1)
    steps = real.sum(-1)[sequence]
    last = torch.ones_like(sequence, dtype=torch.bool)
    last[:-1] = sequence[1:] != sequence[:-1]
    after = torch.where(last, steps, first.roll(-1))
    return DwellTimes(z[sequence, first], after - first, last, sequence)


def num_switches(tasks: Tensor | ArrayLike, padding: Tensor | ArrayLike | None = None) -> Tensor:
    """Return how often each sequence changes its task, (...).

    Args:
        tasks, padding: see ``dwell_times``.

    Raises:
        ValueError: as ``dwell_times``.

    Example:
        >>> num_switches([[0, 0, 1, 0], [1, 1, 1, 1]])
        tensor([2, 0])
    """
    z, real = checked_paths(tasks, padding)
    return ((z[..., 1:] != z[..., :-1]) & real[..., 1:]).sum(-1)


def path_statistics(
    tasks: Tensor | ArrayLike,
    num_tasks: int,
    padding: Tensor | ArrayLike | None = None,
    *,
    names: Sequence[str] | None = None,
) -> dict[str, float]:
    """Return numbers that describe paths, all sequences together, for ``predictive_check``.

    The number of switches; for each task its share of the steps and its mean dwell time, steps by
    blocks, NaN where it never occurs. Blocks cut off by the end of their sequence count as they
    are: they are cut off in replicated paths as well.

    Args:
        tasks, padding: see ``dwell_times``.
        num_tasks: K.
        names: of the tasks.

    Raises:
        ValueError: as ``dwell_times``, and for names that are not K.

    Example:
        >>> path_statistics([[0, 0, 1, 1], [0, 0, 0, 0]], 2, names=["engaged", "biased"])
        {'switches': 1.0, 'share engaged': 0.75, 'share biased': 0.25,
         'mean dwell time engaged': 3.0, 'mean dwell time biased': 2.0}
    """
    words = [f"task {k}" for k in range(num_tasks)] if names is None else list(names)
    if len(words) != num_tasks:
        raise ValueError(f"names should be {num_tasks}, one for each task; got {words}")
    found = dwell_times(tasks, padding)
    blocks = found.task.bincount(minlength=num_tasks).double()
    steps = found.task.bincount(found.length.double(), minlength=num_tasks)
    if len(blocks) != num_tasks:
        raise ValueError(f"tasks should be from 0 to {num_tasks - 1}; got {len(blocks) - 1}")
    shares, means = (steps / steps.sum()).tolist(), (steps / blocks).tolist()
    return {
        "switches": float(num_switches(tasks, padding).sum()),
        **{f"share {word}": share for word, share in zip(words, shares, strict=True)},
        **{f"mean dwell time {word}": mean for word, mean in zip(words, means, strict=True)},
    }


def dwell_law(chain: TaskChain, max_steps: int) -> Tensor:
    r"""Return how probable a chain makes it that a task lasts more than 0, 1, ... steps.

    Of a Markov chain dwell times are geometric, P(D > t) = A[k, k]^t. With explicit block lengths
    p_k and A between blocks, blocks of one task that follow each other are one:

        p(D = t) = (1 - A[k, k]) p_k(t) + A[k, k] sum_u p_k(u) p(D = t - u).

    Args:
        chain: one that no input drives, since dwell times have no one law otherwise.
        max_steps: the last t.

    Returns:
        P(D > t) for t = 0 .. max_steps, ``(K, max_steps + 1)``, float64.

    Raises:
        ValueError: for a chain that inputs drive, or a negative number of steps.

    Example:
        >>> dwell_law(TaskChain.sticky(2, hazard=0.1), 2)[0]
        tensor([1.0000, 0.9000, 0.8100], dtype=torch.float64)
    """
    if max_steps < 0:
        raise ValueError(f"max_steps should be 0 or more; got {max_steps}")
    if chain.driven:
        raise ValueError(
            "inputs drive this chain, so that its dwell times have no one law: expected a constant "
            "one; compare with those of drawn paths, posterior.sample_prior(n)"
        )
    again = chain.log_transition.detach().cpu().double().diagonal().exp().unsqueeze(-1)
    if chain.log_duration is None:
        return again ** torch.arange(max_steps + 1)
    block = chain.log_duration.detach().cpu().double().exp()[:, :max_steps]
    p = torch.zeros(len(block), max_steps + 1, dtype=torch.float64)
    for t in range(1, max_steps + 1):
        n = min(t, block.shape[-1])
        before = (block[:, :n] * p[:, t - n : t].flip(-1)).sum(-1, keepdim=True)
        here = block[:, t - 1 : t] if n == t else torch.zeros_like(again)
        p[:, t : t + 1] = (1 - again) * here + again * before
    return (1 - p.cumsum(-1)).clamp_min(0.0)


def checked_paths(
    tasks: Tensor | ArrayLike, padding: Tensor | ArrayLike | None
) -> tuple[Tensor, Tensor]:
    """Return task ids and which steps are real, ``(..., T)`` each, on the CPU.

    Raises:
        ValueError: see ``dwell_times``.
    """
    z = as_tensor(tasks, "tasks").detach().cpu()
    if z.is_floating_point() or z.is_complex() or z.dtype == torch.bool or z.ndim == 0:
        raise ValueError(
            f"tasks should be integer task ids, (..., T), time last; got {tuple(z.shape)} of "
            f"{z.dtype}: take posterior.mode() or posterior.sample(n)[site]"
        )
    real = real_steps(padding, z.shape)
    if not len(ids := z[real]) or int(ids.min()) < 0:
        raise ValueError(
            f"tasks should be at least one id of 0 or more; got shape {tuple(z.shape)}, from "
            f"{ids.min().item() if len(ids) else 'none'}: mark steps that are none by padding"
        )
    return z.long(), real


def real_steps(padding: Tensor | ArrayLike | None, shape: torch.Size) -> Tensor:
    """Return which steps are real, of a shape, ``(..., T)``; the others follow them.

    Raises:
        ValueError: for padding of another shape, before a real step, or of every step.
    """
    if padding is None:
        return torch.ones(shape, dtype=torch.bool)
    none = as_tensor(padding, "padding").detach().cpu()
    if none.dtype != torch.bool or none.ndim == 0 or none.shape != shape[-none.ndim :]:
        raise ValueError(
            f"padding should be bool, True where a step is none, of the last dimensions of "
            f"{tuple(shape)}; got {tuple(none.shape)} of {none.dtype}: take posterior.padding() or "
            "~sessions.mask"
        )
    if bool((none[..., :-1] & ~none[..., 1:]).any()) or bool(none.all()):
        raise ValueError(
            "padding should follow the real steps of each sequence, of which there is one at "
            "least; got steps after padding, or none: put sequences at the start"
        )
    return ~none.expand(shape)
