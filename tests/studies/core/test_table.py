import io
import math

import numpy as np
import pytest
from rich.console import Console

from studies.core.table import Bar, Row, format_number, markdown_table, print_table


def test_mean_and_standard_error_are_those_of_numpy():
    values = np.random.default_rng(0).normal(size=7)
    row = Row.of("T9", "error", values)
    assert row.mean == pytest.approx(values.mean())
    assert row.sem == pytest.approx(values.std(ddof=1) / math.sqrt(7))


@pytest.mark.parametrize(
    ("bar", "values", "met"),
    [
        (Bar(0.2), (0.1, 0.3), True),
        (Bar(0.19), (0.1, 0.3), False),
        (Bar(0.2, "median"), (0.1, 0.2, 9.0), True),
        (Bar(0.2, "worst"), (0.1, 0.21), False),
        (Bar(5.0, "worst", at_least=True), (5.0, 6.0), True),
        (Bar(5.0, "worst", at_least=True), (4.9, 6.0), False),
    ],
)
def test_a_bar_is_held_against_its_statistic(bar, values, met):
    assert bar.met(np.array(values)) is met
    assert Row("", "", values, bar).verdict == ("met" if met else "not met")


@pytest.mark.parametrize("statistic", ["mean", "median", "worst"])
def test_a_missing_value_never_meets_a_bar(statistic):
    assert not Bar(1.0, statistic).met(np.array([0.5, np.nan]))
    assert not Bar(0.0, statistic, at_least=True).met(np.array([0.5, np.nan]))


def test_a_row_without_a_bar_has_no_verdict():
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
        Row("T9", "error, GBI", (0.01, 0.02), Bar(0.015), "a note"),
        Row("M7", "max |one step - exact|", (1.0,), Bar(1e-6, "worst")),
    ]
    out = io.StringIO()
    print_table("title", rows, Console(file=out, width=100))
    text, markdown = out.getvalue(), markdown_table(rows)
    for words in ("error, GBI", "a note", "0.0150 ± 0.00500", "mean 0.0150 <= 0.015", "not met"):
        assert words in text
        assert words in markdown
    assert "max |one step - exact|" in text
    assert len(markdown.splitlines()) == 4
