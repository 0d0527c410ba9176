"""The folder of results: runs published into it, and its index, one line a study."""

from __future__ import annotations

import shutil
from pathlib import Path

from gbi_pyro.files import Manifest, partial_path, put_in_place, remove_partials, replacing

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
        ValueError: for a folder without a finished run, or whose files are not those of the run.
    """
    manifest = Manifest.read(run)
    folder = results / (name or manifest.read_json("config.json")["study"])
    figures = [f for f in manifest.files if f.startswith("figures/") and f.endswith(".png")]
    new = partial_path(folder)
    remove_partials(results)
    try:
        new.mkdir(parents=True)
        for file in [*(f for f in PUBLISHED if f in manifest.files), *sorted(figures)]:
            (new / Path(file).name).write_bytes(manifest.read_bytes(file))
        old = [p.name for p in folder.glob("*") if p.is_file()] if folder.exists() else []
        put_in_place(new, folder, also=old)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


def write_index(results: Path) -> Path:
    """Write ``README.md`` into a folder of results, from what lies in it.

    Args:
        results: a folder with one folder a study.

    Returns:
        The file.

    Raises:
        ValueError: where there are no results, or a folder's are not as they were published.
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
    manifest = Manifest.read(folder)
    metrics, about = manifest.read_json("metrics.json"), manifest.read_json("config.json")
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
