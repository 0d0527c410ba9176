import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from gbi_pyro.metrics import Table

TABLE = Table(
    "nats",
    ("model", "score", "elements"),
    (("with, a task", -91.123456, 40), ('"no" task', math.nan, None)),
)


def test_csv_reads_back_with_every_digit(tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "new" / "table.csv")
    text = (tmp_path / "new" / "table.csv").read_bytes().decode()
    assert list(csv.DictReader(io.StringIO(text))) == [
        {"model": "with, a task", "score": "-91.123456", "elements": "40"},
        {"model": '"no" task', "score": "", "elements": ""},
    ]


def test_json_reads_back(tmp_path: Path) -> None:
    TABLE.to_json(tmp_path / "table.json")
    found = json.loads((tmp_path / "table.json").read_text())
    assert found == {"caption": "nats", "rows": TABLE.records()}
    assert found["rows"][1] == {"model": '"no" task', "score": None, "elements": None}


def test_markdown_has_a_line_for_each_row_and_no_stray_bar(tmp_path: Path) -> None:
    Table("KL(a | b)", ("what", "nats"), (("KL(a | b)", 0.5), ("none", None))).to_markdown(
        tmp_path / "table.md"
    )
    assert (tmp_path / "table.md").read_text() == (
        "KL(a | b)\n\n| what | nats |\n| --- | --- |\n| KL(a \\| b) | 0.5 |\n| none |  |\n"
    )


def test_large_numbers_are_written_out() -> None:
    table = Table("nats", ("code",), ((-23546.4,), (1e12,), (0.00012344,)))
    assert str(table).split() == ["nats", "code", "-23546", "1e+12", "0.0001234"]


def test_columns_line_up_on_the_screen() -> None:
    lines = str(TABLE).splitlines()
    assert lines[0] == "nats"
    assert lines[1].endswith("score  elements")
    assert lines[1].index("score") + len("score") == lines[2].index("-91.12") + len("-91.12")


@pytest.mark.parametrize(
    ("columns", "rows", "message"),
    [
        (("a", "a"), (), "different names"),
        (("a", "b"), ((1,),), "should have 2 cells"),
    ],
)
def test_invalid_tables_are_named(columns: Any, rows: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Table("", columns, rows)
