"""Kill runs of the studies at random moments: ``python -m benchmarks.kills --kills 20 toy``.

A run of one seed lies in a folder; a run of others begins there, and is killed (SIGKILL) again
and again, at any moment or while the results are written. After each kill ``gbi-pyro compare``'s
reader is asked: it may give the old run, the new run, or refuse. Then a copy of the folder is
resumed to its end, and its files are compared, byte by byte, with those of an undisturbed run
(wall time aside); the next kill hits the killed run itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from gbi_pyro.files import PARTIAL
from gbi_pyro.metrics.runs import Run
from studies.__main__ import STUDIES
from studies.core.commands import load_study
from studies.core.runner import run

WRITING = "table, figures and files"  # the last stage of a run
TIMED = ("second",)  # in the names of rows that are times
SETTINGS = {"unsupervised_images": {"dataset": "digits"}}
SAME_SEED = ("language",)  # of which a tiny network of another seed cannot be calibrated
MOMENTS = ("any", "any", "writing", "writing", "writing")  # of kills that hit one run in turn


def kill(name: str, kills: int, seed: int = 0) -> Counter[str]:
    """Kill the fast setting of one study some times; returns counts of what was found."""
    draw, found = random.Random(seed), Counter[str]()
    study = load_study(STUDIES[name])
    new = study.config_type(**SETTINGS.get(name, {})).fast()
    # Of another seed: where networks of several seeds run side by side, a finished one among
    # them would change how many do, and so the last digits.
    other = new.first_seed if name in SAME_SEED else new.first_seed + new.seeds
    old = replace(new, seeds=1, first_seed=other)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _finish(study, old, root / "old")
        start = time.perf_counter()
        writing = _finish(study, new, root / "new")
        whole = time.perf_counter() - start
        undisturbed, runs = _content(root / "new"), {_rows(root / n) for n in ("old", "new")}
        while found["kills"] < kills:
            target = root / "killed"
            shutil.copytree(root / "old", target)
            for piece in (target / "pieces").iterdir():
                if draw.random() < 0.5:  # so that there are units left to be killed in
                    piece.unlink()
            for moment in MOMENTS[: kills - found["kills"]]:
                at = draw.uniform(0, whole / 2 if moment == "any" else writing)
                if _killed(study, new, target, moment, at):
                    found["ended first"] += 1
                    continue
                found["kills"] += 1
                rows = _rows(target)
                found["refused" if rows is None else "old or new run read"] += rows in (None, *runs)
                found["read wrongly"] += rows not in (None, *runs)
                found += _resumed(study, new, target, undisturbed)
                click.echo(f"{name}: {in_words(found)}", err=True)
            shutil.rmtree(target)
    return found


def _resumed(study: Any, config: Any, killed: Path, undisturbed: dict[str, str]) -> Counter[str]:
    """Resume a copy of a killed run to its end and compare it with an undisturbed one."""
    folder = killed.with_name("resumed")
    shutil.copytree(killed, folder)
    _finish(study, config, folder)
    content = _content(folder)
    found = Counter(resumed=1, identical=int(content == undisturbed))
    for name in sorted(undisturbed | content):
        found[f"other {name}"] += content.get(name) != undisturbed.get(name)
    left = [p for p in folder.rglob("*") if PARTIAL.match(p.name)]
    found["temporary files left"] = len(left)
    shutil.rmtree(folder)
    return found


def _finish(study: Any, config: Any, folder: Path) -> float:
    """Run to the end in a process of its own; returns the seconds that writing takes."""
    read, write = os.pipe()
    if not (process := os.fork()):
        _run(study, config, folder, write)
    os.close(write)
    with os.fdopen(read) as stages:
        starts = [time.perf_counter() for _ in stages]
    _, status = os.waitpid(process, 0)
    if status:
        raise RuntimeError(f"{study.name} ended with status {status}")
    return time.perf_counter() - starts[-1]


def _killed(study: Any, config: Any, folder: Path, moment: str, at: float) -> bool:
    """Kill a run some seconds after its start, or after it began to write; True if it ended."""
    read, write = os.pipe()
    if not (process := os.fork()):
        _run(study, config, folder, write)
    os.close(write)
    with os.fdopen(read) as stages:
        if moment == "writing":
            for _ in stages:  # the last line is written when the results are about to be
                pass
        time.sleep(at)
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
    return status == 0


def _run(study: Any, config: Any, folder: Path, pipe: int) -> None:
    """Run in a forked process, which tells that it writes by closing a pipe, and ends."""
    status = 1
    try:
        torch.set_num_threads(1)
        draw = random.Random(os.getpid())  # so that arrays lie elsewhere in every process
        kept = [bytearray(draw.randrange(5000)) for _ in range(draw.randrange(2000))]
        del kept[::2]

        def progress(what: str) -> None:
            if what == WRITING:
                os.write(pipe, b"writing\n")
                os.close(pipe)

        with open(os.devnull, "w") as sys.stderr:
            run(study(config), folder, progress=progress)
        status = 0
    finally:
        os._exit(status)


def _rows(folder: Path) -> Any:
    """Return what ``compare`` reads of a folder, without times; None where it refuses."""
    try:
        found = Run.read(folder)
    except ValueError:
        return None
    quantities = {
        " ".join(k): {str(s): x for s, x in v.items()}
        for k, v in found.quantities.items()
        if not any(word in " ".join(k) for word in TIMED)
    }
    return json.dumps([found.study, dict(found.config), quantities], sort_keys=True, default=str)


def _content(folder: Path) -> dict[str, str]:
    """Return the checksum of every file of a run, times left out."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if (
            not path.is_file()
            or name.split("/")[0] in ("pieces", "checkpoints")
            or name == "run.json"
        ):
            continue
        found[name] = hashlib.sha256(_without_times(path)).hexdigest()
    return found


def _without_times(path: Path) -> bytes:
    if path.name == "metrics.json":
        content = json.loads(path.read_bytes())
        rows = [r for r in content["rows"] if not any(word in r["what"] for word in TIMED)]
        return json.dumps([content["run"], rows]).encode()
    if path.name == "table.md":
        lines = path.read_text().splitlines()
        return "\n".join(line for line in lines if "second" not in line).encode()
    return path.read_bytes()


def in_words(found: Counter[str]) -> str:
    """Say what was found; resumptions, one after each kill, are counted one by one."""
    rest = found.keys() - {"kills", "resumed", "identical"}
    counts = [f"{found[what]} {what}" for what in sorted(rest) if found[what]]
    whole = f"{found['kills']} kills, {found['identical']} of {found['resumed']} resumptions"
    return ", ".join([f"{whole} identical", *counts])


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(STUDIES)))
@click.option("--kills", default=20, show_default=True, help="Of each study.")
def main(names: tuple[str, ...], kills: int) -> None:
    """Kill each study and print what was found."""
    torch.set_num_threads(1)
    wrong = 0
    for name in names or STUDIES:
        start = time.perf_counter()
        found = kill(name, kills)
        wrong += found["read wrongly"] + found["temporary files left"]
        wrong += found["resumed"] - found["identical"]
        click.echo(f"{name}: {in_words(found)}; {time.perf_counter() - start:.0f} s")
    raise SystemExit(int(wrong > 0))


if __name__ == "__main__":
    main()
