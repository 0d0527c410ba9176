"""Every notebook is a pair, a script and what it comes to; and the script runs, all of it."""

import re
import runpy
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "docs"))
import pairs  # noqa: E402

NOTEBOOKS = pairs.scripts()
LARGEST = 500_000  # bytes of an .ipynb
# A home, a temporary or an installation's folder: what differs from one machine to the next.
PATHS = re.compile(r"/(?:home|root|Users|tmp|usr|opt|work|mnt)/|site-packages|[A-Z]:\\\\")
each_notebook = pytest.mark.parametrize("script", NOTEBOOKS, ids=lambda path: path.stem)


def executed(script: Path) -> nbformat.NotebookNode:
    return nbformat.read(script.with_suffix(".ipynb"), as_version=4)


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def test_there_are_notebooks_and_each_is_a_pair():
    assert NOTEBOOKS
    folder = pairs.NOTEBOOKS
    assert {path.stem for path in folder.glob("*.ipynb")} == {path.stem for path in NOTEBOOKS}


@each_notebook
def test_a_notebook_has_its_scripts_cells(script):
    assert pairs.sources(executed(script)) == pairs.sources(pairs.from_script(script)), (
        f"{script.stem}.ipynb is older than its script: make notebooks"
    )


@each_notebook
def test_a_notebook_was_executed_once_from_its_first_cell_to_its_last(script):
    code = [cell for cell in executed(script).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


@each_notebook
def test_a_notebook_shows_pictures_and_no_error_no_warning_no_path_of_a_machine(script):
    found = outputs(executed(script))
    assert any("image/png" in output.get("data", {}) for output in found)
    for output in found:
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text  # warnings go there
        for text in (output.get("text", ""), output.get("data", {}).get("text/plain", "")):
            assert not PATHS.search(text)


@each_notebook
def test_a_notebook_keeps_nothing_that_changes_from_one_execution_to_the_next(script):
    notebook = executed(script)
    assert not any(cell.metadata for cell in notebook.cells)
    assert [cell.id for cell in notebook.cells] == [
        cell.id for cell in pairs.from_script(script).cells
    ]
    assert notebook.metadata["language_info"] == {"name": "python"}
    assert script.with_suffix(".ipynb").stat().st_size < LARGEST


@each_notebook
def test_a_script_says_on_one_line_how_to_run_it_fast(script):
    lines = [line for line in script.read_text().splitlines() if pairs.FAST in line]
    assert len(lines) == 1
    assert "os.environ" in lines[0]


@each_notebook
def test_a_lesson_is_for_users_of_the_library_and_says_what_it_is_for(script):
    cells = pairs.from_script(script).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    assert not re.search(r"^\s*(?:from|import) studies\b", code, re.MULTILINE)
    assert not re.search(r"^from gbi_pyro", code, re.MULTILINE)  # public names: gbi.<package>
    title, purpose = cells[0].source.split("\n\n")[:2]
    assert title.startswith("# ")
    assert purpose.startswith("After this lesson you can ")
    assert "**Next:**" in cells[-1].source


@each_notebook
def test_a_notebook_runs_fast(script):
    for output in outputs(pairs.execute(script, fast=True)):
        assert output.get("name") != "stderr", output.text


def test_a_cell_that_fails_is_an_error(tmp_path):
    script = tmp_path / "failing.py"
    script.write_text("# %%\n1 / 0\n")
    with pytest.raises(Exception, match="division by zero"):
        pairs.execute(script)


def test_a_notebook_out_of_step_with_its_script_is_noticed(tmp_path):
    script = tmp_path / "lesson.py"
    script.write_text("# %% [markdown]\n# # A lesson\n\n# %%\n1 + 1\n")
    assert not pairs.in_step(script)
    nbformat.write(pairs.from_script(script), script.with_suffix(".ipynb"))
    assert pairs.in_step(script)
    script.write_text(script.read_text().replace("1 + 1", "1 + 2"))
    assert not pairs.in_step(script)


def test_calibration_helps_as_the_lesson_says():
    cells = runpy.run_path(str(pairs.NOTEBOOKS / "your_own_model.py"))
    kl = {
        name: cells["gbi"].metrics.agreement(cells["exact"], cells[name]).kl
        for name in ("one_step", "calibrated", "second")
    }
    assert kl["calibrated"] < kl["one_step"]
    assert kl["second"] < kl["one_step"]
