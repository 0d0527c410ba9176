"""The README's code runs, and its numbers are those of the run that it names."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["posterior"].passes[:2] == (1, 1)  # type: ignore[attr-defined]


BLOCKS = re.findall(r"<!-- results: (\S+) -->\n(.*?)<!-- end of results -->", README, re.DOTALL)


@pytest.mark.parametrize(("source", "block"), BLOCKS, ids=[source for source, _ in BLOCKS])
def test_every_bar_of_a_run_stands_in_the_readme_as_it_came_out(source, block):
    shown = [line for line in block.splitlines() if line.startswith("|")][2:]
    rows = (ROOT / source).read_text().splitlines()
    assert shown == [row for row in rows if row.endswith(("| met |", "| not met |"))]
    assert shown


TABLES = re.findall(r"<!-- table: (\S+) -->\n(.*?)<!-- end of table -->", README, re.DOTALL)


@pytest.mark.parametrize(("source", "table"), TABLES, ids=[source for source, _ in TABLES])
def test_a_table_stands_in_the_readme_as_it_came_out(source, table):
    assert table.splitlines() == (ROOT / source).read_text().splitlines()[2:]


def test_results_of_all_studies_are_shown():
    studies = sorted(path.parent.name for path in (ROOT / "docs").glob("*/table.md"))
    assert sorted(Path(source).parent.name for source, _ in BLOCKS) == studies


@pytest.mark.parametrize("path", re.findall(r"\]\((docs/[^)]+)\)", README))
def test_a_file_that_the_readme_shows_is_there(path):
    assert (ROOT / path).exists()


def test_every_room_stands_on_the_map():
    rooms = {p.name for p in (ROOT / "gbi_pyro").iterdir() if p.suffix == ".py" or p.is_dir()}
    chart = README.split("## The rooms")[1].split("## Words")[0]
    missing = {room for room in rooms - {"__init__.py", "__pycache__"} if f"{room}" not in chart}
    assert not missing
