"""Sessions of unequal length: a long table of trials to padded tensors with masks, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.data._table import (
    check_frame,
    column_names,
    hint,
    read_column,
    session_ids,
    sort_rows,
    take_columns,
    to_floats,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Sessions:
    """Sessions of unequal length as padded tensors, S of them with up to T steps.

    Made by ``Sessions.from_frame``. ``sessions["x"]`` is a tensor, ``len(sessions)`` is S.

    Attributes:
        values: the tensors by name, ``(S, T)``, or ``(S, T, D)`` for a list of D columns; 0 at
            padding and where a value is missing.
        observed: which values are real and not missing, by name, each shaped like its tensor. It is
            the mask of an observation, ``poutine.mask(mask=sessions.observed["x"])``; of D columns
            that are one observation, ``sessions.observed["x"].all(-1)``.
        lengths: steps of each session, ``(S,)`` int64.
        rows: the row of the table behind each step, from 0, ``(S, T)`` int64; -1 at padding.
        names: the values of ``by`` for each session, a data frame of S rows.
        table: the values of ``by`` and ``order`` for each row of the table, with its index.
        categories: what the integers of an encoded column stand for, by name.
    """

    values: dict[str, Tensor]
    observed: dict[str, Tensor]
    lengths: Tensor
    rows: Tensor
    names: pd.DataFrame
    table: pd.DataFrame
    categories: dict[str, tuple[Any, ...]]

    @classmethod
    def from_frame(
        cls,
        df: Any,
        *,
        by: str | Sequence[str],
        columns: str | Sequence[str] | Mapping[str, str | Sequence[str]],
        order: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Sessions:
        """Read sessions from a long table, one row for each step.

        Sessions come in the order of their first rows; the rows of one need not lie together.
        Integers become int64; floats and booleans become ``dtype``, and so do the numbers of a list
        of columns. Strings and categoricals become int64 positions in ``categories``: those that a
        categorical declares, or the sorted strings. Missing are NaN, None and ``pandas.NA``.

        Args:
            df: a pandas or polars DataFrame.
            by: the columns whose values together name a session.
            columns: the columns that become tensors, each ``(S, T)``. Of a mapping each entry
                becomes a tensor: a column ``(S, T)``, a list of D columns ``(S, T, D)``.
            order: a column of numbers or dates that orders the steps of a session; without one, the
                rows do.
            dtype: of floats; torch's default dtype without one.

        Raises:
            TypeError: for what is no data frame.
            ValueError: for an empty table; a column that is not there, there twice or given twice;
                a missing value in ``by``; an ``order`` that is missing or comes twice in a session;
                a column of values of another kind, or too large for ``dtype``.

        >>> import pandas as pd
        >>> df = pd.DataFrame({"rat": ["b", "a", "b"], "x": [0.5, None, 1.5], "y": [1, 0, 1]})
        >>> sessions = Sessions.from_frame(df, by="rat", columns=["x", "y"])
        >>> sessions, sessions.lengths
        (Sessions(2 of up to 2 steps: x (2, 2), y (2, 2)), tensor([2, 1]))
        >>> sessions["x"]
        tensor([[0.5000, 1.5000],
                [0.0000, 0.0000]])
        >>> sessions.observed["x"]
        tensor([[ True,  True],
                [False, False]])
        """
        from pandas.api.types import is_list_like  # late: slow to load

        dtype = torch.get_default_dtype() if dtype is None else dtype
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ValueError(f"dtype should be a floating one of torch; got {dtype!r}")
        check_frame(df)
        key, steps = column_names(df, "by", by), []
        if order is not None and len(steps := column_names(df, "order", order)) > 1:
            raise ValueError(f"order should be the name of one column; got {steps}")
        if not isinstance(columns, Mapping):
            columns = {name: name for name in column_names(df, "columns", columns)}
        if not columns:
            raise ValueError("columns should name at least one column; got none")
        groups = {name: column_names(df, f"columns[{name!r}]", c) for name, c in columns.items()}
        frame = take_columns(df, [*key, *steps, *(c for group in groups.values() for c in group)])
        ids = session_ids(frame[key])
        rows = torch.from_numpy(sort_rows(ids, frame[steps[0]] if steps else None))
        lengths = torch.from_numpy(np.bincount(ids))
        mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(-1)

        def padded(by_row: Tensor, filler: int = 0) -> Tensor:
            out = by_row.new_full((*mask.shape, *by_row.shape[1:]), filler)
            out[mask] = by_row[rows]
            return out

        values, observed, categories = {}, {}, {}
        for name, group in groups.items():
            listed = is_list_like(columns[name])
            argument = f"columns[{name!r}]" if listed else None
            read = [read_column(frame[column], argument) for column in group]
            found = torch.from_numpy(np.stack([column.values for column in read], -1))
            seen = torch.from_numpy(np.stack([column.observed for column in read], -1))
            if found.is_floating_point():
                found = to_floats(found, name, dtype)
            values[name], observed[name] = (padded(v if listed else v[:, 0]) for v in (found, seen))
            if read[0].categories is not None:
                categories[name] = read[0].categories
        first = np.unique(ids, return_index=True)[1]
        return cls(
            values=values,
            observed=observed,
            lengths=lengths,
            rows=padded(torch.arange(len(frame)), -1),
            names=frame[key].iloc[first].reset_index(drop=True),
            table=frame[list(dict.fromkeys([*key, *steps]))].copy(),
            categories=categories,
        )

    @property
    def mask(self) -> Tensor:
        """Which steps are real, not padding: ``(S, T)``."""
        return self.rows >= 0

    @property
    def num_steps(self) -> int:
        """How many real steps all sessions have together."""
        return int(self.lengths.sum())

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.values:
            raise KeyError(f"{name!r} is no tensor of these sessions{hint(name, self.values)}")
        return self.values[name]

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(v.shape)}" for name, v in self.values.items())
        return f"Sessions({len(self)} of up to {self.rows.shape[1]} steps: {shapes})"

    def select(self, index: Any) -> Sessions:
        """Return some of the sessions, padded to the longest of them; categories stay the same.

        Args:
            index: positions of sessions, a slice, or a mask ``(S,)``; a session may come again.

        Raises:
            ValueError: for no session, or one that is not there.

        >>> import pandas as pd
        >>> df = pd.DataFrame({"rat": ["b", "a", "b"], "x": [0.5, 2.5, 1.5]})
        >>> Sessions.from_frame(df, by="rat", columns="x").select([1])["x"]
        tensor([[2.5000]])
        """
        at, why = np.empty(0, int), ""
        try:
            where = index if isinstance(index, slice) else np.asarray(index)
            if isinstance(where, slice) or where.size:  # numpy takes [] for floats
                at = np.atleast_1d(np.arange(len(self))[where])
        except IndexError as error:
            why = f": {error}"
        if at.ndim != 1 or not at.size:
            raise ValueError(
                f"index should select sessions, by positions from 0 to {len(self) - 1} or a mask "
                f"({len(self)},); got {index!r}{why}"
            )
        found, longest = torch.from_numpy(at.copy()), int(self.lengths[at].max())
        return replace(
            self,
            values={name: v[found, :longest] for name, v in self.values.items()},
            observed={name: v[found, :longest] for name, v in self.observed.items()},
            lengths=self.lengths[found],
            rows=self.rows[found, :longest],
            names=self.names.iloc[at].reset_index(drop=True),
        )

    def to_frame(self, values: Mapping[str, Any]) -> pd.DataFrame:
        """Return values of steps as a pandas data frame, in the order of the table's rows.

        It has the table's index, ``by`` and ``order``; padding and sessions that were not selected
        are left out.

        Args:
            values: tensors or arrays by name: ``(S, T)`` becomes a column, ``(S, T, D)`` the
                columns ``<name>_0`` .. ``<name>_{D-1}``.

        Raises:
            ValueError: for another shape, and for the name of another column.

        >>> import pandas as pd
        >>> df = pd.DataFrame({"rat": ["b", "a", "b"], "x": [0.5, 2.5, 1.5]}, index=[7, 8, 9])
        >>> sessions = Sessions.from_frame(df, by="rat", columns="x")
        >>> print(sessions.to_frame({"double": 2 * sessions["x"]}))
          rat  double
        7   b     1.0
        8   a     5.0
        9   b     3.0
        """
        mask, rows = self.mask.numpy(), self.rows[self.mask].numpy()
        sort = rows.argsort(kind="stable")
        frame = self.table.iloc[rows[sort]].copy()
        for name, value in values.items():
            array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
            if array.shape[:2] != mask.shape or array.ndim > 3:
                raise ValueError(
                    f"values[{name!r}] should be {mask.shape}, or that and one dimension more, for "
                    f"{self}; got {array.shape}"
                )
            by_row = array[mask][sort]
            split = {f"{name}_{d}": v for d, v in enumerate(by_row.T)} if array.ndim == 3 else {}
            for column, found in (split or {name: by_row}).items():
                if column in frame:
                    raise ValueError(
                        f"values should not be called {column!r}, like another column: rename it"
                    )
                frame[column] = found
        return frame
