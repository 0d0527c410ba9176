"""Rows of a table as padded sequences, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.data import Sessions

SESSION = "session"


@dataclass(frozen=True)
class Rows:
    """Rows ``(n, d)`` as S sequences of up to T steps.

    Attributes:
        values: ``(S, T, d)`` float64, 0 at padding.
        real: which steps are no padding, ``(S, T)``.
        at: the row of each real step, ``(n,)``.
    """

    values: Tensor
    real: Tensor
    at: Tensor

    @classmethod
    def of(cls, X: np.ndarray, sessions: Any) -> Rows:
        """Put rows into their sequences.

        Args:
            X: ``(n, d)``.
            sessions: an id for each row, ``(n,)``.
        """
        import pandas as pd  # late: slow to load

        names = [f"x{i}" for i in range(X.shape[1])]
        frame = pd.DataFrame(X, columns=names)
        frame[SESSION] = np.asarray(sessions)
        found = Sessions.from_frame(frame, by=SESSION, columns={"x": names}, dtype=torch.float64)
        return cls(found["x"], found.mask, found.rows[found.mask])

    def back(self, steps: Tensor) -> np.ndarray:
        """Return what belongs to steps, ``(S, T, ...)``, in the order of the rows, ``(n, ...)``."""
        real = steps[self.real]
        by_row = torch.empty_like(real)
        by_row[self.at] = real
        return by_row.numpy()


def take_session(X: Any, column: str | None) -> tuple[Any, np.ndarray | None]:
    """Split a data frame into its features and its column of session ids.

    Raises:
        ValueError: for an X without that column.
    """
    if column is None:
        return X, None
    if column not in (known := list(getattr(X, "columns", []))):
        raise ValueError(
            f"session={column!r} should name a column of the data frame X; got a "
            f"{type(X).__name__} with columns {known}: give a frame that has it, or leave session "
            "out and give lengths"
        )
    return X[[name for name in known if name != column]], np.asarray(X[column])


def sessions_of(lengths: Any, num_rows: int) -> np.ndarray:
    """Return an id for each row, from the lengths of sessions that follow each other.

    Raises:
        ValueError: for lengths that are no whole numbers, or do not sum to the number of rows.
    """
    if lengths is None:
        return np.zeros(num_rows, dtype=int)
    steps = np.asarray(lengths)
    fits = steps.ndim == 1 and steps.dtype.kind in "iu" and bool((steps > 0).all())
    if not fits or steps.sum() != num_rows:
        raise ValueError(
            f"lengths should be numbers of steps, whole and positive, that sum to the {num_rows} "
            f"rows of X; got {steps.tolist()}"
        )
    return np.repeat(np.arange(len(steps)), steps)
