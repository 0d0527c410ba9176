"""The index of results: one line a study, with how many of its targets it reaches."""

from __future__ import annotations

import json
from pathlib import Path

from gbi_pyro.files import replacing


def write_index(results: Path) -> Path:
    """Write ``README.md`` into a folder of results, from what lies in it.

    Args:
        results: a folder with one folder a study.

    Returns:
        The file.

    Raises:
        ValueError: where there are no results.
    """
    lines = [
        "# Results",
        "",
        "What the studies wrote, one folder each: every number, its seeds, interval and target.",
        "The claims are in [claims.md](claims.md). Written by `python -m studies index`.",
        "",
        "| study | command's name | seeds | targets reached | seconds | figures |",
        "|---|---|---|---|---|---|",
    ]
    folders = [f for f in sorted(results.iterdir()) if (f / "metrics.json").exists()]
    if not folders:
        raise ValueError(f"{results} should hold folders of finished studies; got none")
    for folder in folders:
        metrics = json.loads((folder / "metrics.json").read_text())
        about = json.loads((folder / "config.json").read_text())
        verdicts = [row["verdict"] for row in metrics["rows"] if row["verdict"]]
        reached = f"{verdicts.count('reached')} of {len(verdicts)}" if verdicts else "none set"
        figures = ", ".join(
            f"[{p.stem}]({folder.name}/{p.name})" for p in sorted(folder.glob("*.png"))
        )
        seeds = about["config"].get("seeds", "")
        lines.append(
            f"| [{folder.name}]({folder.name}/table.md) | `{about['study']}` | {seeds} | {reached} "
            f"| {metrics['wall_time_s']:.0f} | {figures} |"
        )
    path = results / "README.md"
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")
    return path
