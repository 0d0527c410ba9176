"""How the documentation is built: `make docs`, sources in site/, result in build/site/.

Nothing is fetched from the network and no notebook is executed: the notebooks come with their
outputs (`make notebooks`), the results with the tables in docs/.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import gbi_pyro

SITE = Path(__file__).resolve().parent
ROOT = SITE.parent

project = "gbi_pyro"
version = release = importlib.metadata.version("gbi-pyro")
author = "the gbi_pyro authors"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
]
templates_path = ["_templates"]
exclude_patterns: list[str] = []

html_theme = "furo"
html_title = "gbi_pyro"
html_show_copyright = False
html_show_sourcelink = False
pygments_style = "friendly"
smartquotes_action = "D"  # dashes alone: an apostrophe may be a transpose

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
autodoc_type_aliases = {"ArrayLike": "ArrayLike"}
autoclass_content = "class"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes stand in the class's own docstring, once
napoleon_use_rtype = False
python_use_unqualified_type_names = True

# With -n every reference must resolve, but for those to other projects: their inventories would
# have to be fetched.
nitpick_ignore_regex = [(r"py:.*", r"(?!gbi_pyro\b).*")]
nitpick_ignore = [  # a type variable
    (f"py:{role}", "gbi_pyro.metrics.prequential.State") for role in ("class", "obj")
]

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


def _take_formulas_as_they_are(_app, what, name, obj, options, lines: list[str]) -> None:
    """Escape the prose of a docstring; code, examples and what is marked up stay.

    The docstrings hold their equations as plain text, as help() shows them.
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


def _write(path: Path, text: str) -> None:
    """Write a page that is made at the build; one that stays the same is not built again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def _make_pages(_app, _config) -> None:
    """Take over the notebooks, list the public names, and make a page for each study's results."""
    pages = {SITE / "notebooks" / p.name: p.read_text() for p in ROOT.glob("notebooks/*.ipynb")}
    # Where they are in the repository, so that the README's links lead there.
    pages |= {SITE / p.relative_to(ROOT): _results_page(p) for p in ROOT.glob("docs/*/*.md")}
    public = [getattr(gbi_pyro, name) for name in gbi_pyro.__all__]
    names = "".join(f"   ~{item.__module__}.{item.__qualname__}\n" for item in public)
    pages[SITE / "api" / "names.inc"] = f".. autosummary::\n   :nosignatures:\n\n{names}"
    for path, text in pages.items():
        _write(path, text)
    for old in {*SITE.glob("notebooks/*.ipynb"), *SITE.glob("docs/*/*.md")} - set(pages):
        old.unlink()
    for page in SITE.glob("api/*.rst"):  # of a module that is gone
        module = ROOT / page.stem.replace(".", "/")
        if not module.is_dir() and not module.with_suffix(".py").exists():
            page.unlink()


def _results_page(table: Path) -> str:
    """Return the page of a table that a study wrote; the study's first has its pictures too."""
    study = table.parent.name
    title = study.replace("-", " ").capitalize()
    include = f"```{{include}} ../../../docs/{study}/{table.name}\n```\n"
    if table.stem != "table":
        return f"# {title}: {table.stem}\n\n{include}"
    shown = (f"![{p.stem}](../../../docs/{study}/{p.name})\n\n" for p in table.parent.glob("*.png"))
    return (
        f"# {title}\n\nEvery number of the study, those with a bar first. Each seed's value is in "
        f"`docs/{study}/metrics.json`, the configuration in `config.json` beside it.\n\n"
        f"{''.join(sorted(shown))}{include}"
    )


def setup(app) -> None:
    """Register what is done before a build and to each docstring."""
    app.connect("config-inited", _make_pages)
    app.connect("autodoc-process-signature", _shorten_signature)
    app.connect("autodoc-skip-member", _skip_fields)
    # Before napoleon (priority 500), which writes marks of its own.
    app.connect("autodoc-process-docstring", _take_formulas_as_they_are, priority=400)
