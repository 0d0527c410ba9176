"""Formulas as MathML, which browsers show by themselves: no script and no network."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util import logging

CONVERTER = LatexToMathML()
REPORT = logging.getLogger(__name__)


def font() -> Path:
    """Return the file of an OpenType font for formulas, as a package in the environment has it."""
    spec = importlib.util.find_spec("ziamath")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "fonts" / "STIXTwoMath-Regular.ttf"


def to_mathml(latex: str, *, display: bool) -> str:
    """Return a formula as a ``math`` element.

    Raises:
        LatexError: for a formula that cannot be converted.
    """
    return CONVERTER.convert_with_local_state(latex, displaystyle=display)


def _append(translator: Any, node: nodes.Element, *, display: bool) -> None:
    try:
        formula = to_mathml(node.astext(), display=display)
    except LatexError as error:
        REPORT.warning("formula %r: %s", node.astext(), error, location=node)
        formula = f"<code>{translator.encode(node.astext())}</code>"
    tag = "div" if display else "span"
    translator.body.append(translator.starttag(node, tag, "", CLASS="math notranslate nohighlight"))
    translator.body.append(f"{formula}</{tag}>")
    raise nodes.SkipNode


def visit_inline(translator: Any, node: nodes.math) -> None:
    """Write a formula within a line."""
    _append(translator, node, display=False)


def visit_display(translator: Any, node: nodes.math_block) -> None:
    """Write a formula on a line of its own."""
    _append(translator, node, display=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Offer the renderer ``mathml``."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
