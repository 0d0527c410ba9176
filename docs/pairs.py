"""Notebooks as pairs: the percent script is the source, the .ipynb holds what it comes to.

    python docs/pairs.py           execute every notebook whose cells differ from its script's
    python docs/pairs.py --all     execute every notebook
    python docs/pairs.py NAME ...  execute these

Executing a script again gives the same file where its results are the same: nothing is kept that
depends on the machine or on the hour.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
FAST = "GBI_PYRO_FAST"  # a notebook that finds it set takes less data and fewer steps
SECONDS_PER_CELL = 600
# Pyro imports tqdm, which asks for ipywidgets in a kernel; no notebook here shows a progress bar.
NO_WIDGETS = "ignore:IProgress not found"


def scripts() -> list[Path]:
    """Return every notebook's source."""
    return sorted(NOTEBOOKS.glob("*.py"))


def from_script(script: Path) -> NotebookNode:
    """Return a script as a notebook without outputs, the same at every reading."""
    notebook = jupytext.read(script, fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{script.stem.replace('_', '-')}-{number}"  # else a random one
        cell.metadata = {}
    notebook.metadata = {
        "jupytext": {"formats": "ipynb,py:percent"},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def execute(script: Path, *, fast: bool = False) -> NotebookNode:
    """Run a script's cells in a new kernel and return the notebook with their outputs.

    Args:
        script: the percent script.
        fast: whether to set ``GBI_PYRO_FAST`` to 1 for it.

    Raises:
        CellExecutionError: when a cell fails.
    """
    notebook = from_script(script)
    environment = {**os.environ, "PYTHONWARNINGS": NO_WIDGETS, FAST: "1" if fast else ""}
    client = NotebookClient(
        notebook,
        timeout=SECONDS_PER_CELL,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(script.parent)}},
    )
    client.execute(env=environment)
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", ()):
            output.get("metadata", {}).clear()
    nbformat.validate(notebook)
    return notebook


def sources(notebook: NotebookNode) -> list[tuple[str, str]]:
    """Return the kind and the text of each cell."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def in_step(script: Path) -> bool:
    """Return whether the .ipynb beside a script has the script's cells."""
    pair = script.with_suffix(".ipynb")
    return pair.exists() and sources(nbformat.read(pair, as_version=4)) == sources(
        from_script(script)
    )


def main(names: list[str]) -> None:
    """Execute notebooks and write them beside their scripts."""
    for script in scripts():
        if script.stem in names or "--all" in names or not (names or in_step(script)):
            start = time.perf_counter()
            written = nbformat.writes(execute(script))
            pair = script.with_suffix(".ipynb")
            pair.write_text(written + "\n")
            seconds = time.perf_counter() - start
            print(f"{pair.name}: {seconds:.0f} s, {pair.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
