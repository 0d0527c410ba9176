"""The evidence of a chain and its posterior counts, which are its gradient, compiled.

The recursion of ``chain_kernel``, without the logs of every step; chains whose numbers underflow
are counted in log space.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from gbi_pyro.inference._kernels.chain_kernel import (
    FORBIDDEN,
    OPTIONS,
    exp_rows,
    likelihoods,
    passes,
)
from gbi_pyro.inference._kernels.vector_maths import log_in_place


@njit(**OPTIONS)
def evidence_and_counts(
    initial: np.ndarray,
    transition: np.ndarray,
    emission: np.ndarray,
    tolerance: float,
    total: np.ndarray,
    tasks: np.ndarray,
    pairs: np.ndarray,
    failed: np.ndarray,
) -> None:
    """Find the evidence of chains and their posterior counts, which are its gradient.

    Args:
        initial, transition, emission, tolerance: see ``forward_backward``.
        total: written, log p(x_1..T), (B,).
        tasks: written, p(z_t | x_1..T), (B, T, K).
        pairs: written, p(z_t, z_t+1 | x_1..T), (B, T - 1, K, K); or summed over steps, (B, 1, K,
            K), where the transition is one for all; or without a step, where it is not wanted.
        failed: written, (B,), which are no chains or impossible: what else was written of them is
            of no use.
    """
    B, T, K = emission.shape
    M = transition.shape[1]
    pi, A = np.empty((1, K)), np.empty((M, K, K))
    likelihood, norms, carried = np.empty((T, K)), np.empty(T), np.empty(K)
    top, predicted, future = np.empty(T), np.empty((T, K)), np.empty((T, K))
    normal = True
    for b in range(B):
        if b < initial.shape[0] or b < transition.shape[0]:
            c, d = min(b, initial.shape[0] - 1), min(b, transition.shape[0] - 1)
            normal = exp_rows(initial[c : c + 1], tolerance, pi)
            rows = transition[d].reshape(M * K, K)
            normal &= exp_rows(rows, tolerance, A.reshape(M * K, K))
        x, f = emission[b], tasks[b]  # filtered first
        fine = normal and likelihoods(x, top, likelihood)
        if fine and K == 2:
            fine = passes(2, pi[0], A, x, likelihood, f, predicted, norms, future, carried)
        elif fine and K == 3:
            fine = passes(3, pi[0], A, x, likelihood, f, predicted, norms, future, carried)
        elif fine:
            fine = passes(K, pi[0], A, x, likelihood, f, predicted, norms, future, carried)
        if not fine:  # too small for it, or no chain
            logs = initial[min(b, len(initial) - 1)], transition[min(b, len(transition) - 1)]
            total[b] = _counts_in_logs(logs[0], logs[1], x, predicted, future, f, pairs[b])
            failed[b] = not (normal and FORBIDDEN < total[b] < np.inf)
            continue
        failed[b] = False
        if pairs.shape[1] > 0:
            _count_pairs(A, f, likelihood, norms, future, pairs[b])
        total[b] = 0.0
        for t in range(T):
            for k in range(K):
                f[t, k] *= future[t, k]
        log_in_place(norms)
        for t in range(T):
            total[b] += top[t] + norms[t]


@njit(**OPTIONS)
def _log_sum(x: np.ndarray) -> Any:
    """Return log(sum(exp(x)))."""
    top = x.max()
    if top == -np.inf:
        return top
    total = 0.0
    for i in range(len(x)):
        total += np.exp(x[i] - top)
    return top + np.log(total)


@njit(**OPTIONS)
def _counts_in_logs(
    initial: np.ndarray,
    transition: np.ndarray,
    emission: np.ndarray,
    past: np.ndarray,
    future: np.ndarray,
    tasks: np.ndarray,
    pairs: np.ndarray,
) -> Any:
    """Do the same for one chain in log space, at any size of numbers; return the evidence.

    Args:
        initial, transition, emission: of the chain, (K,), (1 or T - 1, K, K) and (T, K).
        past, future: overwritten, (T, K).
        tasks, pairs: written, see ``evidence_and_counts``.
    """
    T, K = emission.shape
    moves, terms = len(transition) > 1, np.empty(K)
    for k in range(K):
        past[0, k] = initial[k] + emission[0, k]
        future[T - 1, k] = 0.0
    for t in range(1, T):
        A = transition[t - 1 if moves else 0]
        for j in range(K):
            for i in range(K):
                terms[i] = past[t - 1, i] + A[i, j]
            past[t, j] = _log_sum(terms) + emission[t, j]
    for t in range(T - 2, -1, -1):
        A = transition[t if moves else 0]
        for i in range(K):
            for j in range(K):
                terms[j] = A[i, j] + emission[t + 1, j] + future[t + 1, j]
            future[t, i] = _log_sum(terms)
    total = _log_sum(past[T - 1])
    for t in range(T):
        for k in range(K):
            tasks[t, k] = np.exp(past[t, k] + future[t, k] - total)
    pairs[:] = 0.0
    if len(pairs):
        for t in range(T - 1):
            A = transition[t if moves else 0]
            for i in range(K):
                for j in range(K):
                    ahead = A[i, j] + emission[t + 1, j] + future[t + 1, j]
                    pairs[t if moves else 0, i, j] += np.exp(past[t, i] + ahead - total)
    return total


@njit(**OPTIONS)
def _count_pairs(
    A: np.ndarray,
    filtered: np.ndarray,
    likelihood: np.ndarray,
    norms: np.ndarray,
    future: np.ndarray,
    pairs: np.ndarray,
) -> None:
    """Write p(z_t = i, z_t+1 = j | x_1..T), summed over steps where there is one transition."""
    T, K = filtered.shape
    total, ahead = np.zeros((K, K)), np.empty(K)
    for t in range(T - 1):
        scale = 1.0 / norms[t + 1]
        for j in range(K):
            ahead[j] = future[t + 1, j] * likelihood[t + 1, j] * scale
        if A.shape[0] > 1:
            for i in range(K):
                for j in range(K):
                    pairs[t, i, j] = filtered[t, i] * A[t, i, j] * ahead[j]
        else:
            for i in range(K):
                for j in range(K):
                    total[i, j] += filtered[t, i] * ahead[j]
    if A.shape[0] == 1:
        for i in range(K):
            for j in range(K):
                pairs[0, i, j] = A[0, i, j] * total[i, j]
