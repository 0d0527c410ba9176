"""Exact posterior over a chain of tasks: pure functions of tensors, no model and no Pyro.

They run in probability space in compiled code (``_kernels``), with the gradient of the evidence in
closed form. Where numbers get too small for that, on other devices and for gradients of anything
else, the recursion in log space is taken.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from numpy.typing import ArrayLike
from torch import Tensor

from gbi_pyro._arrays import check_order
from gbi_pyro.inference._kernels import block_fast as blocks
from gbi_pyro.inference._kernels import chain_fast as fast
from gbi_pyro.inference._kernels import chain_log_space as log_space
from gbi_pyro.inference._kernels.chain_checks import check_possible, checked, shaped
from gbi_pyro.inference.paths import BlockPaths, Paths, ReorderedPaths, StatePaths, TaskPaths


class HMMPosterior(NamedTuple):
    """The exact posterior over the tasks z_1..T of a chain; ``...`` is the batch.

    Attributes:
        log_filtered: log p(z_t | x_1..t), from the present and the past, (..., T, K).
        log_predicted: log p(z_t | x_1..t-1), before x_t is seen, (..., T, K); log p(z_1) at t = 1.
        log_smoothed: log p(z_t | x_1..T), from past and future, (..., T, K).
        step_log_evidence: log p(x_t | x_1..t-1), one step ahead, (..., T).
        log_evidence: log p(x_1..T), their sum, (...). Its gradient with respect to ``log_emission``
            is the smoothed probability, which makes it a training objective too.
        viterbi: task ids of argmax p(z_1..T, block ends | x_1..T), (..., T) int64; None where it
            was not asked for.
        paths: the joint posterior, ``.sample(n)`` draws paths from it.
    """

    log_filtered: Tensor
    log_predicted: Tensor
    log_smoothed: Tensor
    step_log_evidence: Tensor
    log_evidence: Tensor
    viterbi: Tensor | None
    paths: Paths

    def reordered(self, order: Tensor | ArrayLike) -> HMMPosterior:
        """Return the posterior with its tasks in another order, see ``TaskPosterior.reordered``."""
        ids = check_order(order, self.log_smoothed.shape[-1])
        here = ids.to(self.log_smoothed.device)
        return self._replace(
            log_filtered=self.log_filtered[..., here],
            log_predicted=self.log_predicted[..., here],
            log_smoothed=self.log_smoothed[..., here],
            viterbi=None if self.viterbi is None else here.argsort()[self.viterbi],
            paths=ReorderedPaths(self.paths, ids),
        )


def hmm_posterior(
    log_initial: Tensor | ArrayLike,
    log_transition: Tensor | ArrayLike,
    log_emission: Tensor | ArrayLike,
    *,
    per_step: bool = False,
    viterbi: bool = True,
) -> HMMPosterior:
    """Return the exact posterior over the tasks of a hidden Markov chain.

    p(z, x) = p(z_1) p(x_1 | z_1) prod_{t > 1} A[z_{t-1}, z_t] p(x_t | z_t), by forward-backward and
    Viterbi (Rabiner 1989, A tutorial on hidden Markov models, Proc. IEEE 77, sec. III).

    Args:
        log_initial: log p(z_1), (..., K). No transition comes before the first observation; Pyro's
            ``DiscreteHMM`` applies one there, so the two agree when this is the product of its
            initial distribution and its first transition.
        log_transition: log A, rows the task left, columns the task entered, (..., K, K).
        log_emission: log p(x_t | z_t = k), (..., T, K). Densities need not be below one; -inf
            forbids a task.
        per_step: whether there is a transition for each step, (..., T - 1, K, K): that at [t] is
            from step t to step t + 1.
        viterbi: whether to look for the most probable path too, the same work again.

    Returns:
        The posterior, on the device of ``log_emission`` and in the promoted dtype of the arguments,
        float32 at least.
        Leading dimensions broadcast.

    Raises:
        ValueError: for invalid shapes, dtypes, NaN, unnormalised rows, or data of probability zero.

    Example:
        >>> import torch
        >>> initial, transition = torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.1, 0.9]])
        >>> emission = torch.tensor([[1.0, 3.0], [1.0, 1.0]])
        >>> posterior = hmm_posterior(initial.log(), transition.log(), emission.log())
        >>> posterior.log_filtered.exp()
        tensor([[0.2500, 0.7500], [0.3000, 0.7000]])
    """
    args = shaped(log_initial, log_transition, log_emission, per_step=per_step)
    found = fast.solve(*args)
    if found is None:  # wrong, in half precision, of mixed dtypes, or too small
        args = checked(args)
        found = fast.solve(*args)
    if found is None:
        one_step = args[0].new_zeros((args[0].shape[-1], 1))
        return _in_log_space([*args, one_step], viterbi)
    best = fast.best_path(*args) if viterbi else None
    return HMMPosterior(*found, best, TaskPaths(found[0], args[1].detach().clone()))


def hmm_log_evidence(
    log_initial: Tensor | ArrayLike,
    log_transition: Tensor | ArrayLike,
    log_emission: Tensor | ArrayLike,
    *,
    per_step: bool = False,
) -> Tensor:
    """Return log p(x_1..T) of a hidden Markov chain alone, ``(...)``: a training objective.

    ``hmm_posterior(...).log_evidence`` in half the time, a third with its gradient.

    Args:
        log_initial, log_transition, log_emission, per_step: see ``hmm_posterior``.

    Raises:
        ValueError: see ``hmm_posterior``.

    >>> import torch
    >>> half = torch.tensor([0.5, 0.5]).log()
    >>> hmm_log_evidence(half, half.expand(2, 2), torch.ones(3, 2))
    tensor(3.)
    """
    args = shaped(log_initial, log_transition, log_emission, per_step=per_step)
    found = fast.evidence(*args)
    if found is None:
        args = checked(args)
        found = fast.evidence(*args)
    if found is None:
        one_step = args[0].new_zeros((args[0].shape[-1], 1))
        found = _in_log_space([*args, one_step], viterbi=False).log_evidence
    return found


def hsmm_posterior(
    log_initial: Tensor | ArrayLike,
    log_transition: Tensor | ArrayLike,
    log_emission: Tensor | ArrayLike,
    log_duration: Tensor | ArrayLike,
    *,
    per_step: bool = False,
    viterbi: bool = True,
) -> HMMPosterior:
    """Return the exact posterior over the tasks of a chain with explicit block lengths.

    A block of task k lasts D steps with p_k(D); the next block's task is drawn from A[k]. The first
    block begins at t = 1 and the last one may go on after T, where it contributes p(D >= d): a
    right-censored hidden semi-Markov model (Yu 2010, Hidden semi-Markov models, Artificial
    Intelligence 174), solved in O(T (K D + K^2)) time and O(T K D) memory on the states (k, d) of
    this module.

    Args:
        log_initial: log p(z_1), (..., K).
        log_transition: log A between *blocks*, rows the task left, (..., K, K). A[k, k] > 0 lets a
            block of task k follow another one.
        log_emission: log p(x_t | z_t = k), (..., T, K).
        log_duration: log p(a block of task k lasts d steps) at ``[k, d - 1]``, (..., K, D). -inf
            forbids a length.
        per_step: whether there is a transition for each step, (..., T - 1, K, K): that at [t] is
            from step t to step t + 1.
        viterbi: whether to look for the most probable path too, the same work again.

    Returns:
        The posterior, on the device of ``log_emission`` and in the promoted dtype of the arguments,
        float32 at least.
        Leading dimensions broadcast. ``viterbi`` holds the tasks of the most probable blocks.

    Raises:
        ValueError: for invalid shapes, dtypes, NaN, unnormalised rows, or data of probability zero.

    Example:
        Blocks of exactly two steps, alternating: one clear observation settles every step.

        >>> import torch
        >>> swap, pairs = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0]] * 2)
        >>> emission = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [1.0, 0.0]])
        >>> start = torch.tensor([0.5, 0.5])
        >>> hsmm_posterior(start.log(), swap.log(), emission.log(), pairs.log()).viterbi
        tensor([1, 1, 0, 0])
    """
    args = shaped(log_initial, log_transition, log_emission, log_duration, per_step=per_step)
    solved = blocks.solve(*args)
    if solved is None:
        args = checked(args)
        solved = blocks.solve(*args)
    if solved is None:
        return _in_log_space(args, viterbi)
    found, drawn_from = solved
    best = blocks.best_path(*args) if viterbi else None
    laws = args[1].detach().clone(), args[3].detach().clone()
    return HMMPosterior(*found, best, BlockPaths(*laws, *drawn_from))


def log_pairwise(
    posterior: HMMPosterior, log_transition: Tensor, *, per_step: bool = False
) -> Tensor:
    """Return log p(z_t = i, z_t+1 = j | x_1..T) of a hidden Markov chain.

    p(i, j) = p(z_t = i | x_1..t) A_ij p(z_t+1 = j | x_1..T) / p(z_t+1 = j | x_1..t): what comes
    after t says of z_t only what it says of z_t+1. No further recursion is needed.

    Args:
        posterior: of the chain, by ``hmm_posterior``.
        log_transition: log A, ``(..., K, K)``.
        per_step: whether it has a transition for each step, ``(..., T - 1, K, K)``.

    Returns:
        ``(..., T - 1, K, K)``.

    >>> import torch
    >>> initial, transition = torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    >>> emission = torch.tensor([[1.0, 3.0], [1.0, 1.0]])
    >>> found = hmm_posterior(initial.log(), transition.log(), emission.log())
    >>> log_pairwise(found, transition.log()).exp()
    tensor([[[0.2250, 0.0250], [0.0750, 0.6750]]])
    """
    later = posterior.log_smoothed[..., 1:, :] - posterior.log_predicted[..., 1:, :]
    later = later.nan_to_num(nan=-math.inf)  # a task that was never possible: 0 / 0
    filtered = posterior.log_filtered[..., :-1, :].unsqueeze(-1)
    A = log_transition if per_step else log_transition.unsqueeze(-3)
    return filtered + A + later.unsqueeze(-2)


def _in_log_space(args: list[Tensor], viterbi: bool) -> HMMPosterior:
    found = log_space.solve(*args)
    check_possible(found.step_log_evidence)
    log_transition = args[1].detach()
    return HMMPosterior(
        found.log_filtered,
        found.log_predicted,
        found.log_smoothed,
        found.step_log_evidence,
        found.step_log_evidence.sum(-1),
        log_space.best_path(*args) if viterbi else None,
        StatePaths(found.log_states, log_transition, found.log_end.detach()),
    )
