"""A Gaussian of features in closed form, from sums over images that are seen once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gbi_pyro.models.feature_gaussian import FeatureGaussian

CHUNK = 500  # images at a time


class FeatureMoments(NamedTuple):
    """Sums over features, by task and prototype.

    Attributes:
        centre: what is subtracted from all features first, against rounding, ``(D,)``.
        counts: n_kj, the sum of the weights of each prototype, ``(K, J)``.
        sums: of the centred features, ``(K, J, D)``.
        squares: sum of the outer products of all, ``(D, D)``.
    """

    centre: Tensor
    counts: Tensor
    sums: Tensor
    squares: Tensor

    @classmethod
    def of(cls, features: Tensor, q: Tensor) -> FeatureMoments:
        """Sum features ``(N, D)`` with weights ``(N, K, J)``, such as responsibilities."""
        centre = features.mean(0)
        a = features - centre
        return cls(centre, q.sum(0), torch.einsum("nkj,nd->kjd", q, a), a.mT @ a)

    def covariance(self) -> Tensor:
        """Return the covariance within prototypes, ``(D, D)``, float64."""
        n = self.counts.double()
        between = self.sums.double() / n.clamp_min(torch.finfo(n.dtype).tiny).sqrt().unsqueeze(-1)
        flat = between.flatten(0, 1)
        return (self.squares.double() - flat.mT @ flat) / n.sum()

    def without_tasks(self) -> FeatureMoments:
        """Return the sums of all features as one; twice, for a model has two tasks or more."""
        counts, sums = self.counts.sum().reshape(1, 1), self.sums.sum((0, 1)).reshape(1, 1, -1)
        halves = (counts / 2).expand(2, 1), (sums / 2).expand(2, 1, -1)
        return FeatureMoments(self.centre, *halves, self.squares)

    def gaussian(
        self, phi: nn.Module, shrinkage: float, image_shape: tuple[int, ...] | None = None
    ) -> FeatureGaussian:
        """Return the most probable model, its covariance shrunk towards its diagonal.

        S_s = (1 - s) S + s diag(S), with S the covariance within prototypes; the prior over tasks
        and the weights of the prototypes are the shares of the counts.

        Args:
            phi: the features that the sums are of.
            shrinkage: s, from 0 to 1.
            image_shape: see ``FeatureGaussian``.

        Raises:
            ValueError: for another shrinkage, a task without images, or a covariance that is not
                positive definite.
        """
        if not 0 <= shrinkage <= 1:
            raise ValueError(f"shrinkage must be between 0 and 1, got {shrinkage}")
        totals = self.counts.sum(-1)
        if not totals.gt(0).all():
            empty = totals.le(0).nonzero().flatten().tolist()
            raise ValueError(f"tasks {empty} have no images, expected one or more of each task")
        covariance = self.covariance()
        diagonal = covariance.diagonal().clone()
        covariance.mul_(1 - shrinkage).diagonal().copy_(diagonal)
        L, failed = torch.linalg.cholesky_ex(covariance)
        if not covariance.diagonal().isfinite().all():
            raise ValueError("features should be finite; they hold NaN or infinite numbers")
        if failed:
            raise ValueError(
                f"the covariance of {len(covariance)} features, shrunk by {shrinkage}, is not "
                "positive definite: take more shrinkage, and leave out features that are constant"
            )
        # A prototype without images has weight 0, and may lie anywhere.
        means = self.sums / self.counts.clamp_min(torch.finfo(self.counts.dtype).tiny).unsqueeze(-1)
        return FeatureGaussian(
            phi,
            means + self.centre,
            L.to(means),
            image_shape=image_shape,
            weights=self.counts / totals.unsqueeze(-1),
            log_prior=(totals / totals.sum()).log(),
        )


@torch.no_grad()
def feature_moments(
    phi: nn.Module, x: Tensor, y: Tensor, num_tasks: int, *, mirror: bool = False
) -> FeatureMoments:
    """Sum the features of images, some at a time: none are kept.

    Args:
        phi: from images to features ``(N, D)``.
        x: images, ``(N,) + image_shape``.
        y: their tasks, ``(N,)``.
        num_tasks: K.
        mirror: whether each image counts a second time, its left and right exchanged.

    Raises:
        ValueError: for other numbers of images than of tasks, or tasks that are none.

    >>> x = torch.tensor([[0.0], [2.0], [5.0], [7.0]])
    >>> model = feature_moments(nn.Identity(), x, torch.tensor([0, 0, 1, 1]), 2).gaussian(
    ...     nn.Identity(), shrinkage=0.0
    ... )
    >>> model.means.flatten().tolist(), model.scale_tril.item()
    ([1.0, 6.0], 1.0)
    """
    if y.shape != (len(x),) or not len(x):
        raise ValueError(
            f"{len(x)} images and tasks of shape {tuple(y.shape)}, expected one task an image"
        )
    if y.is_floating_point() or not 0 <= int(y.min()) <= int(y.max()) < num_tasks:
        raise ValueError(
            f"tasks should be integers from 0 to {num_tasks - 1}, got {y.dtype} from {y.min()} to "
            f"{y.max()}"
        )
    centre = sums = squares = None
    for part, tasks in _chunks(x, y, mirror):
        a = phi(part)
        if centre is None or sums is None or squares is None:
            centre = a.mean(0)
            sums = a.new_zeros(num_tasks, a.shape[-1])
            squares = a.new_zeros(a.shape[-1], a.shape[-1])
        a = a - centre
        sums.index_add_(0, tasks, a)
        squares.addmm_(a.mT, a)
    assert centre is not None
    assert sums is not None
    assert squares is not None
    counts = torch.bincount(y, minlength=num_tasks).to(sums) * (2 if mirror else 1)
    return FeatureMoments(centre, counts.unsqueeze(-1), sums.unsqueeze(1), squares)


def _chunks(x: Tensor, y: Tensor, mirror: bool) -> Iterable[tuple[Tensor, Tensor]]:
    for part, tasks in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
        yield part, tasks
        if mirror:
            yield part.flip(-1), tasks
