"""Columns of a pandas or polars table as checked arrays of numbers."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

REAL = ("floating", "mixed-integer-float", "decimal", "boolean", "empty")
DATES = ("datetime64", "datetime", "date", "timedelta64", "timedelta")


class Column(NamedTuple):
    """A column of N rows.

    Attributes:
        values: int64 or float64, ``(N,)``; 0 where they are missing.
        observed: which are not missing, ``(N,)``.
        categories: what the integers stand for, if that is not themselves.
    """

    values: np.ndarray[Any, Any]
    observed: np.ndarray[Any, Any]
    categories: tuple[Any, ...] | None = None


def hint(name: object, known: Collection[object]) -> str:
    """Return the end of an error for an unknown name.

    >>> hint("subjct", ["subject", "trial"]), hint("rat", ["trial"])
    (": did you mean 'subject'?", ": there are ['trial']")
    """
    close = difflib.get_close_matches(str(name), list(map(str, known)), n=1)
    return f": did you mean {close[0]!r}?" if close else f": there are {list(known)}"


def column_names(df: Any, argument: str, given: Any) -> list[str]:
    """Return the names that an argument gives, one or a list, after checking them.

    Raises:
        ValueError: for no name, one given twice, one that is no column, or several columns.
    """
    from pandas.api.types import is_list_like  # late: slow to load

    names = list(given) if is_list_like(given) else [] if given is None else [given]
    if not names:
        cure = ": for a single session, add a column, session = 0" * (argument == "by")
        raise ValueError(f"{argument} should name at least one column; got none{cure}")
    have = list(df.columns)
    for name in names:
        if name not in have:
            in_index = name is not None and name in getattr(getattr(df, "index", None), "names", ())
            cure = ": it is in the index, reset_index() first" if in_index else hint(name, have)
            raise ValueError(f"{argument} should name columns of the table; got {name!r}{cure}")
        if have.count(name) > 1:
            raise ValueError(
                f"{argument} should name one column each; the table has {have.count(name)} called "
                f"{name!r}: rename them"
            )
        if names.count(name) > 1:
            raise ValueError(f"{argument} should name a column once; got {name!r} again: drop it")
    return names


def check_frame(df: Any) -> None:
    """Check that a table is a pandas or polars DataFrame that has rows.

    Raises:
        TypeError: for anything else.
        ValueError: for no rows.
    """
    import pandas as pd  # late: slow to load

    is_polars = type(df).__module__.startswith("polars.")
    if not isinstance(df, pd.DataFrame) and not (is_polars and hasattr(df, "get_column")):
        cure = "collect() it" if is_polars and hasattr(df, "collect") else "make a DataFrame of it"
        raise TypeError(
            f"df should be a pandas or polars DataFrame; got a {type(df).__name__}: {cure} first"
        )
    if not len(df):
        raise ValueError("df should have a row for each step; got an empty table")


def take_columns(df: Any, names: list[str]) -> pd.DataFrame:
    """Return columns of a table, each once, as a pandas DataFrame."""
    import pandas as pd  # late: slow to load

    names = list(dict.fromkeys(names))
    if isinstance(df, pd.DataFrame):
        return df[names]
    return pd.DataFrame({name: _from_polars(df.get_column(name)) for name in names})


def _from_polars(series: Any) -> Any:
    import pandas as pd  # late: slow to load

    values = series.to_list()  # to_pandas() needs pyarrow
    if str(series.dtype).startswith("Enum"):
        return pd.Categorical(values, categories=series.dtype.categories.to_list())
    # Integers stay exact where some are missing.
    return pd.array(values) if series.null_count() else values


def session_ids(by: pd.DataFrame) -> np.ndarray[Any, Any]:
    """Return the session of each row ``(N,)``, numbered in the order of their first rows.

    Raises:
        ValueError: for a row whose session has no name.
    """
    missing = by.isna().to_numpy().any(1)
    if missing.any():
        raise ValueError(
            f"by={list(by)} should name the session of each row; {missing.sum()} of {len(by)} rows "
            f"lack a value, row {missing.argmax()} first: fill it in, or drop them"
        )
    groups = by.reset_index(drop=True).groupby(list(by), sort=False, observed=True)
    ids = groups.ngroup().to_numpy()
    # Of categories, groupby keeps the order that they declare.
    _, first, dense = np.unique(ids, return_index=True, return_inverse=True)
    ranks: np.ndarray[Any, Any] = first.argsort().argsort()
    return ranks[dense]


def sort_rows(ids: np.ndarray[Any, Any], order: pd.Series | None) -> np.ndarray[Any, Any]:
    """Return the rows ``(N,)`` session after session, the steps of each in order.

    Raises:
        ValueError: for an order that is not numbers or dates, or says nothing of some rows.
    """
    from pandas.api.types import infer_dtype  # late: slow to load

    if order is None:
        return ids.argsort(kind="stable")
    kind = infer_dtype(order, skipna=True)
    if kind not in ("integer", *REAL[:3], *DATES):
        raise ValueError(
            f"order={order.name!r} should be a column of numbers or dates; got {kind} values: "
            "convert them"
        )
    frame = order.reset_index(drop=True).to_frame("step").assign(session=ids)
    for wrong, what in (
        (frame["step"].isna(), "is missing"),
        (frame.duplicated(), "comes again in its session"),
    ):
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            raise ValueError(
                f"order={order.name!r} should order the steps of each session; in row {row} its "
                f"value, {frame['step'][row]}, {what}: correct the column, or name the sessions "
                "by more columns"
            )
    rows: np.ndarray[Any, Any] = frame.sort_values(["session", "step"]).index.to_numpy().copy()
    return rows


def read_column(column: pd.Series, argument: str | None = None) -> Column:
    """Read numbers, booleans, strings or categories; in a list, ``argument``, numbers alone.

    Raises:
        ValueError: for anything else.
    """
    from pandas.api.types import infer_dtype  # late: slow to load

    kind, observed = infer_dtype(column, skipna=True), column.notna().to_numpy()
    if kind in ("string", "categorical") and argument is None:
        codes = column.astype("category").cat
        values = np.where(observed, codes.codes, 0).astype(np.int64)
        return Column(values, observed, tuple(codes.categories))
    if kind != "integer" and kind not in REAL:
        where, wanted, cure = f"column {column.name!r}", "numbers, strings or categories", "convert"
        if argument is not None:
            where, wanted = f"{column.name!r} in {argument}", "numbers, as it is one of a list"
            cure = "give it alone, or the columns of pandas.get_dummies instead of"
        raise ValueError(f"{where} should hold {wanted}; got {kind} values: {cure} them")
    whole = kind == "integer" and argument is None
    values = np.zeros(len(column), np.int64 if whole else np.float64)
    if whole and (column[observed] > np.iinfo(np.int64).max).any():
        raise ValueError(f"column {column.name!r} should fit int64; it has larger integers")
    values[observed] = column[observed].to_numpy(values.dtype)
    missing = np.isnan(values)  # a NaN in a nullable column is none that notna() sees
    return Column(np.where(missing, 0, values), observed & ~missing)


def to_floats(values: Tensor, name: str, dtype: torch.dtype) -> Tensor:
    """Return numbers in a floating dtype.

    Raises:
        ValueError: for finite ones that it cannot hold.
    """
    floats = values.to(dtype)
    if bool((floats.isinf() & ~values.isinf()).any()):
        raise ValueError(
            f"columns[{name!r}] should fit {dtype}; it has values as large as "
            f"{values[values.isfinite()].abs().max():.3g}: rescale them, or take another dtype"
        )
    return floats
