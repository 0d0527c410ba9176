"""The recursion of a hidden semi-Markov chain in probability space, compiled.

A block is known by its task k and the step s at which it began. What the data of its steps say is
the same for every open block of a task, so that one number for each task, ``scale``, carries it::

    p(block of k begun at s goes on at t, x_1..t) = weight[k, s] scale[k] p(D_k >= t - s + 1)

up to p(x_1..t), and a step costs two products with the law of durations. Weights are rescaled
before they leave the range of float64. As in ``chain_kernel``, every result keeps its relative
accuracy or the call ends: a sum has to be far larger than what was lost from it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from gbi_pyro.inference._kernels.chain_kernel import (
    FORBIDDEN,
    OPTIONS,
    SMALLEST,
    exp_rows,
    likelihoods,
    normalise_rows,
    push,
)
from gbi_pyro.inference._kernels.vector_maths import log_in_place

LEAST_SUM = 1e-270  # a smaller sum of products may have lost terms that underflowed
LOWEST, HIGHEST = 1e-100, 1e8  # of a scale


@njit(**OPTIONS)
def laws(
    log_duration: np.ndarray,
    tolerance: float,
    law: np.ndarray,
    lasting: np.ndarray,
    after: np.ndarray,
) -> bool:
    """Write p(D = d), p(D >= d) and p(D > d), (K, D), at ``[k, D - d]``: the longest come first.

    Returns:
        Whether they sum to one.
    """
    K, D = law.shape
    longest = log_duration.shape[1]
    for k in range(K):
        total = 0.0
        for d in range(longest - 1, -1, -1):
            if d < D:
                after[k, D - 1 - d] = total
            p = np.exp(log_duration[k, d])
            total += p
            if d < D:
                law[k, D - 1 - d] = p
                lasting[k, D - 1 - d] = total
        if not abs(total - 1.0) <= tolerance:
            return False
        for d in range(D):
            law[k, d] /= total
            lasting[k, d] /= total
            after[k, d] /= total
    return True


@njit(**OPTIONS)
def _vanished(total: float, weights: np.ndarray, law: np.ndarray, lost: float) -> bool:
    """Whether a sum of weights times a law may be wrong."""
    if total >= LEAST_SUM and total >= 1e13 * lost:
        return False
    if lost > 0.0:
        return True
    possible = False
    for s in range(len(weights)):
        possible |= weights[s] > 0.0 and law[s] > 0.0
    return possible


@njit(**OPTIONS)
def _rescale(weights: np.ndarray, factor: float) -> bool:
    """Multiply weights in place; return whether something was lost."""
    lost = False
    for s in range(len(weights)):
        w = weights[s] * factor
        small = w < SMALLEST
        lost |= small and weights[s] > 0.0
        weights[s] = 0.0 if small else w
    return lost


@njit(**OPTIONS)
def filter_blocks(
    initial: np.ndarray,
    transition: np.ndarray,
    emission: np.ndarray,
    likelihood: np.ndarray,
    law: np.ndarray,
    after: np.ndarray,
    filtered: np.ndarray,
    predicted: np.ndarray,
    norms: np.ndarray,
    begun: np.ndarray,
    ended: np.ndarray,
    gain: np.ndarray,
    scales: np.ndarray,
    rescaled: np.ndarray,
    weight: np.ndarray,
) -> bool:
    """Filter one sequence.

    Args:
        initial, transition: p(z_1), (K,), and A between blocks, (1 or T - 1, K, K).
        emission, likelihood: logs, and relative to the best task, (T, K).
        law, after: see ``laws``.
        filtered, predicted, norms: written, see ``chain_kernel``.
        begun: written, p(a block of k begins at t | x_1..t-1), (T, K).
        ended: written, p(a block of k ends at t | x_1..t), (T, K).
        gain: written, p(x_t | k) / p(x_t | x_1..t-1), (T, K).
        scales: written, (T, K).
        rescaled: written, whether weights are changed from t to t + 1, (T, K).
        weight: written, (K, T).
    """
    T, K = filtered.shape
    D = law.shape[1]
    scale, lost, going = np.ones(K), np.zeros(K), np.zeros(K)
    for k in range(K):
        begun[0, k] = initial[k]
    for t in range(T):
        total = 0.0
        for k in range(K):
            predicted[t, k] = begun[t, k] + going[k]
            filtered[t, k] = predicted[t, k] * likelihood[t, k]
            total += filtered[t, k]
        if not total > 0.0:
            return False
        norms[t] = total
        low = max(0, t - D + 1)
        for k in range(K):
            gain[t, k] = likelihood[t, k] / total
            joint, filtered[t, k] = filtered[t, k], filtered[t, k] / total
            weight[k, t] = begun[t, k] / scale[k]
            if emission[t, k] <= FORBIDDEN:
                gain[t, k] = filtered[t, k] = ended[t, k] = going[k] = 0.0
                weight[k, low : t + 1] = 0.0
                scale[k], scales[t, k], lost[k], rescaled[t, k] = 1.0, 1.0, 0.0, True
                if t > 0:
                    rescaled[t - 1, k] = True
                continue
            if predicted[t, k] > 0.0 and joint < SMALLEST:
                return False
            scale[k] *= gain[t, k]
            scales[t, k] = scale[k]
            w, first = weight[k, low : t + 1], D - 1 - t + low
            ending, lasting = law[k, first:], after[k, first:]
            total_ended, total_going = 0.0, 0.0
            for s in range(len(w)):
                total_ended += w[s] * ending[s]
                total_going += w[s] * lasting[s]
            if min(total_ended, total_going) < LEAST_SUM or lost[k] > 0.0:
                if _vanished(total_ended, w, ending, lost[k]):
                    return False
                if _vanished(total_going, w, lasting, lost[k]):
                    return False
            ended[t, k], going[k] = total_ended * scale[k], total_going * scale[k]
            if (ended[t, k] < SMALLEST and total_ended > 0.0) or (
                going[k] < SMALLEST and total_going > 0.0
            ):
                return False
            rescaled[t, k] = not LOWEST < scale[k] < HIGHEST
            if rescaled[t, k]:
                lost[k] *= scale[k]
                if _rescale(w, scale[k]):
                    lost[k] = max(lost[k], SMALLEST * D)
                elif lost[k] > 0.0:
                    lost[k] = max(lost[k], SMALLEST)
                scale[k] = 1.0
        if t + 1 < T:
            m = t if transition.shape[0] > 1 else 0
            if not push(K, ended, t, transition, m, begun, t + 1):
                return False
    return True


@njit(**OPTIONS)
def _restore(
    begun: np.ndarray,
    gain: np.ndarray,
    t: int,
    k: int,
    low: int,
    scale: float,
    weights: np.ndarray,
) -> None:
    """Write the weights of a task's open blocks at t, from those begun at ``low`` on."""
    product = 1.0 / scale
    for s in range(t, low - 1, -1):
        product *= gain[s, k]
        w = begun[s, k] * product
        weights[s - low] = 0.0 if w < SMALLEST else w


@njit(**OPTIONS)
def smooth_blocks(
    transition: np.ndarray,
    law: np.ndarray,
    lasting: np.ndarray,
    filtered: np.ndarray,
    begun: np.ndarray,
    gain: np.ndarray,
    scales: np.ndarray,
    rescaled: np.ndarray,
    weight: np.ndarray,
    smoothed: np.ndarray,
    starts: np.ndarray,
    still_open: np.ndarray,
    lengths: np.ndarray,
    unfinished: np.ndarray,
) -> bool:
    """Smooth one sequence, from the last step to the first.

    p(a block of k, begun at s, ends at t | x_1..T) is p(it ends at t | x_1..t) times the sum over j
    of A[k, j] p(a block of j begins at t + 1 | x_1..T) / p(one begins at t + 1 | x_1..t).

    Args:
        transition: A, (1 or T - 1, K, K).
        law, lasting: see ``laws``.
        filtered, begun, gain, scales, rescaled, weight: from ``filter_blocks``.
        smoothed: written, p(z_t | x_1..T), (T, K).
        starts: written, p(a block of k begins at t | x_1..T), (T, K).
        still_open: scratch, (K, T): p(a block of k begun at s is open at t | x_1..T).
        lengths: written, the expected number of blocks of each length, (K, D), ordered as in
            ``laws``; or without a row, where it is not wanted.
        unfinished: written, p(the last block has lasted d steps | x_1..T), ordered likewise.
    """
    T, K = smoothed.shape
    D = law.shape[1]
    ratio, dropped = np.zeros(K), np.zeros(K, dtype=np.bool_)
    still_open[:] = 0.0
    lengths[:] = 0.0
    unfinished[:] = 0.0
    for t in range(T - 1, -1, -1):
        low = max(0, t - D + 1)
        first = D - 1 - t + low
        for k in range(K):
            w, q = weight[k, low : t + 1], still_open[k, low : t + 1]
            if rescaled[t, k]:
                _restore(begun, gain, t, k, low, scales[t, k], w)
            factor, chances = scales[t, k], lasting[k, first:]
            if t + 1 < T:
                m = t if transition.shape[0] > 1 else 0
                total = 0.0
                for j in range(K):
                    total += transition[m, k, j] * ratio[j]
                if total < SMALLEST:
                    for j in range(K):
                        if transition[m, k, j] > 0.0 and ratio[j] > 0.0:
                            return False
                factor, chances = factor * total, law[k, first:]
            total, drop = 0.0, False
            for s in range(len(w)):
                ends = factor * w[s] * chances[s]
                drop |= ends < SMALLEST and w[s] > 0.0 and chances[s] > 0.0
                q[s] += ends
                total += q[s]
            dropped[k] |= drop and factor > 0.0
            if len(lengths) > 0:
                counts = lengths if t + 1 < T else unfinished
                for s in range(len(w)):
                    counts[k, first + s] += factor * w[s] * chances[s]
            smoothed[t, k] = total
            starts[t, k] = q[t - low]
            little = total < LEAST_SUM or (starts[t, k] < LEAST_SUM and begun[t, k] > 0.0)
            if little and dropped[k] and filtered[t, k] > 0.0:
                return False
        for k in range(K):
            ratio[k] = starts[t, k] / begun[t, k] if begun[t, k] > 0.0 else 0.0
    return True


@njit(**OPTIONS)
def forward_backward(
    initial: np.ndarray,
    transition: np.ndarray,
    emission: np.ndarray,
    duration: np.ndarray,
    tolerance: float,
    filtered: np.ndarray,
    predicted: np.ndarray,
    smoothed: np.ndarray,
    steps: np.ndarray,
    total: np.ndarray,
    begun: np.ndarray,
    ended: np.ndarray,
    gain: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    unfinished: np.ndarray,
) -> bool:
    """Filter and smooth chains, one after the other.

    Args:
        initial: log p(z_1), (1 or B, K).
        transition: log A between blocks, (1 or B, 1 or T - 1, K, K).
        emission: log p(x_t | z_t), (B, T, K).
        duration: log p(D = d), (1 or B, K, any number).
        tolerance: how far from one a row of probabilities may sum to.
        filtered, predicted, smoothed, steps, total: written, logs, see
            ``chain_kernel.forward_backward``.
        begun, ended, gain, starts: written, see ``filter_blocks`` and ``smooth_blocks``, (B, T, K).
        lengths, unfinished: written, see ``smooth_blocks``, (B, K, D) or (B, 0, D).

    Returns:
        Whether these are chains and nothing underflowed; else what was written is of no use.
    """
    B, T, K = emission.shape
    M, D = transition.shape[1], lengths.shape[2]
    pi, A = np.empty((1, K)), np.empty((M, K, K))
    law, lasting, after = np.empty((K, D)), np.empty((K, D)), np.empty((K, D))
    likelihood, norms, scales = np.empty((T, K)), np.empty(T), np.empty((T, K))
    rescaled = np.empty((T, K), dtype=np.bool_)
    weight, still_open = np.empty((K, T)), np.empty((K, T))
    for b in range(B):
        if b < initial.shape[0] and not exp_rows(initial[b : b + 1], tolerance, pi):
            return False
        if b < transition.shape[0] and not exp_rows(
            transition[b].reshape(M * K, K), tolerance, A.reshape(M * K, K)
        ):
            return False
        if b < duration.shape[0] and not laws(duration[b], tolerance, law, lasting, after):
            return False
        x, top, f, p, s = emission[b], steps[b], filtered[b], predicted[b], smoothed[b]
        if not likelihoods(x, top, likelihood):
            return False
        if not filter_blocks(
            pi[0],
            A,
            x,
            likelihood,
            law,
            after,
            f,
            p,
            norms,
            begun[b],
            ended[b],
            gain[b],
            scales,
            rescaled,
            weight,
        ):
            return False
        if not smooth_blocks(
            A,
            law,
            lasting,
            f,
            begun[b],
            gain[b],
            scales,
            rescaled,
            weight,
            s,
            starts[b],
            still_open,
            lengths[b],
            unfinished[b],
        ):
            return False
        normalise_rows(p)
        normalise_rows(s)
        log_in_place(f.reshape(T * K))
        log_in_place(p.reshape(T * K))
        log_in_place(s.reshape(T * K))
        log_in_place(norms)
        total[b] = 0.0
        for t in range(T):
            top[t] += norms[t]
            total[b] += top[t]
    return True


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})  # no NaN: maxima of vectors
def best_path(
    initial: np.ndarray,
    transition: np.ndarray,
    emission: np.ndarray,
    log_end: np.ndarray,
    log_stay: np.ndarray,
    path: np.ndarray,
) -> None:
    """Find the most probable blocks of each chain.

    Args:
        initial, transition, emission: logs, see ``forward_backward``.
        log_end, log_stay: log probability that a block ends at its d-th step, and that it does not,
            (1 or B, K, D), at ``[D - d]``.
        path: written, (B, T).
    """
    B, T, K = emission.shape
    D = log_end.shape[2]
    score = np.empty((K, T))
    ended, origin = np.empty(K), np.empty(K, dtype=np.int64)
    task, start = np.empty((T, K), dtype=np.int64), np.empty((T, K), dtype=np.int64)
    for b in range(B):
        pi = initial[b if initial.shape[0] > 1 else 0]
        As = transition[b if transition.shape[0] > 1 else 0]
        end = log_end[b if log_end.shape[0] > 1 else 0]
        stay = log_stay[b if log_stay.shape[0] > 1 else 0]
        for t in range(T):
            low = max(0, t - D + 1)
            for k in range(K):  # what goes on, and what begins
                for s in range(max(0, t - D), t):
                    score[k, s] += stay[k, D - t + s] + emission[b, t, k]
                if t == 0:
                    score[k, 0] = pi[k] + emission[b, 0, k]
            if t > 0:
                A = As[t - 1 if As.shape[0] > 1 else 0]
                for j in range(K):
                    best = 0
                    for i in range(1, K):
                        if ended[i] + A[i, j] > ended[best] + A[best, j]:
                            best = i
                    score[j, t] = ended[best] + A[best, j] + emission[b, t, j]
                    task[t, j], start[t, j] = best, origin[best]
            top = score[0, t]
            for k in range(K):
                for s in range(low, t + 1):
                    top = max(top, score[k, s])
            for k in range(K):
                best_score, here = -np.inf, score[k, low : t + 1]
                ending = end[k, D - 1 - t + low :]
                for s in range(len(here)):
                    here[s] -= top
                    best_score = max(best_score, here[s] + ending[s])
                s = 0
                while here[s] + ending[s] < best_score:
                    s += 1
                origin[k], ended[k] = low + s, best_score
        last, s = 0, T - 1
        for k in range(K):
            for r in range(max(0, T - D), T):
                if score[k, r] > score[last, s]:
                    last, s = k, r
        t = T
        while True:
            path[b, s:t] = last
            if s == 0:
                break
            t = s
            last, s = task[t, last], start[t, last]
