"""Linear maps of features to unit size, and to unit noise within each class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor

LEAST = 1e-6  # the smallest noise variance that is assumed, as a share of a feature's variance


@dataclass(frozen=True)
class Scaling:
    """A linear map to features of unit size, y = (x - centre) W'.

    Attributes:
        centre: ``(d,)``.
        matrix: W, ``(d, d)``, lower triangular.
    """

    centre: np.ndarray
    matrix: np.ndarray

    def __call__(self, X: np.ndarray) -> Tensor:
        """Return y, ``(n, d)`` float64."""
        return torch.from_numpy((X - self.centre) @ self.matrix.T)

    @property
    def log_det(self) -> float:
        """Log of the determinant of W: log p(x) = log p(y) + log det W."""
        return float(np.log(np.diagonal(self.matrix)).sum())


def centre_and_size(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each feature, 1 for a constant one."""
    centre = X.mean(0)
    size = X.std(0)
    # Rounding of the mean leaves a little of a constant feature.
    constant = size <= 10 * np.finfo(float).eps * np.abs(centre)
    return centre, np.where(constant, 1.0, size)


def whitening(X: np.ndarray, labels: np.ndarray, *, full: bool) -> Scaling:
    """Return the map after which the noise within classes has about unit covariance.

    The covariance is that of Ledoit and Wolf (2004, A well-conditioned estimator for
    large-dimensional covariance matrices, Journal of Multivariate Analysis 88), of features that
    were brought to unit size.

    Args:
        X: ``(n, d)``.
        labels: ids of classes, ``(n,)``.
        full: whether the noise of features correlates.
    """
    centre, size = centre_and_size(X)
    scaled = (X - centre) / size
    means = np.stack([scaled[labels == k].mean(0) for k in range(labels.max() + 1)])
    rest = scaled - means[labels]
    covariance = ledoit_wolf(rest, assume_centered=True)[0] if full else np.diag((rest**2).mean(0))
    root = np.linalg.cholesky(covariance + LEAST * np.eye(len(size)))
    return Scaling(centre, np.linalg.inv(root) / size)
