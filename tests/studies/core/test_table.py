import io
import math

import numpy as np
import pytest
from rich.console import Console

from gbi_pyro.metrics.intervals import student_interval
from gbi_pyro.metrics.table import format_number
from studies.core.table import Row, Target, markdown_table, print_table, targets_first


def test_mean_and_standard_error_are_those_of_numpy():
    values = np.random.default_rng(0).normal(size=7)
    row = Row.of("T9", "error", values)
    assert row.mean == pytest.approx(values.mean())
    assert row.sem == pytest.approx(values.std(ddof=1) / math.sqrt(7))


@pytest.mark.parametrize(
    ("target", "values", "reached"),
    [
        (Target(0.2), (0.1, 0.3), True),
        (Target(0.19), (0.1, 0.3), False),
        (Target(0.2, "median"), (0.1, 0.2, 9.0), True),
        (Target(0.2, "worst"), (0.1, 0.21), False),
        (Target(5.0, "worst", at_least=True), (5.0, 6.0), True),
        (Target(5.0, "worst", at_least=True), (4.9, 6.0), False),
    ],
)
def test_a_target_is_compared_with_its_statistic(target, values, reached):
    assert target.reached(np.array(values)) is reached
    assert Row("", "", values, target).verdict == ("reached" if reached else "not reached")


@pytest.mark.parametrize("statistic", ["mean", "median", "worst"])
def test_a_missing_value_never_reaches_a_target(statistic):
    assert not Target(1.0, statistic).reached(np.array([0.5, np.nan]))
    assert not Target(0.0, statistic, at_least=True).reached(np.array([0.5, np.nan]))


def test_a_row_without_a_target_has_no_verdict():
    row = Row("T5", "error", (0.1,))
    assert (row.verdict, row.measured) == ("", "")
    assert math.isnan(row.sem)


def test_what_is_not_a_number_is_null_in_the_file():
    as_dict = Row("T5", "error", (float("nan"),)).as_dict()
    assert as_dict["mean"] is None
    assert as_dict["values"] == [None]


@pytest.mark.parametrize("value", [0.00012345, 1.2345, 123.45, 99999.0, 1e-9, -0.5, 3.0])
def test_a_number_is_written_to_three_digits(value):
    assert float(format_number(value)) == pytest.approx(value, rel=0.05 if value < 1e-4 else 0.005)


def test_every_row_stands_in_both_tables():
    rows = [
        Row("T9", "error, GBI", (0.01, 0.02), Target(0.015), "a note"),
        Row("M7", "max |one step - exact|", (1.0,), Target(1e-6, "worst")),
    ]
    out = io.StringIO()
    print_table("title", rows, Console(file=out, width=100))
    text, markdown = out.getvalue(), markdown_table(rows)
    for words in (
        "error, GBI",
        "a note",
        "0.0150 ± 0.00500",
        "mean 0.0150 <= 0.015",
        "not reached",
    ):
        assert words in text
        assert words in markdown
    assert "max |one step - exact|" in text
    assert len(markdown.splitlines()) == 4


@pytest.mark.parametrize(("statistic", "reached"), [("lower end", True), ("upper end", False)])
def test_a_target_may_ask_for_the_end_of_the_interval(statistic, reached):
    values = (1.0, 2.0, 3.0)
    row = Row.of("C1", "gain", values, Target(0.0, statistic), interval=student_interval(values))
    assert row.verdict == ("reached" if reached else "not reached")
    assert row.ends == "-0.484 to 4.48"
    assert row.as_dict()["interval"] == pytest.approx([-0.484138, 4.484138], abs=1e-6)


@pytest.mark.parametrize(("also", "reached"), [(3.0, True), (2.0, False)])
def test_two_targets_of_a_quantity_are_both_to_be_reached(also, reached):
    target = Target(2.0, also=Target(also, "worst"))
    row = Row.of("L2", "ratio", (1.0, 2.0, 3.0), target)
    assert row.verdict == ("reached" if reached else "not reached")
    assert row.measured == f"mean 2.00 <= 2, worst 3.00 <= {also:g}"
    assert row.as_dict()["target"] == f"mean <= 2, worst <= {also:g}"


def test_a_target_says_which_direction_is_better_where_the_row_does_not():
    rows = (
        Row.of("", "accuracy", (0.9,), Target(0.5, at_least=True)),
        Row.of("", "error", (0.1,), better="lower"),
        Row.of("", "seconds", (1.0,)),
    )
    assert [row.as_dict()["better"] for row in rows] == ["higher", "lower", None]


def test_the_end_of_no_interval_is_an_error():
    with pytest.raises(ValueError, match="needs a row with an interval"):
        _ = Row.of("C1", "gain", (1.0,), Target(0.0, "lower end")).verdict


def test_one_seed_has_neither_standard_error_nor_interval():
    row = Row.of("C1", "gain", (1.0,), interval=student_interval([1.0]))
    assert (row.mean_and_sem, row.ends, row.as_dict()["interval"]) == ("1.00", "", None)


def test_rows_with_a_target_come_first_in_their_order():
    targets = None, Target(1.0), None
    rows = [Row("", n, (1.0,), target) for n, target in zip("abc", targets, strict=True)]
    assert [row.what for row in targets_first(rows)] == ["b", "a", "c"]
