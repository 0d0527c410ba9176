"""The recursion of a hidden Markov chain in probability space, compiled once and kept on disk.

All it does is multiply and add positive numbers, so that every result keeps its relative accuracy
unless a number underflows. That is watched: a state that gets too small, though nothing forbids it,
ends the call, and the caller takes the recursion in log space instead.
"""

from __future__ import annotations

import numpy as np
from numba import njit

SMALLEST = 1e-290  # below it, float64 begins to lose digits


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def forward_backward(
    initial: np.ndarray,
    transition: np.ndarray,
    emission: np.ndarray,
    possible: np.ndarray,
    filtered: np.ndarray,
    predicted: np.ndarray,
    future: np.ndarray,
    norms: np.ndarray,
) -> bool:
    """Filter and smooth chains, one after the other.

    Args:
        initial: p(z_1), (1 or B, K).
        transition: A, rows the task left, (1 or B, 1 or T - 1, K, K).
        emission: p(x_t | z_t) up to a factor for each step, (B, T, K).
        possible: whether p(x_t | z_t) > 0, (B, T, K).
        filtered, predicted: written, (B, T, K).
        future: written, p(x_t+1..T | z_t) / p(x_t+1..T | x_1..t), (B, T, K).
        norms: written, p(x_t | x_1..t-1) up to that factor, (B, T).

    Returns:
        Whether nothing underflowed; else what was written is of no use.
    """
    B, T, K = emission.shape
    beta, carried = np.empty(K), np.empty(K)
    for b in range(B):
        pi = initial[b if initial.shape[0] > 1 else 0]
        As = transition[b if transition.shape[0] > 1 else 0]
        moves = As.shape[0] > 1
        for k in range(K):
            predicted[b, 0, k] = pi[k]
        for t in range(T):
            total = 0.0
            for k in range(K):
                x = predicted[b, t, k] * emission[b, t, k]
                if x < SMALLEST and (predicted[b, t, k] > 0.0 or x > 0.0) and possible[b, t, k]:
                    return False
                filtered[b, t, k] = x
                total += x
            if total <= 0.0:
                return False
            norms[b, t] = total
            for k in range(K):
                filtered[b, t, k] /= total
            if t + 1 == T:
                break
            A = As[t if moves else 0]
            for j in range(K):
                predicted[b, t + 1, j] = 0.0
            for i in range(K):
                here = filtered[b, t, i]
                if here > 0.0:
                    for j in range(K):
                        predicted[b, t + 1, j] += here * A[i, j]
            for j in range(K):
                if predicted[b, t + 1, j] < SMALLEST:
                    for i in range(K):
                        if filtered[b, t, i] > 0.0 and A[i, j] > 0.0:
                            return False
        for k in range(K):
            beta[k] = 1.0
            future[b, T - 1, k] = 1.0
        for t in range(T - 2, -1, -1):
            A = As[t if moves else 0]
            for j in range(K):
                carried[j] = beta[j] * emission[b, t + 1, j] / norms[b, t + 1]
                if carried[j] < SMALLEST and beta[j] > 0.0 and possible[b, t + 1, j]:
                    return False
            for i in range(K):
                total = 0.0
                for j in range(K):
                    total += A[i, j] * carried[j]
                if total < SMALLEST:
                    for j in range(K):
                        if A[i, j] > 0.0 and carried[j] > 0.0:
                            return False
                future[b, t, i] = total
            for i in range(K):
                beta[i] = future[b, t, i]
    return True


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def best_path(
    initial: np.ndarray, transition: np.ndarray, emission: np.ndarray, path: np.ndarray
) -> None:
    """Find the most probable path of each chain: ``forward_backward`` with logs and maxima.

    Args:
        initial: log p(z_1), (1 or B, K).
        transition: log A, (1 or B, 1 or T - 1, K, K).
        emission: log p(x_t | z_t), (B, T, K).
        path: written, (B, T).
    """
    B, T, K = emission.shape
    score, following = np.empty(K), np.empty(K)
    origin = np.empty((T, K), dtype=np.int64)
    for b in range(B):
        pi = initial[b if initial.shape[0] > 1 else 0]
        As = transition[b if transition.shape[0] > 1 else 0]
        moves = As.shape[0] > 1
        for k in range(K):
            score[k] = pi[k] + emission[b, 0, k]
        for t in range(1, T):
            A = As[t - 1 if moves else 0]
            for j in range(K):
                following[j] = score[0] + A[0, j]
                origin[t, j] = 0
            for i in range(1, K):
                for j in range(K):
                    x = score[i] + A[i, j]
                    if x > following[j]:
                        following[j] = x
                        origin[t, j] = i
            top = following[0] + emission[b, t, 0]
            for j in range(K):
                score[j] = following[j] + emission[b, t, j]
                top = max(top, score[j])
            for j in range(K):
                score[j] -= top
        last = 0
        for k in range(1, K):
            if score[k] > score[last]:
                last = k
        path[b, T - 1] = last
        for t in range(T - 1, 0, -1):
            last = origin[t, last]
            path[b, t - 1] = last


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def pair_counts(
    transition: np.ndarray,
    filtered: np.ndarray,
    predicted: np.ndarray,
    smoothed: np.ndarray,
    weight: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Add p(z_t = i, z_t+1 = j | x_1..T) times the weight, (B,), of each sequence to ``counts``.

    p(i, j) = p(i | x_1..t) A_ij p(j | x_1..T) / p(j | x_1..t); ``counts`` is (1 or B, 1 or T - 1,
    K, K), the others as in ``forward_backward``.
    """
    B, T, K = filtered.shape
    ratio = np.empty(K)
    for b in range(B):
        As = transition[b if transition.shape[0] > 1 else 0]
        into = counts[b if counts.shape[0] > 1 else 0]
        for t in range(T - 1):
            A = As[t if As.shape[0] > 1 else 0]
            C = into[t if into.shape[0] > 1 else 0]
            for j in range(K):
                p = predicted[b, t + 1, j]
                ratio[j] = smoothed[b, t + 1, j] / p if p > 0.0 else 0.0
            for i in range(K):
                here = filtered[b, t, i] * weight[b]
                for j in range(K):
                    C[i, j] += here * A[i, j] * ratio[j]
