"""Docstrings as they are: their formulas are plain text, as ``help()`` shows them."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

# What is marked up: code, roles, references, emphasis.
MARKED = re.compile(
    r"(``.+?``|:[a-z]+:`[^`]+`|`[^`]+`_?|(?<![\w*])\*(?=\S)[^*]+?(?<=\S)\*(?![\w*]))", re.DOTALL
)


def _plain(text: str) -> str:
    """Escape what reStructuredText would read into a formula: |x|, a * b, trailing _, "K."."""
    text = text.replace("\\", "\\\\")
    text = re.sub(r"(^ *|: )([A-Za-z])\.$", r"\1\2\\.", text, flags=re.MULTILINE)
    return re.sub(r"([|*])|(?<=\w)(_)(?!\w)", lambda found: "\\" + found.group(), text)


def _is_prose(lines: list[str]) -> list[bool]:
    """Say of each line whether it is prose: no example, no literal block, not empty."""
    found = []
    block: int | None = None  # the indentation of the line before a literal block
    example = False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            example = False
            found.append(False)
        elif block is not None and indent > block:
            found.append(False)
        else:
            block = indent if line.rstrip().endswith("::") else None
            example = example or line.lstrip().startswith(">>>")
            found.append(not example)
    return found


def escape(what: str, lines: list[str]) -> None:
    """Escape the prose of a docstring in place; code, examples and what is marked up stay.

    Args:
        what: the kind of object that it documents, in autodoc's words.
        lines: the docstring's.
    """
    prose = _is_prose(lines)
    text = "\n".join(line if is_prose else "" for line, is_prose in zip(lines, prose, strict=True))
    paragraphs = (MARKED.split(paragraph) for paragraph in text.split("\n\n"))
    escaped = "\n\n".join(
        "".join(part if n % 2 else _plain(part) for n, part in enumerate(parts))
        for parts in paragraphs
    ).split("\n")
    lines[:] = [e if p else line for line, e, p in zip(lines, escaped, prose, strict=True)]
    for i, line in enumerate(lines[:-1]):
        if line == "Returns:":  # as a field: napoleon would take what is before a colon for a type
            lines[i : i + 2] = ["", f":returns: {lines[i + 1].strip()}"]
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]  # an empty comment, for the same reason


def _skip_fields(_app, what, name, obj, skip, options) -> bool | None:
    """Leave out "Alias for field number 0": the tuple's own docstring says what its fields are."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def _shorten_signature(_app, what, name, obj, options, signature, returns):
    """Write ... for a default such as <factory>, which is no Python and would spoil the rest."""
    signature = re.sub(r"<[^<>]*>", "...", signature or "")
    return re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", signature) or None, returns


def setup(app: Sphinx) -> dict[str, Any]:
    """Register what is done to each docstring and to each signature."""
    app.connect("autodoc-process-signature", _shorten_signature)
    app.connect("autodoc-skip-member", _skip_fields)
    # Before napoleon (priority 500), which writes marks of its own.
    app.connect(
        "autodoc-process-docstring",
        lambda _app, what, _name, _obj, _options, lines: escape(what, lines),
        priority=400,
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
