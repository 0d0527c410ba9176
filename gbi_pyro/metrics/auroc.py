"""How well a score detects out-of-distribution elements: AUROC with an interval, FPR at 95 %."""

from __future__ import annotations

from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gbi_pyro.metrics._validate import check_level

CHUNK = 2**18  # numbers held at a time by the bootstrap: what a cache holds


class AUROC(NamedTuple):
    """The area under the ROC curve of a score; out-of-distribution (ood) elements are positives.

    Attributes:
        value: P(ood score > in-distribution score) + 1/2 P(equal): .5 for chance, 1 for perfect.
        low: lower end of its bootstrap interval.
        high: upper end.
        fpr_at_95: false positive rate at 95 % true positives, at the highest threshold that finds
            95 % of the ood elements: 0 for perfect.
        num_in: how many elements in distribution.
        num_ood: how many out of distribution.
    """

    value: float
    low: float
    high: float
    fpr_at_95: float
    num_in: int
    num_ood: int


def auroc(
    in_scores: Tensor | ArrayLike,
    ood_scores: Tensor | ArrayLike,
    *,
    generator: torch.Generator,
    bootstrap: int = 1000,
    level: float = 0.95,
    name: str = "score",
) -> AUROC:
    """Return the AUROC of a score with a bootstrap interval.

    The interval is the percentile bootstrap: both sets are resampled with replacement, each from
    its own elements. It speaks of these models and other images, not of other seeds; for perfectly
    separated sets it has no width.

    Args:
        in_scores: one number per element in distribution, (N,).
        ood_scores: one number per element out of distribution, larger is more so, (M,). Infinite
            scores are extreme ones.
        generator: source of the resampling, on the CPU.
        bootstrap: how many resamples.
        level: coverage of the interval.
        name: what error messages call the score.

    Returns:
        AUROC with its interval, and the false positive rate at 95 % true positives.

    Raises:
        ValueError: for NaN, no elements, invalid shapes or options.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> auroc([1.0, 2.0, 3.0], [2.0, 4.0, 5.0, 6.0], generator=generator).value
        0.875
    """
    from sklearn.metrics import roc_auc_score, roc_curve  # late: slow to load

    if bootstrap < 1:
        raise ValueError(f"bootstrap should be 1 or more resamples; got {bootstrap}: try 1000")
    check_level(level)
    inside = _checked_scores(name, "in-distribution", in_scores)
    outside = _checked_scores(name, "ood", ood_scores)
    n = len(inside)
    # Ranks are all that matters; infinite scores, which scikit-learn refuses, have one too.
    ranks = torch.cat([inside, outside]).unique(return_inverse=True)[1]
    is_ood = (torch.arange(len(ranks)) >= n).numpy()
    fpr, tpr, _ = roc_curve(is_ood, ranks.numpy(), drop_intermediate=False)
    samples = _bootstrap_auroc(ranks[:n], ranks[n:], bootstrap, generator)
    ends = torch.tensor([0.5 - level / 2, 0.5 + level / 2], dtype=torch.float64)
    low, high = samples.quantile(ends).tolist()
    return AUROC(
        value=float(roc_auc_score(is_ood, ranks.numpy())),
        low=low,
        high=high,
        fpr_at_95=float(fpr[tpr >= 0.95].min()),
        num_in=n,
        num_ood=len(outside),
    )


def _bootstrap_auroc(
    inside: Tensor, outside: Tensor, resamples: int, generator: torch.Generator
) -> Tensor:
    """Return the AUROC of each resample from ranks, (resamples,)."""
    num_ranks = int(torch.maximum(inside.max(), outside.max())) + 1
    size = max(1, CHUNK // max(num_ranks, len(inside), len(outside)))
    found = []
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        below = _resampled_counts(inside, num_ranks, rows, generator)
        above = _resampled_counts(outside, num_ranks, rows, generator)
        pairs = (above * (below.cumsum(-1) - 0.5 * below)).sum(-1)  # a tie is half a win
        found.append(pairs / (len(inside) * len(outside)))
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
            f"{name!r} should give one number per element, (N,), to at least one {side} "
            f"element; got shape {tuple(value.shape)}: .flatten() it"
        )
    if bool(value.isnan().any()):
        raise ValueError(
            f"{name!r} is NaN for {int(value.isnan().sum())} of {len(value)} {side} "
            "elements; expected numbers: look for 0 / 0 or infinity - infinity in what it was "
            "computed from"
        )
    return value
