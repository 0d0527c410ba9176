"""The recursion of a hidden Markov chain in probability space, compiled once and kept on disk.

All it does is multiply and add positive numbers, so that every result keeps its relative accuracy
unless a number underflows. That is watched: a state that gets too small, though nothing forbids it,
ends the call, and the caller takes the recursion in log space instead. So does whatever is not a
chain: NaN, +inf, rows that do not sum to one, impossible data.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from gbi_pyro.inference._kernels.vector_maths import exp_into, log_in_place

SMALLEST = 1e-290  # below it, float64 begins to lose digits
FORBIDDEN = -5e29  # a log probability below stands for -inf: half of ``chain_log_space.LOG_ZERO``
OPTIONS = {
    "cache": True,
    "nogil": True,
    "fastmath": {"reassoc", "contract"},
    "error_model": "numpy",
}


@njit(**OPTIONS)
def exp_rows(log_rows: np.ndarray, tolerance: float, rows: np.ndarray) -> bool:
    """Write the exponentials of rows, (N, K); return whether each sums to one."""
    N, K = rows.shape
    exp_into(log_rows.reshape(N * K), rows.reshape(N * K))
    for n in range(N):
        total, top = 0.0, 0.0
        for k in range(K):
            total += rows[n, k]
            top = max(top, log_rows[n, k])
        if not (abs(total - 1.0) <= tolerance and top <= tolerance):
            return False
    return True


@njit(**OPTIONS)
def likelihoods(emission: np.ndarray, top: np.ndarray, likelihood: np.ndarray) -> bool:
    """Write the largest of each row of log p(x_t | z_t), (T, K), and p(x_t | z_t) / exp(it).

    Returns:
        Whether there is a task that explains each x_t.
    """
    T, K = emission.shape
    for t in range(T):
        largest = emission[t, 0]
        for k in range(1, K):
            largest = max(largest, emission[t, k])
        if not largest > FORBIDDEN:
            return False
        top[t] = largest
        for k in range(K):
            likelihood[t, k] = emission[t, k] - largest
    exp_into(likelihood.reshape(T * K), likelihood.reshape(T * K))
    return True


@njit(forceinline=True, **OPTIONS)
def push(K: int, x: np.ndarray, t: int, A: np.ndarray, m: int, out: np.ndarray, u: int) -> bool:
    """Write out[u] = x[t] A[m]; return whether nothing underflowed."""
    for j in range(K):
        out[u, j] = 0.0
    i = 0
    while i + 4 <= K:  # four rows at a time: the sum is loaded and stored less often
        a, b, c, d = x[t, i], x[t, i + 1], x[t, i + 2], x[t, i + 3]
        for j in range(K):
            two = a * A[m, i, j] + b * A[m, i + 1, j]
            out[u, j] += two + (c * A[m, i + 2, j] + d * A[m, i + 3, j])
        i += 4
    while i < K:
        a = x[t, i]
        for j in range(K):
            out[u, j] += a * A[m, i, j]
        i += 1
    small = False
    for j in range(K):
        small |= out[u, j] < SMALLEST
    if small:
        for j in range(K):
            if out[u, j] < SMALLEST:
                for i in range(K):
                    if x[t, i] > 0.0 and A[m, i, j] > 0.0:
                        return False
    return True


@njit(forceinline=True, **OPTIONS)
def passes(
    K: int,
    initial: np.ndarray,
    transition: np.ndarray,
    emission: np.ndarray,
    likelihood: np.ndarray,
    filtered: np.ndarray,
    predicted: np.ndarray,
    norms: np.ndarray,
    future: np.ndarray,
    carried: np.ndarray,
) -> bool:
    """Write the filter, and p(x_t+1..T | z_t) / p(x_t+1..T | x_1..t)."""
    T = len(filtered)
    for k in range(K):
        predicted[0, k] = initial[k]
    for t in range(T):
        total, small = 0.0, False
        for k in range(K):
            joint = predicted[t, k] * likelihood[t, k]
            filtered[t, k] = joint
            total += joint
            small |= joint < SMALLEST
        if not total > 0.0:
            return False
        if small:
            for k in range(K):
                possible = predicted[t, k] > 0.0 and emission[t, k] > FORBIDDEN
                if possible and filtered[t, k] < SMALLEST:
                    return False
        norms[t] = total
        scale = 1.0 / total
        for k in range(K):
            filtered[t, k] *= scale
        if t + 1 < T:
            m = t if transition.shape[0] > 1 else 0
            if not push(K, filtered, t, transition, m, predicted, t + 1):
                return False
    for k in range(K):
        future[T - 1, k] = 1.0
    for t in range(T - 2, -1, -1):
        m = t if transition.shape[0] > 1 else 0
        scale, small = 1.0 / norms[t + 1], False
        for j in range(K):
            carried[j] = future[t + 1, j] * likelihood[t + 1, j] * scale
            small |= carried[j] < SMALLEST
        for i in range(K):
            total = 0.0
            for j in range(K):
                total += transition[m, i, j] * carried[j]
            future[t, i] = total
            small |= total < SMALLEST
        if small:
            for j in range(K):
                possible = future[t + 1, j] > 0.0 and emission[t + 1, j] > FORBIDDEN
                if possible and carried[j] < SMALLEST:
                    return False
            for i in range(K):
                if future[t, i] < SMALLEST:
                    for j in range(K):
                        if transition[m, i, j] > 0.0 and carried[j] > 0.0:
                            return False
    return True


@njit(**OPTIONS)
def normalise_rows(rows: np.ndarray) -> None:
    """Divide rows by their sums."""
    N, K = rows.shape
    for n in range(N):
        total = 0.0
        for k in range(K):
            total += rows[n, k]
        scale = 1.0 / total
        for k in range(K):
            rows[n, k] *= scale


@njit(**OPTIONS)
def forward_backward(
    initial: np.ndarray,
    transition: np.ndarray,
    emission: np.ndarray,
    tolerance: float,
    filtered: np.ndarray,
    predicted: np.ndarray,
    smoothed: np.ndarray,
    steps: np.ndarray,
    total: np.ndarray,
) -> bool:
    """Filter and smooth chains, one after the other; logs go in and come out.

    Args:
        initial: log p(z_1), (1 or B, K).
        transition: log A, rows the task left, (1 or B, 1 or T - 1, K, K).
        emission: log p(x_t | z_t), (B, T, K).
        tolerance: how far from one a row of probabilities may sum to.
        filtered, predicted, smoothed: written, log p(z_t | x_1..t), log p(z_t | x_1..t-1) and
            log p(z_t | x_1..T), (B, T, K).
        steps: written, log p(x_t | x_1..t-1), (B, T).
        total: written, their sum, (B,).

    Returns:
        Whether these are chains and nothing underflowed; else what was written is of no use.
    """
    B, T, K = emission.shape
    M = transition.shape[1]
    pi, A = np.empty((1, K)), np.empty((M, K, K))
    likelihood, norms, carried = np.empty((T, K)), np.empty(T), np.empty(K)
    for b in range(B):
        if b < initial.shape[0] and not exp_rows(initial[b : b + 1], tolerance, pi):
            return False
        if b < transition.shape[0] and not exp_rows(
            transition[b].reshape(M * K, K), tolerance, A.reshape(M * K, K)
        ):
            return False
        x, top, f, p, s = emission[b], steps[b], filtered[b], predicted[b], smoothed[b]
        if not likelihoods(x, top, likelihood):
            return False
        if K == 2:  # constants make short loops fast
            fine = passes(2, pi[0], A, x, likelihood, f, p, norms, s, carried)
        elif K == 3:
            fine = passes(3, pi[0], A, x, likelihood, f, p, norms, s, carried)
        else:
            fine = passes(K, pi[0], A, x, likelihood, f, p, norms, s, carried)
        if not fine:
            return False
        normalise_rows(p)  # rows of A may be off by their rounding
        log_in_place(f.reshape(T * K))
        log_in_place(p.reshape(T * K))
        log_in_place(s.reshape(T * K))
        log_in_place(norms)
        total[b] = 0.0
        for t in range(T):
            top[t] += norms[t]
            total[b] += top[t]
            for k in range(K):
                s[t, k] += f[t, k]
    return True


@njit(**OPTIONS)
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


@njit(**OPTIONS)
def gradient(
    transition: np.ndarray,
    begun: np.ndarray,
    left: np.ndarray,
    entered: np.ndarray,
    weight: np.ndarray,
    tasks: np.ndarray,
    pairs: np.ndarray,
) -> None:
    """Write weighted posterior probabilities of tasks, and of pairs of tasks, summed.

    p(z_t = i, z_t+1 = j | x_1..T) = p(i | x_1..t) A_ij p(j | x_1..T) / p(j | x_1..t).

    Args:
        transition: log A, (1 or B, 1 or T - 1, K, K).
        begun, left, entered: log predicted, filtered and smoothed, (B, T, K).
        weight: of each sequence, (B,).
        tasks: written, (B, T, K).
        pairs: added to, of the shape of ``transition``; or without a row, where it is not wanted.
    """
    B, T, K = left.shape
    M = transition.shape[1]
    A, here, ratio = np.empty((M, K, K)), np.empty((T, K)), np.empty((T, K))
    total = np.empty((K, K))
    for b in range(B):
        exp_into(entered[b].reshape(T * K), tasks[b].reshape(T * K))
        for t in range(T):
            for k in range(K):
                tasks[b, t, k] *= weight[b]
        if len(pairs) == 0:
            continue
        if b < transition.shape[0]:
            exp_into(transition[b].reshape(M * K * K), A.reshape(M * K * K))
        exp_into(left[b].reshape(T * K), here.reshape(T * K))
        for t in range(T):
            for k in range(K):
                impossible = entered[b, t, k] < FORBIDDEN
                ratio[t, k] = -np.inf if impossible else entered[b, t, k] - begun[b, t, k]
        exp_into(ratio.reshape(T * K), ratio.reshape(T * K))
        c = b if pairs.shape[0] > 1 else 0
        if M > 1:
            for t in range(T - 1):
                for i in range(K):
                    x = here[t, i] * weight[b]
                    for j in range(K):
                        pairs[c, t, i, j] += x * A[t, i, j] * ratio[t + 1, j]
            continue
        total[:] = 0.0
        t = 0
        while t + 4 < T:  # four steps at a time, as in ``push``
            for i in range(K):
                p, q, r, s = here[t, i], here[t + 1, i], here[t + 2, i], here[t + 3, i]
                for j in range(K):
                    two = p * ratio[t + 1, j] + q * ratio[t + 2, j]
                    total[i, j] += two + (r * ratio[t + 3, j] + s * ratio[t + 4, j])
            t += 4
        while t + 1 < T:
            for i in range(K):
                for j in range(K):
                    total[i, j] += here[t, i] * ratio[t + 1, j]
            t += 1
        for i in range(K):
            for j in range(K):
                pairs[c, 0, i, j] += weight[b] * A[0, i, j] * total[i, j]
