"""Every notebook runs from its first cell to its last."""

import runpy
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.py"))


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path):
    runpy.run_path(str(path))


def test_calibration_helps_as_the_lesson_says():
    cells = runpy.run_path(str(NOTEBOOKS[0].parent / "your_own_model.py"))
    kl = {
        name: cells["agreement"](cells["exact"], cells[name]).kl
        for name in ("one_step", "calibrated", "second")
    }
    assert kl["calibrated"] < kl["one_step"]
    assert kl["second"] < kl["one_step"]
