"""Lessons as they are read: without what lets the tests run them on less data."""

from __future__ import annotations

import ast
import re

import nbformat

HOOK = "FAST"  # in a lesson: whether it is run by the tests


def without_hook(code: str) -> str:
    """Return a cell's code as it runs for a reader, where the hook is false.

    >>> print(without_hook('''import os
    ... %matplotlib inline
    ... FAST = os.environ.get("GBI_PYRO_FAST") == "1"  # less data
    ... if FAST:
    ...     size = 2
    ... x = draw(10 if FAST else 500, seed=0)'''))
    %matplotlib inline
    x = draw(500, seed=0)
    """
    if HOOK not in code:
        return code
    tree = ast.parse(re.sub("^%", "#", code, flags=re.MULTILINE))
    lines = [line.encode() for line in code.splitlines()]  # ast counts bytes
    choices = [n for n in ast.walk(tree) if isinstance(n, ast.IfExp) and _is_hook(n.test)]
    for node in sorted(choices, key=lambda n: (n.lineno, n.col_offset), reverse=True):
        kept = ast.get_source_segment(code, node.orelse)
        assert kept is not None
        assert node.end_lineno is not None
        before = lines[node.lineno - 1][: node.col_offset]
        after = lines[node.end_lineno - 1][node.end_col_offset :]
        lines[node.lineno - 1 : node.end_lineno] = [before + kept.encode() + after]
    tree = ast.parse(re.sub(b"^%", b"#", b"\n".join(lines), flags=re.MULTILINE))
    gone: set[int] = set()
    for statement in tree.body:
        is_branch = isinstance(statement, ast.If) and _is_hook(statement.test)
        is_set = isinstance(statement, ast.Assign) and _is_hook(statement.targets[0])
        if is_branch or is_set:
            gone |= set(range(statement.lineno, (statement.end_lineno or 0) + 1))
    shown = "\n".join(line.decode() for i, line in enumerate(lines, 1) if i not in gone)
    return shown if "os." in shown else re.sub(r"^import os\n+", "", shown, flags=re.MULTILINE)


def _is_hook(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == HOOK


def page(notebook: str) -> str:
    """Return a notebook, as JSON, with its code as readers see it."""
    content = nbformat.reads(notebook, as_version=4)
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.source = without_hook(cell.source)
    return nbformat.writes(content)
