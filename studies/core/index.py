"""The folder of results: runs published into it, and its index, one line a study."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from gbi_pyro.files import replacing

PUBLISHED = ("config.json", "metrics.json", "table.md", "adaptation.json", "adaptation.md")


def publish(run: Path, results: Path, name: str | None = None) -> Path:
    """Copy what a reader needs of a finished run into the folder of results.

    Configuration, metrics, tables and figures are copied; units, weights and posterior are not.

    Args:
        run: the folder of the run.
        results: the folder of results.
        name: of the folder there; the study's without.

    Returns:
        The folder.

    Raises:
        ValueError: for a folder without a finished run.
    """
    if not (run / "metrics.json").exists():
        raise ValueError(f"{run} should be the folder of a finished run; it has no metrics.json")
    study = json.loads((run / "config.json").read_text())["study"]
    folder = results / (name or study)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files = [run / file for file in PUBLISHED if (run / file).exists()]
    for file in [*files, *sorted((run / "figures").glob("*.png"))]:
        shutil.copy(file, folder / file.name)
    return folder


def write_index(results: Path) -> Path:
    """Write ``README.md`` into a folder of results, from what lies in it.

    Args:
        results: a folder with one folder a study.

    Returns:
        The file.

    Raises:
        ValueError: where there are no results.
    """
    folders = [f for f in sorted(results.iterdir()) if (f / "metrics.json").exists()]
    if not folders:
        raise ValueError(f"{results} should hold folders of finished studies; got none")
    lines = [
        "# Results",
        "",
        "What the studies wrote, one folder each: every number, its seeds, interval and target.",
        "Targets were set by this project, before it measured. The claims that rows speak to are",
        "in [claims.md](claims.md). Written by `python -m studies index`.",
        "",
        "| results | study | seeds | targets reached | seconds | figures |",
        "|---|---|---|---|---|---|",
        *map(_line, folders),
    ]
    path = results / "README.md"
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")
    return path


def _line(folder: Path) -> str:
    metrics = json.loads((folder / "metrics.json").read_text())
    about = json.loads((folder / "config.json").read_text())
    verdicts = [row["verdict"] for row in metrics["rows"] if row["verdict"]]
    reached = f"{verdicts.count('reached')} of {len(verdicts)}" if verdicts else "none set"
    drawn = sorted(folder.glob("*.png"))
    cells = [
        f"[{folder.name}]({folder.name}/table.md)",
        f"`{about['study']}`",
        str(about["config"].get("seeds", "")),
        reached,
        f"{metrics['wall_time_s']:.0f}",
        ", ".join(f"[{p.stem}]({folder.name}/{p.name})" for p in drawn),
    ]
    return "| " + " | ".join(cells) + " |"
