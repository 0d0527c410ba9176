"""Pages made at the build, from what lies elsewhere in the repository."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import lessons
import reference
from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
LINK = re.compile(r"(?<=\]\()([^)#:]+)(?=[)#])")
ANCHOR = re.compile(r'<a id="(\w+)"></a>([^|]*?) \|')
TAKEN = {  # a page of its own name, but for the README, which is part of the first page
    "README.md": "_generated/readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


def from_root(page: str) -> str:
    """Return a page of the repository's root with its links as they are from the documentation."""

    def link(found: re.Match[str]) -> str:
        target = found[1]
        if target in TAKEN:
            return TAKEN[target]
        if target.startswith("docs/"):
            return target.removeprefix("docs/")
        return target if target.startswith(("notebooks/", "results/")) else f"../{target}"

    return LINK.sub(link, (ROOT / page).read_text())


def captions() -> dict[str, dict[str, str]]:
    """Return a title and the captions of the figures, by the folder of results."""
    return tomllib.loads((DOCS / "captions.toml").read_text())


def _results_page(table: Path, about: dict[str, str]) -> str:
    """Return the page of a table that a study wrote; the study's first has its figures too."""
    text = ANCHOR.sub(r"[\2]{#\1} |", table.read_text())
    if table.stem != "table":
        return f"---\nhide-toc: true\n---\n\n# {about['title']}: {table.stem}\n\n{text}"
    figures = "".join(
        f"```{{figure}} {picture.name}\n:alt: {caption}\n\n{caption}\n```\n\n"
        for picture in sorted(table.parent.glob("*.png"))
        for caption in [about[picture.stem]]
    )
    return (
        f"---\nhide-toc: true\n---\n\n# {about['title']}\n\n"
        "Every number of the study, those with a target first. Each seed's value is in "
        f"`results/{table.parent.name}/metrics.json`, the configuration in `config.json` beside "
        f"it.\n\n{figures}## All numbers\n\n{text}"
    )


def _results() -> dict[str, str | bytes]:
    """Return the pages of the results, by file, and their pictures."""
    found: dict[str, str | bytes] = {}
    about = captions()
    for path in sorted(ROOT.glob("results/*/*.md")):
        found[str(path.relative_to(ROOT))] = _results_page(path, about[path.parent.name])
    for path in ROOT.glob("results/*/*.png"):
        found[str(path.relative_to(ROOT))] = path.read_bytes()
    listed = "\n".join(name.removeprefix("results/") for name in found if name.endswith(".md"))
    index = (ROOT / "results" / "README.md").read_text()
    found["results/README.md"] = f"{index}\n```{{toctree}}\n:hidden:\n\nclaims\n{listed}\n```\n"
    claims = (ROOT / "results" / "claims.md").read_text()
    found["results/claims.md"] = ANCHOR.sub(r"[\2]{#\1} |", claims)
    return found


def make(_app: Sphinx, _config: Any) -> None:
    """Write every page that is made; one that stays the same is not built again."""
    pages: dict[str, str | bytes] = {**reference.pages(), **_results()}
    pages |= {TAKEN[page]: from_root(page) for page in TAKEN}
    pages |= {
        f"notebooks/{p.name}": lessons.page(p.read_text()) for p in ROOT.glob("notebooks/*.ipynb")
    }
    for name, text in pages.items():
        path, content = DOCS / name, text if isinstance(text, bytes) else text.encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
    known = {f"api/{name}.rst" for name in reference.import_lines()} | set(pages)
    for folder in ("api", "notebooks", "results"):  # of what is gone
        for path in (DOCS / folder).rglob("*.*"):
            if str(path.relative_to(DOCS)) not in known:
                path.unlink()


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the making of pages before a build."""
    app.connect("config-inited", make)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
