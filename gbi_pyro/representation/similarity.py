"""How alike two representations are, with what makes the number mislead."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gbi_pyro.representation._activity import (
    DOMINANT,
    centred,
    checked_activity,
    checked_tasks,
    spectrum,
)

DECISIVE = 0.2  # by how much the value may move with the most influential samples, or the tasks
MOST_SAMPLES = 2000  # whose distances are compared: they are quadratic in number


class Similarity(NamedTuple):
    """How alike two representations of the same samples are.

    Attributes:
        value: 1 for representations that are equal up to rotation and scale; NaN where there is
            nothing to compare. About 0 for unrelated ones by "cka" and "rsa", of which many come
            out a little negative; "procrustes" is biased upwards where samples are few.
        within: the value within each task, in the order of their ids, ``(K,)``; NaN where a task
            has fewer than four samples. None without tasks.
        without: the lowest and the highest value after leaving out the samples that raise it most,
            and those that lower it most.
        warnings: in words, why not to trust the value; empty if there is no reason known.
    """

    value: float
    within: Tensor | None
    without: tuple[float, float]
    warnings: tuple[str, ...]


class Measure(NamedTuple):
    """A measure of similarity, of centred activity, and the influence of each sample on it."""

    value: Callable[[Tensor, Tensor], float]
    influence: Callable[[Tensor, Tensor], Tensor]


def similarity(
    x: Any, y: Any, measure: str = "cka", tasks: Any = None, *, leave_out: float = 0.01
) -> Similarity:
    """Return how alike two representations of the same samples are.

    Measures, all of which ignore rotation, scale and place:

    - ``"cka"``: debiased linear CKA, HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)) (Kornblith et al.
      2019, Similarity of neural network representations revisited, ICML), each HSIC by the unbiased
      estimator of Song et al. 2012 (Feature selection via dependence maximization, JMLR 13). With a
      linear kernel no N x N matrix is needed:
      N (N - 3) HSIC = |x' y|^2 - N / (N - 2) sum_i |x_i|^2 |y_i|^2
      + sum_i |x_i|^2 sum_i |y_i|^2 / ((N - 1) (N - 2)).
    - ``"procrustes"``: |x' y|_* / (|x| |y|), the nuclear norm: the cosine after the best rotation
      (Williams et al. 2021, Generalized shape metrics on neural representations, NeurIPS).
    - ``"rsa"``: Spearman's correlation of the distances between samples (Kriegeskorte et al. 2008,
      Representational similarity analysis, Front. Syst. Neurosci. 2), of 2000 of them at most,
      spread evenly.

    Where a value is known to mislead, it says so:

    - One direction dominates. A single large one, or the difference between the means of two tasks,
      decides the value whatever the rest does (Nguyen, Raghu and Kornblith 2022, arXiv:2202.07184;
      Davari et al. 2023, Reliability of CKA as a similarity measure in deep learning, ICLR).
    - A few samples decide. Those with the largest influence, to first order, are left out and the
      value is computed again.
    - The differences between tasks decide: the values within tasks are others.
    - Fewer samples than units. Plain estimators then near 1 for unrelated activity (Murphy,
      Zylberberg and Fyshe 2024, arXiv:2405.01012); debiased CKA does not, but its error grows.

    Args:
        x: activity, ``(N, units)``, N >= 4.
        y: other activity for the same N samples in the same order, ``(N, other units)``.
        measure: ``"cka"``, ``"procrustes"`` or ``"rsa"``.
        tasks: the task of each sample, ``(N,)``, for the values within tasks.
        leave_out: the share of samples whose removal is tried, in (0, .5).

    Raises:
        ValueError: for an unknown measure, invalid shapes or a share out of range.

    >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    >>> found = similarity(x, 3 * x.flip(-1) + 1)  # rotated, scaled, moved
    >>> round(found.value, 6), found.warnings
    (1.0, ())
    """
    if measure not in MEASURES:
        raise ValueError(f"measure should be one of {list(MEASURES)}; got {measure!r}")
    if not 0 < leave_out < 0.5:
        raise ValueError(f"leave_out should be a share in (0, 0.5); got {leave_out}: try 0.01")
    a, b = checked_activity(x, "x"), checked_activity(y, "y")
    if len(a) != len(b):
        raise ValueError(
            f"x and y should have the same samples in the same order; got {len(a)} and {len(b)}"
        )
    ids = None if tasks is None else checked_tasks(tasks, len(a))
    words = [word for name, v in (("x", a), ("y", b)) for word in _reasons(name, v)]
    value = _value(measure, a, b)
    lowest, highest = _without(measure, a, b, value, leave_out)
    if max(value - lowest, highest - value) > DECISIVE:
        words.append(
            f"few samples decide: without {leave_out:.0%} of them the value is {lowest:z.2f} or "
            f"{highest:z.2f}, not {value:z.2f}; look at these samples"
        )
    within = None
    if ids is not None:
        each = [_value(measure, a[ids == k], b[ids == k]) for k in ids.unique()]
        within = torch.tensor(each, dtype=torch.float64)
        if abs(value - within.nanmean().item()) > DECISIVE:
            words.append(
                f"the differences between tasks decide: the value is {value:z.2f}, within tasks it "
                f"is {within.nanmean().item():z.2f} on average"
            )
    return Similarity(value, within, (lowest, highest), tuple(words))


def _value(measure: str, x: Tensor, y: Tensor) -> float:
    """Return the value of a measure; NaN where there is nothing to compare."""
    if len(x) < 4:
        return math.nan
    a, b = centred(x), centred(y)
    if not bool(a.any()) or not bool(b.any()):
        return math.nan
    return MEASURES[measure].value(a, b)


def _without(measure: str, x: Tensor, y: Tensor, value: float, share: float) -> tuple[float, float]:
    """Return the value without the samples that raise it most, and that lower it most."""
    n = max(1, round(share * len(x)))
    if math.isnan(value) or len(x) - n < 4:
        return value, value
    order = MEASURES[measure].influence(centred(x), centred(y)).argsort()
    found = [_value(measure, x[kept], y[kept]) for kept in (order[:-n], order[n:])]
    return min(value, *found), max(value, *found)


def _reasons(name: str, activity: Tensor) -> list[str]:
    """Return why a value may mislead on this activity."""
    found, (samples, units) = centred(activity), activity.shape
    if not bool(found.any()) or _hsic(found, found) <= 1e-12 * (found.square().mean() * units) ** 2:
        return [
            f"{name} does not vary, or its samples are all equally far apart: there is nothing to "
            "compare"
        ]
    words = []
    if samples < units:
        words.append(
            f"{name} has fewer samples ({samples}) than units ({units}): the error is large; "
            "compare with the value for shuffled samples, and take more of them"
        )
    variances = spectrum(found)
    share = (variances[0].square() / variances.square().sum()).item()
    if units > 1 and share > DOMINANT:
        words.append(
            f"one direction makes {share:.0%} of the self-similarity of {name}: the value is about "
            "that direction, or a few outlying samples, alone; look at the rest without it"
        )
    return words


def _cka(x: Tensor, y: Tensor) -> float:
    a, b = _hsic(x, x), _hsic(y, y)
    rounding = [1e-12 * v.square().mean().item() ** 2 * v.shape[1] ** 2 for v in (x, y)]
    if a <= rounding[0] or b <= rounding[1]:
        return math.nan
    return _hsic(x, y) / math.sqrt(a * b)


def _hsic(x: Tensor, y: Tensor) -> float:
    """Return the unbiased estimate for linear kernels, of centred activity."""
    n = len(x)
    a, b = x.square().sum(-1), y.square().sum(-1)
    own = n / (n - 2) * (a @ b) - a.sum() * b.sum() / ((n - 1) * (n - 2))
    return float((x.mT @ y).square().sum() - own) / (n * (n - 3))


def _cka_influence(x: Tensor, y: Tensor) -> Tensor:
    """Return the derivative of log CKA with respect to the weight of each sample, ``(N,)``."""

    def share(u: Tensor, v: Tensor) -> Tensor:  # sum_j (u_i . u_j) (v_i . v_j), without N x N
        rows = ((u @ (u.mT @ v)) * v).sum(-1)
        return rows / rows.sum()

    return 2 * share(x, y) - share(x, x) - share(y, y)


def _procrustes(x: Tensor, y: Tensor) -> float:
    nuclear = torch.linalg.svdvals(x.mT @ y).sum()
    return float(nuclear / (x.norm() * y.norm()))


def _procrustes_influence(x: Tensor, y: Tensor) -> Tensor:
    """Return the derivative of its log with respect to the weight of each sample, ``(N,)``."""
    left, singular, right = torch.linalg.svd(x.mT @ y, full_matrices=False)
    shared: Tensor = ((x @ left) * (y @ right.mT)).sum(-1) / singular.sum()
    sizes = [v.square().sum(-1) / v.square().sum() for v in (x, y)]
    return shared - 0.5 * (sizes[0] + sizes[1])


def _rsa(x: Tensor, y: Tensor) -> float:
    from scipy.stats import spearmanr  # late: slow to load

    at = _some(len(x))
    a, b = (torch.nn.functional.pdist(v[at]) for v in (x, y))
    if bool((a == a[0]).all()) or bool((b == b[0]).all()):
        return math.nan
    return float(spearmanr(a.numpy(), b.numpy()).statistic)


def _rsa_influence(x: Tensor, y: Tensor) -> Tensor:
    """Return by how much the pairs of each sample raise the correlation of ranks, ``(N,)``."""
    from scipy.stats import rankdata

    at = _some(len(x))
    scores = []
    for v in (x, y):
        ranks = torch.from_numpy(rankdata(torch.nn.functional.pdist(v[at]).numpy())).double()
        scores.append((ranks - ranks.mean()) / ranks.std(correction=0).clamp_min(1e-300))
    a, b = scores
    rho = (a * b).mean()
    pairs = a * b - 0.5 * rho * (a.square() + b.square())
    i, j = torch.triu_indices(len(at), len(at), 1)
    total = torch.zeros(len(at), dtype=torch.float64)
    total.index_add_(0, i, pairs).index_add_(0, j, pairs)
    found = torch.zeros(len(x), dtype=torch.float64)
    found[at] = total
    return found


def _some(n: int) -> Tensor:
    """Return which samples are compared, all of them if they are few."""
    return torch.linspace(0, n - 1, min(n, MOST_SAMPLES)).round().long()


MEASURES = {
    "cka": Measure(_cka, _cka_influence),
    "procrustes": Measure(_procrustes, _procrustes_influence),
    "rsa": Measure(_rsa, _rsa_influence),
}
"""Every measure of ``similarity``."""
