"""Tables of sessions to padded tensors and back; padding changes no number."""

import math
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from pyro_models import TASK
from torch import Tensor

from gbi_pyro import BayesFilter, Enumeration, Sessions, TaskChain

SETTINGS = {"deadline": None, "derandomize": True, "database": None}
MISSING = [None, math.nan, pd.NA]
MEANS = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
LOG_INITIAL = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
LOG_TRANSITION = torch.tensor(
    [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.1, 0.6]], dtype=torch.float64
).log()
READS: dict[str, Any] = {"x": "x", "n": "n", "who": "who", "u": ["x", "n", "b"]}


def table(**columns: Any) -> pd.DataFrame:
    """Four rows of three sessions: b, a, b, c."""
    by = {"rat": ["b", "a", "b", "c"], "day": [1, 1, 1, 2], "x": [0.5, 1.5, 2.5, 3.5]}
    return pd.DataFrame({**by, **columns})


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    """Rows of ragged sessions in any order, with missing values of each kind and any index."""
    size = draw(st.integers(1, 15))

    def column(values: st.SearchStrategy[Any], dtype: str, *, missing: bool = True) -> pd.Series:
        either = st.one_of(values, st.sampled_from(MISSING)) if missing else values
        found = draw(st.lists(either, min_size=size, max_size=size))
        if dtype == "float64":
            found = [math.nan if v is pd.NA else v for v in found]
        return pd.Series(found, dtype=dtype)

    df = pd.DataFrame(
        {
            "rat": column(st.sampled_from("abc"), "object", missing=False),
            "day": column(st.integers(0, 2), "int64", missing=False),
            "x": column(st.floats(-3, 3), draw(st.sampled_from(["float64", "Float64", "object"]))),
            "n": column(st.integers(-(2**62), 2**62), draw(st.sampled_from(["Int64", "object"]))),
            "who": column(st.sampled_from(["left", "right", ""]), "object"),
            "b": column(st.booleans(), "boolean"),
            "trial": draw(st.permutations(range(size))),
        }
    )
    return df.set_index(pd.Index(draw(st.lists(st.integers(), min_size=size, max_size=size))))


def read(df: pd.DataFrame, order: str | None = None) -> Sessions:
    return Sessions.from_frame(
        df, by=["rat", "day"], columns=READS, order=order, dtype=torch.float64
    )


def model(x: Tensor, mask: Tensor) -> None:
    sessions = pyro.plate("session", x.shape[0], dim=-2)
    with sessions, pyro.plate("time", x.shape[1], dim=-1):
        z = pyro.sample("z", dist.OneHotCategorical(logits=LOG_INITIAL), infer=TASK)
        with poutine.mask(mask=mask):
            pyro.sample("x", dist.Normal(z @ MEANS, 1.0), obs=x)


# The tensors


@settings(max_examples=30, **SETTINGS)
@given(tables(), st.sampled_from([None, "trial"]))
def test_every_step_holds_the_value_of_its_row(df: pd.DataFrame, order: str | None) -> None:
    sessions = read(df, order)
    by_hand = list(df.reset_index(drop=True).groupby(["rat", "day"], sort=False))
    assert len(sessions) == len(by_hand)
    assert sessions.num_steps == len(df) == int(sessions.mask.sum())
    assert sessions["x"].shape == sessions.mask.shape == (len(by_hand), sessions.lengths.max())
    for s, ((rat, day), rows) in enumerate(by_hand):
        assert tuple(sessions.names.iloc[s]) == (rat, day)
        assert sessions.lengths[s] == len(rows)
        steps = rows if order is None else rows.sort_values(order)
        assert sessions.rows[s].tolist() == [*steps.index, *[-1] * int((~sessions.mask[s]).sum())]
        for t, row in enumerate(steps.index):
            for name in ("x", "n", "who"):
                value, code = steps[name][row], sessions[name][s, t].item()
                assert sessions.observed[name][s, t] == (not pd.isna(value))
                if pd.isna(value):
                    assert code == 0
                else:
                    assert value == (sessions.categories["who"][code] if name == "who" else code)
            vector = [0.0 if pd.isna(v := steps[c][row]) else float(v) for c in ("x", "n", "b")]
            assert sessions["u"][s, t].tolist() == vector
            assert sessions.observed["u"][s, t].tolist() == [
                not pd.isna(steps[c][row]) for c in ("x", "n", "b")
            ]
    for name in READS:
        padding = ~sessions.mask
        assert not sessions[name][padding].any()
        assert not sessions.observed[name][padding].any()
    assert sessions["n"].dtype in (torch.int64, torch.float64)  # floats where all are missing
    assert sessions["u"].dtype == sessions["x"].dtype == torch.float64
    who = sessions.categories.get("who", ())  # none where all are missing
    assert who == tuple(sorted(df["who"].dropna().unique()))


@settings(max_examples=20, **SETTINGS)
@given(tables(), st.sampled_from([None, "trial"]))
def test_to_frame_goes_back_to_the_rows(df: pd.DataFrame, order: str | None) -> None:
    sessions = read(df, order)
    back = sessions.to_frame({**sessions.values, "seen": sessions.observed["x"].numpy()})
    assert back.index.equals(df.index)
    first = ["rat", "day", *([] if order is None else [order])]
    assert list(back) == [*first, "x", "n", "who", "u_0", "u_1", "u_2", "seen"]
    pd.testing.assert_frame_equal(back[first], df[first])
    np.testing.assert_array_equal(back["seen"], df["x"].notna())
    for name in ("x", "n"):
        expected = [0 if pd.isna(v) else v for v in df[name]]
        assert back[name].tolist() == expected
    np.testing.assert_array_equal(back["u_0"], back["x"])


@settings(max_examples=20, **SETTINGS)
@given(tables(), st.data())
def test_selected_sessions_are_those_of_their_rows_alone(
    df: pd.DataFrame, data: st.DataObject
) -> None:
    sessions = read(df)
    mask = data.draw(st.lists(st.booleans(), min_size=len(sessions), max_size=len(sessions)))
    mask[data.draw(st.integers(0, len(sessions) - 1))] = True
    part = sessions.select(torch.tensor(mask))
    kept = sessions.rows[torch.tensor(mask)]
    rows = sorted(kept[kept >= 0].tolist())
    kinds = {c: pd.CategoricalDtype(found) for c, found in sessions.categories.items()}
    alone = read(df.iloc[rows].astype(kinds))
    assert part.categories == alone.categories == sessions.categories
    pd.testing.assert_frame_equal(part.names, alone.names)
    assert torch.equal(part.lengths, alone.lengths)
    for name in READS:
        # A column all missing among the rows may have another dtype, and is 0 in any.
        torch.testing.assert_close(part[name], alone[name], rtol=0, atol=0, check_dtype=False)
        assert torch.equal(part.observed[name], alone.observed[name])
    frame = part.to_frame({"x": part["x"]})
    pd.testing.assert_frame_equal(frame, alone.to_frame({"x": alone["x"]}))


def test_a_session_may_be_selected_again_and_in_any_order() -> None:
    sessions = Sessions.from_frame(table(), by="rat", columns="x")
    again = sessions.select([2, 0, 2])
    assert again["x"].tolist() == [[3.5, 0.0], [0.5, 2.5], [3.5, 0.0]]
    assert again.names["rat"].tolist() == ["c", "b", "c"]
    assert again.to_frame({"v": again["x"]}).index.tolist() == [0, 2, 3, 3]
    assert sessions.select(-1)["x"].tolist() == sessions.select(slice(2, None))["x"].tolist()


@pytest.mark.parametrize("index", [[], [3], [-4], [[0]], [True], 0.5, slice(3, None), None])
def test_an_index_that_selects_no_session_is_refused(index: Any) -> None:
    sessions = Sessions.from_frame(table(), by="rat", columns="x")
    with pytest.raises(ValueError, match=r"positions from 0 to 2 or a mask \(3,\); got"):
        sessions.select(index)


def test_kinds_of_columns() -> None:
    df = table(
        i=np.arange(4, dtype=np.int8),
        b=[True, False, True, True],
        mood=pd.Categorical(["low", None, "high", "low"], ["low", "mid", "high"]),
        rat=pd.Categorical(["b", "a", "b", "c"]),
        none=[None] * 4,
        day=[date(2020, 1, d) for d in (2, 1, 1, 1)],
    )
    columns = ["i", "b", "mood", "rat", "none", "x"]
    sessions = Sessions.from_frame(df, by="rat", columns=columns, order="day")
    assert sessions.rows.tolist() == [[2, 0], [1, -1], [3, -1]]
    assert [sessions[c].dtype for c in columns] == [
        torch.int64, torch.float32, torch.int64, torch.int64, torch.float32, torch.float32
    ]  # fmt: skip
    assert sessions.categories == {"mood": ("low", "mid", "high"), "rat": ("a", "b", "c")}
    assert sessions["mood"].tolist() == [[2, 0], [0, 0], [0, 0]]
    assert sessions.observed["mood"].tolist() == [[True, True], [False, False], [True, False]]
    assert not sessions.observed["none"].any()
    assert list(sessions) == columns
    assert "x (3, 2)" in repr(sessions)


def test_a_dtype_is_that_of_floats_alone() -> None:
    df = table(i=[1, 2, 3, 4])
    wide = Sessions.from_frame(df, by="rat", columns=["x", "i"], dtype=torch.float64)
    assert (wide["x"].dtype, wide["i"].dtype) == (torch.float64, torch.int64)
    one = Sessions.from_frame(df, by="rat", columns={"u": ["i"]}, dtype=torch.float64)
    assert (one["u"].dtype, one["u"].shape) == (torch.float64, (3, 2, 1))


def test_what_is_read_is_a_copy() -> None:
    df = table()
    sessions = Sessions.from_frame(df, by="rat", columns="x")
    sessions["x"][:] = -1
    df["rat"] = "z"
    assert df["x"].tolist() == [0.5, 1.5, 2.5, 3.5]
    assert sessions.to_frame({})["rat"].tolist() == ["b", "a", "b", "c"]


def test_an_index_may_be_named_like_a_column() -> None:
    df = table().set_index(pd.Index([3, 1, 2, 0], name="rat"))
    sessions = Sessions.from_frame(df, by="rat", columns="x")
    assert sessions["x"].tolist() == [[0.5, 2.5], [1.5, 0.0], [3.5, 0.0]]
    assert sessions.to_frame({}).index.equals(df.index)


def test_a_polars_frame_gives_the_same_sessions() -> None:
    pl = pytest.importorskip("polars")
    data = {
        "rat": ["b", "a", "b"],
        "i": [2**60 + 1, None, 1],
        "x": [0.5, None, math.nan],
        "b": [True, None, False],
        "word": ["v", None, "u"],
        "day": [date(2020, 1, 2), date(2020, 1, 1), date(2020, 1, 1)],
    }
    df = pl.DataFrame(data).with_columns(
        mood=pl.Series(["low", None, "high"], dtype=pl.Enum(["low", "mid", "high"])),
        code=pl.col("word").cast(pl.Categorical),
    )
    same = pd.DataFrame({c: pd.array(v) if c in "ib" else v for c, v in data.items()}).assign(
        mood=pd.Categorical(["low", None, "high"], ["low", "mid", "high"]),
        code=pd.Categorical(data["word"]),
    )
    columns = ["i", "x", "b", "word", "mood", "code"]
    found, expected = (
        Sessions.from_frame(f, by="rat", columns=columns, order="day") for f in (df, same)
    )
    assert found["i"].tolist() == [[1, 2**60 + 1], [0, 0]]
    assert found.categories == expected.categories
    for name in columns:
        assert torch.equal(found[name], expected[name])
        assert torch.equal(found.observed[name], expected.observed[name])
    frame = found.to_frame({"x": found["x"]})
    pd.testing.assert_frame_equal(frame, expected.to_frame({"x": expected["x"]}))
    with pytest.raises(TypeError, match="got a LazyFrame: collect"):
        Sessions.from_frame(df.lazy(), by="rat", columns="x")
    with pytest.raises(ValueError, match="empty table"):
        Sessions.from_frame(df.head(0), by="rat", columns="x")


# Models


@settings(max_examples=8, **SETTINGS)
@given(tables(), st.sampled_from(["filtered", "predicted", "smoothed", None]))
def test_padding_changes_no_number(df: pd.DataFrame, output: Any) -> None:
    sessions = read(df)
    infer: Any = Enumeration()
    if output is not None:
        infer = BayesFilter(infer, TaskChain(LOG_INITIAL, LOG_TRANSITION), output)
    together = infer(model, sessions["x"], sessions.observed["x"])
    frame = together.to_dataframe(sessions=sessions)
    evidence = 0.0
    for s in range(len(sessions)):
        one = sessions.select([s])
        assert bool(one.mask.all())
        alone = infer(model, one["x"], one.observed["x"])
        steps = int(one.lengths)
        torch.testing.assert_close(
            together.probs()[s, :steps], alone.probs()[0], rtol=0, atol=1e-12
        )
        assert alone.total_log_evidence is not None
        evidence += alone.total_log_evidence
        rows = frame.iloc[one.rows[0].numpy()]
        pd.testing.assert_frame_equal(rows, alone.to_dataframe(sessions=one))
    assert together.total_log_evidence == pytest.approx(evidence, abs=1e-11)


# Errors


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"columns": "xs"}, r"columns should name columns of.*got 'xs': did you mean 'x'\?"),
        ({}, {"by": "subject"}, r"by should name.*got 'subject': there are \['rat', 'day', 'x'\]"),
        ({}, {"order": "trial"}, "order should name columns of the table; got 'trial'"),
        ({}, {"columns": {"u": ["x", "y"]}}, r"columns\['u'\] should name.*'y': there"),
        ({}, {"by": []}, "by should name at least one column.*for a single session, add a column"),
        ({}, {"by": None}, "by should name at least one column"),
        ({}, {"columns": []}, "columns should name at least one column; got none"),
        ({}, {"columns": {}}, "columns should name at least one column; got none"),
        ({}, {"columns": {"u": []}}, r"columns\['u'\] should name at least one column"),
        ({}, {"by": ["rat", "rat"]}, "by should name a column once; got 'rat' again: drop it"),
        ({}, {"columns": ["x", "x"]}, "columns should name a column once; got 'x' again"),
        ({}, {"order": ["x", "day"]}, r"order should be the name of one column; got \['x'"),
        ({}, {"dtype": torch.int64}, r"dtype should be a floating one of torch; got torch\.int64"),
        ({}, {"dtype": float}, "dtype should be a floating one of torch; got <class 'float'>"),
        ({"rat": ["b", None, "b", None]}, {}, r"2 of 4 rows lack a value, row 1 first: fill"),
        ({"day": [1, 1, 1, 2]}, {"order": "day"}, "in row 2 its value, 1, comes again in its ses"),
        ({"day": [1, None, 2, 2]}, {"order": "day"}, "in row 1 its value, nan, is missing"),
        ({"day": list("2314")}, {"order": "day"}, "numbers or dates; got string values: convert"),
        ({"x": [1, "a", 2, 3]}, {}, "column 'x' should hold numbers.*mixed-integer values"),
        ({"x": [1j, 1, 2, 3]}, {}, "column 'x' should hold numbers.*got complex values"),
        ({"x": pd.to_datetime(["2020"] * 4)}, {}, "column 'x' should hold.*datetime64 values"),
        ({"x": list("abcd")}, {"columns": {"u": ["day", "x"]}}, r"'x' in columns\['u'\] should "
         "hold numbers, as it is one of a list; got string values.*get_dummies"),
        ({"x": [1e300] * 4}, {}, r"columns\['x'\] should fit torch\.float32.*1e\+300: rescale"),
        ({"x": [2**63] * 4}, {}, "column 'x' should fit int64"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_read_is_named(
    change: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Sessions.from_frame(table(**change), **{"by": "rat", "columns": "x", **options})


def test_tables_without_rows_or_with_several_columns_of_a_name_are_refused() -> None:
    options: dict[str, Any] = {"by": "rat", "columns": "x"}
    with pytest.raises(ValueError, match="a row for each step; got an empty table"):
        Sessions.from_frame(table().head(0), **options)
    with pytest.raises(ValueError, match=r"columns should name one column each.*2 called 'x'"):
        Sessions.from_frame(table().rename(columns={"day": "x"}), **options)
    with pytest.raises(ValueError, match=r"'rat': it is in the index, reset_index\(\) first"):
        Sessions.from_frame(table().set_index("rat"), **options)
    with pytest.raises(TypeError, match="a pandas or polars DataFrame; got a dict: make a DataFr"):
        Sessions.from_frame({"rat": [1], "x": [1]}, **options)


def test_values_of_another_shape_and_names_that_are_taken_are_refused() -> None:
    sessions = Sessions.from_frame(table(), by="rat", columns="x")
    with pytest.raises(ValueError, match=r"values\['v'\] should be \(3, 2\), or.*got \(2, 3\)"):
        sessions.to_frame({"v": sessions["x"].T})
    with pytest.raises(ValueError, match=r"should be \(3, 2\), or.*got \(3, 2, 1, 1\)"):
        sessions.to_frame({"v": sessions["x"][..., None, None]})
    for values in ({"rat": sessions["x"]}, {"v": torch.ones(3, 2, 1), "v_0": sessions["x"]}):
        with pytest.raises(ValueError, match=r"should not be called '(rat|v_0)', like another"):
            sessions.to_frame(values)
    with pytest.raises(KeyError, match="'xs' is no tensor of these sessions: did you mean 'x'"):
        sessions["xs"]
