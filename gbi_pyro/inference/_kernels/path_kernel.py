"""Joint draws of a chain's tasks, compiled: forward filtering, backward sampling."""

from __future__ import annotations

import numpy as np
from numba import njit

from gbi_pyro.inference._kernels.block_kernel import laws
from gbi_pyro.inference._kernels.chain_kernel import OPTIONS, SMALLEST
from gbi_pyro.inference._kernels.vector_maths import exp_into

LARGE = 1 / SMALLEST  # times a probability of the filter: then products do not underflow


@njit(**OPTIONS)
def draw_tasks(
    transition: np.ndarray, filtered: np.ndarray, uniform: np.ndarray, paths: np.ndarray
) -> None:
    """Draw paths of ordinary chains, each task from p(z_t | z_t+1, x_1..t), the last one first.

    Args:
        transition: log A, (1 or B, 1 or T - 1, K, K).
        filtered: log p(z_t | x_1..t), (B, T, K).
        uniform: uniform random numbers, (n, B, T).
        paths: written, (n, B, T).
    """
    B, T, K = filtered.shape
    M = transition.shape[1]
    A, here, weights = np.empty((M, K, K)), np.empty((T, K)), np.empty(K)
    for b in range(B):
        if b < transition.shape[0]:
            exp_into(transition[b].reshape(M * K * K), A.reshape(M * K * K))
        exp_into(filtered[b].reshape(T * K), here.reshape(T * K))
        for n in range(len(paths)):
            entered = 0
            for t in range(T - 1, -1, -1):
                total = 0.0
                for k in range(K):
                    weights[k] = here[t, k] * LARGE
                    if t + 1 < T:
                        weights[k] *= A[t if M > 1 else 0, k, entered]
                    total += weights[k]
                entered, _ = pick(weights, uniform[n, b, t] * total)
                paths[n, b, t] = entered


@njit(**OPTIONS)
def draw_blocks(
    transition: np.ndarray,
    duration: np.ndarray,
    begun: np.ndarray,
    ended: np.ndarray,
    gain: np.ndarray,
    uniform: np.ndarray,
    paths: np.ndarray,
) -> None:
    """Draw paths of semi-Markov chains, block by block, the last one first.

    Args:
        transition: log A between blocks, (1 or B, 1 or T - 1, K, K).
        duration: log p(D = d), (1 or B, K, any number).
        begun, ended, gain: see ``block_kernel.filter_blocks``, (B, T, K).
        uniform: uniform random numbers, (n, B, T).
        paths: written, (n, B, T).
    """
    B, T, K = begun.shape
    M, D = transition.shape[1], min(T, duration.shape[2])
    A, weights, by_start = np.empty((M, K, K)), np.empty(K), np.empty(D)
    law, lasting, after = np.empty((K, D)), np.empty((K, D)), np.empty((K, D))
    last = np.empty(K)
    for b in range(B):
        if b < transition.shape[0]:
            exp_into(transition[b].reshape(M * K * K), A.reshape(M * K * K))
        if b < duration.shape[0]:
            laws(duration[b], np.inf, law, lasting, after)
        for k in range(K):
            last[k] = _by_start(T - 1, k, begun[b], gain[b], lasting, by_start)
        for n in range(len(paths)):
            t, k = T - 1, 0
            while t >= 0:
                total = 0.0
                for i in range(K):
                    if t + 1 == T:
                        weights[i] = last[i]
                    else:
                        weights[i] = ended[b, t, i] * LARGE * A[t if M > 1 else 0, i, k]
                    total += weights[i]
                k, left = pick(weights, uniform[n, b, t] * total)
                share = left / weights[k]  # uniform again
                of_all = _by_start(
                    t, k, begun[b], gain[b], lasting if t + 1 == T else law, by_start
                )
                back, _ = pick(by_start[: min(D, t + 1)], share * of_all)
                paths[n, b, t - back : t + 1] = k
                t -= back + 1


@njit(**OPTIONS)
def _by_start(
    t: int, k: int, begun: np.ndarray, gain: np.ndarray, law: np.ndarray, by_start: np.ndarray
) -> float:
    """Write p(a block of k begun d - 1 steps before t ends, or is open, at t); return their sum."""
    D = law.shape[1]
    product, total = 1.0, 0.0
    for d in range(1, min(D, t + 1) + 1):
        product *= gain[t - d + 1, k]
        by_start[d - 1] = begun[t - d + 1, k] * product * law[k, D - d]
        total += by_start[d - 1]
    return total


@njit(**OPTIONS)
def pick(weights: np.ndarray, height: float) -> tuple[int, float]:
    """Return where the running sum of the weights passes a height, and the height left there."""
    last = 0
    for i in range(len(weights)):
        if weights[i] > 0.0:
            last = i
            if height < weights[i]:
                break
            height -= weights[i]
    return last, min(height, weights[last])
