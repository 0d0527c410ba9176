"""L-BFGS from several starts at once, whose evaluations are made together."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Objective = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

MEMORY = 20  # pairs of steps and changes of the gradient
DECREASE, CURVATURE = 1e-4, 0.9  # of the Wolfe conditions
PROGRESS = 1e-14  # relative: what rounding leaves of a decrease
TRIES = 25  # of one line search
PATIENCE = 4  # with a start that is worse than a converged one, in its rounds
CONVERGED, STUCK = "gradient below its tolerance", "no step decreases it any more"
BEHIND = "a better start had converged long before"


class Minima(NamedTuple):
    """Where the minimisers ended.

    Attributes:
        points: ``(S, P)``.
        values: ``(S,)``, inf where the start has none.
        gradients: ``(S, P)``.
        why: for each start the reason that it ended.
        rounds: how often the objective was asked.
    """

    points: np.ndarray
    values: np.ndarray
    gradients: np.ndarray
    why: list[str]
    rounds: int


def minimize(
    objective: Objective, starts: np.ndarray, *, tolerance: float, max_iter: int
) -> Minima:
    """Minimise from each start by L-BFGS (Nocedal and Wright 2006, algorithm 7.4).

    The line search looks for the weak Wolfe conditions by bisection (Lewis and Overton 2013,
    Mathematical Programming 141), its first guess where the value rose is that of a parabola. All
    starts advance by one evaluation at a time, each by its own steps. One that is worse than
    another that has converged is given up after some more rounds: a state that shrinks around one
    observation, say, has no optimum.

    Args:
        objective: from points ``(S, P)`` to values ``(S,)``, inf where there is none, and gradients
            ``(S, P)``.
        starts: ``(S, P)``.
        tolerance: a start ends where no element of its gradient exceeds it.
        max_iter: steps of each.

    >>> def squares(points):
    ...     return ((points - 1) ** 2).sum(-1), 2 * (points - 1)
    >>> found = minimize(squares, np.array([[0.0, 3.0], [5.0, 5.0]]), tolerance=1e-8, max_iter=9)
    >>> found.points.round(6).tolist(), found.rounds
    ([[1.0, 1.0], [1.0, 1.0]], 3)
    """
    S, P = starts.shape
    x, (f, g) = starts.copy(), objective(starts)
    memory = _Memory(S, P)
    direction, slope = memory.direction(g, np.arange(S))
    low, high = np.zeros(S), np.full(S, np.inf)
    step = 1 / np.maximum(np.abs(g).sum(-1), 1.0)
    tries, taken, rounds = np.zeros(S, int), np.zeros(S, int), 1
    why = np.full(S, "", dtype=object)
    why[_size(g) <= tolerance] = CONVERGED
    why[~np.isfinite(f)] = "no finite value at the start"
    limit = np.inf
    while (at := np.flatnonzero(why == "")).size:
        trial = x[at] + step[at, None] * direction[at]
        value, gradient = objective(trial)
        rounds += 1
        tries[at] += 1
        if rounds > limit:
            why[at[f[at] > f[why == CONVERGED].min()]] = BEHIND
        fell = value <= f[at] + DECREASE * step[at] * slope[at]
        flat = np.einsum("sp,sp->s", gradient, direction[at]) >= CURVATURE * slope[at]
        spent = tries[at] >= TRIES
        why[at[~fell & spent]] = STUCK
        accepted = fell & (flat | spent)
        high[at[~fell]] = step[at[~fell]]
        low[at[fell]] = step[at[fell]]
        step[at] = _next_step(step[at], low[at], high[at], slope[at], value - f[at])
        now = at[accepted]
        if not now.size:
            continue
        value, gradient = value[accepted], gradient[accepted]
        memory.add(now, trial[accepted] - x[now], gradient - g[now])
        progress = (f[now] - value) > PROGRESS * np.maximum(np.abs(f[now]), 1.0)
        x[now], f[now], g[now] = trial[accepted], value, gradient
        taken[now] += 1
        why[now[taken[now] >= max_iter]] = f"{max_iter} steps"
        why[now[~progress]] = STUCK
        why[now[_size(gradient) <= tolerance]] = CONVERGED
        if np.isinf(limit) and (why == CONVERGED).any():
            limit = PATIENCE * rounds + 50
        direction[now], slope[now] = memory.direction(gradient, now)
        low[now], high[now], step[now], tries[now] = 0.0, np.inf, 1.0, 0
    return Minima(x, np.where(np.isfinite(f), f, np.inf), g, list(why), rounds)


def _size(gradients: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.abs(gradients).max(-1, initial=0.0)
    return found


def _next_step(
    step: np.ndarray, low: np.ndarray, high: np.ndarray, slope: np.ndarray, rise: np.ndarray
) -> np.ndarray:
    """Return the middle of the bracket, twice the step without one, or the parabola's minimum."""
    with np.errstate(all="ignore"):
        parabola = -slope * step**2 / (2 * (rise - slope * step))
    middle = np.where(np.isfinite(high), (low + high) / 2, 2 * step)
    first = (low == 0) & (high == step) & (parabola > 0.1 * step) & (parabola < 0.9 * step)
    return np.where(first, parabola, middle)


class _Memory:
    """The last steps and changes of the gradient of each start."""

    def __init__(self, S: int, P: int) -> None:
        self.moved, self.changed = np.zeros((MEMORY, S, P)), np.zeros((MEMORY, S, P))
        self.weight = np.zeros((MEMORY, S))  # 1 / s'y; 0 where there is none
        self.scale = np.ones(S)

    def add(self, which: np.ndarray, moved: np.ndarray, changed: np.ndarray) -> None:
        """Remember the steps of some starts, where the curvature along them is positive."""
        curvature = np.einsum("sp,sp->s", moved, changed)
        size = np.einsum("sp,sp->s", changed, changed)
        good = curvature > 1e-12 * size
        which = which[good]
        new = moved[good], changed[good], 1 / curvature[good]
        for held, last in zip((self.moved, self.changed, self.weight), new, strict=True):
            held[:-1, which] = held[1:, which]
            held[-1, which] = last
        self.scale[which] = curvature[good] / size[good]

    def direction(self, g: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return minus the approximate inverse Hessian times the gradient, and the slope there."""
        s, y, weight = self.moved[:, which], self.changed[:, which], self.weight[:, which]
        used = np.flatnonzero(weight.any(-1))
        q, alpha = g.copy(), np.zeros_like(weight)
        for m in reversed(used):
            alpha[m] = weight[m] * np.einsum("sp,sp->s", s[m], q)
            q -= alpha[m, :, None] * y[m]
        q *= self.scale[which, None]
        for m in used:
            beta = weight[m] * np.einsum("sp,sp->s", y[m], q)
            q += (alpha[m] - beta)[:, None] * s[m]
        return -q, -np.einsum("sp,sp->s", q, g)
