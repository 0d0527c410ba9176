"""How well a score tells outliers from inliers: AUROC with an interval, false positives."""

from __future__ import annotations

from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

CHUNK = 2**18  # numbers held at a time by the bootstrap: what a cache holds


class Detection(NamedTuple):
    """How well a score tells outliers, the positives, from inliers.

    Attributes:
        auroc: P(score of an outlier > of an inlier) + 1/2 P(equal): .5 for chance, 1 for perfect.
        auroc_low: lower end of its bootstrap interval.
        auroc_high: upper end.
        fpr_at_95: share of inliers called outliers by the threshold that finds 95 % of the
            outliers (the highest such threshold): 0 for perfect.
        num_inliers: how many.
        num_outliers: how many.
    """

    auroc: float
    auroc_low: float
    auroc_high: float
    fpr_at_95: float
    num_inliers: int
    num_outliers: int


def detection(
    inlier_scores: Tensor | ArrayLike,
    outlier_scores: Tensor | ArrayLike,
    *,
    generator: torch.Generator,
    bootstrap: int = 1000,
    level: float = 0.95,
    name: str = "score",
) -> Detection:
    """Return how well a score detects outliers, with a bootstrap interval.

    The interval is the percentile bootstrap: inliers and outliers are drawn anew, each with
    replacement from its own set. It speaks of these models and other images, not of other seeds;
    for perfectly separated sets it has no width.

    Args:
        inlier_scores: one number per element, larger for more outlying, (N,).
        outlier_scores: the same for the outliers, (M,). Infinite scores are extreme ones.
        generator: source of the resampling, on the CPU.
        bootstrap: how many resamples.
        level: coverage of the interval.
        name: what error messages call the score.

    Returns:
        AUROC with its interval, and the false positive rate at 95 % true positives.

    Raises:
        ValueError: for NaN, no elements, unfit shapes or options.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> detection([1.0, 2.0, 3.0], [2.0, 4.0, 5.0, 6.0], generator=generator).auroc
        0.875
    """
    if bootstrap < 1:
        raise ValueError(f"bootstrap should be 1 or more resamples; got {bootstrap}: try 1000")
    if not 0 < level < 1:
        raise ValueError(f"level should be between 0 and 1; got {level}: try 0.95")
    inliers = _checked_scores(name, "inliers", inlier_scores)
    outliers = _checked_scores(name, "outliers", outlier_scores)
    n = len(inliers)
    # Ranks are all that matters; infinite scores, which scikit-learn refuses, have one too.
    ranks = torch.cat([inliers, outliers]).unique(return_inverse=True)[1]
    outlying = (torch.arange(len(ranks)) >= n).numpy()
    fpr, tpr, _ = roc_curve(outlying, ranks.numpy(), drop_intermediate=False)
    samples = _bootstrap_auroc(ranks[:n], ranks[n:], bootstrap, generator)
    ends = torch.tensor([0.5 - level / 2, 0.5 + level / 2], dtype=torch.float64)
    low, high = samples.quantile(ends).tolist()
    return Detection(
        auroc=float(roc_auc_score(outlying, ranks.numpy())),
        auroc_low=low,
        auroc_high=high,
        fpr_at_95=float(fpr[tpr >= 0.95].min()),
        num_inliers=n,
        num_outliers=len(outliers),
    )


def _bootstrap_auroc(
    inliers: Tensor, outliers: Tensor, resamples: int, generator: torch.Generator
) -> Tensor:
    """Return the AUROC of each resample from ranks, (resamples,)."""
    num_ranks = int(torch.maximum(inliers.max(), outliers.max())) + 1
    size = max(1, CHUNK // max(num_ranks, len(inliers), len(outliers)))
    found = []
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        inside = _resampled_counts(inliers, num_ranks, rows, generator)
        outside = _resampled_counts(outliers, num_ranks, rows, generator)
        pairs = (outside * (inside.cumsum(-1) - 0.5 * inside)).sum(-1)  # a tie is half a win
        found.append(pairs / (len(inliers) * len(outliers)))
    return torch.cat(found)


def _resampled_counts(
    ranks: Tensor, num_ranks: int, resamples: int, generator: torch.Generator
) -> Tensor:
    """Return how often each rank occurs in each resample, (resamples, num_ranks)."""
    drawn = ranks[torch.randint(len(ranks), (resamples, len(ranks)), generator=generator)]
    cells = drawn + num_ranks * torch.arange(resamples).unsqueeze(-1)
    counts = cells.flatten().bincount(minlength=resamples * num_ranks)
    return counts.view(resamples, num_ranks).double()


def _checked_scores(name: str, side: str, scores: Tensor | ArrayLike) -> Tensor:
    value = torch.as_tensor(scores).detach().cpu().double()
    if value.dim() != 1 or len(value) == 0:
        raise ValueError(
            f"{name!r} should give one number per element, (N,), to at least one of the {side}; "
            f"got shape {tuple(value.shape)}: .flatten() it"
        )
    if bool(value.isnan().any()):
        raise ValueError(
            f"{name!r} is NaN for {int(value.isnan().sum())} of {len(value)} {side}; expected "
            "numbers: look for 0 / 0 or infinity - infinity in what it was computed from"
        )
    return value
