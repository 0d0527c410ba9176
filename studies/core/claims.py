"""The claims that results speak to, as ``claims.csv`` lists them: a few words and one sentence.

Codes M, T, I, L and C number claims of the paper (Hummos et al., arXiv 2407.17356) and the controls
that a claimed benefit needs; D numbers what this project states about learning without labels, S
what it states about a real sequence, B about the benchmark of task inference.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple


class Claim(NamedTuple):
    """A claim: a few words for a table, what is claimed in one sentence, and who claims it."""

    label: str
    sentence: str
    source: str


with Path(__file__).with_name("claims.csv").open(newline="") as _file:
    CLAIMS = {row.pop("code"): Claim(**row) for row in csv.DictReader(_file)}
"""Every claim by its code."""


def in_table(code: str) -> str:
    """Return a claim as it stands in a table: in words, with its code in brackets.

    >>> in_table("T9")
    'unseen means (T9)'
    >>> in_table("")
    ''
    """
    return f"{CLAIMS[code].label} ({code})" if code else ""


def as_markdown() -> str:
    """Write the list of claims, for ``results/claims.md``."""
    lines = [
        "# Claims",
        "",
        "What the tables of results speak to. *Paper*: stated by Hummos et al., arXiv 2407.17356;",
        "*reported elsewhere*: a value of the paper that is known second-hand, a reference line,",
        "never a target; *this project*: a control or an extension.",
        "",
        "| claim | in one sentence | source |",
        "|---|---|---|",
    ]
    for code, claim in CLAIMS.items():
        anchor = f'<a id="{code.lower()}"></a>'
        lines.append(f"| {anchor}{in_table(code)} | {claim.sentence} | {claim.source} |")
    return "\n".join(lines) + "\n"
