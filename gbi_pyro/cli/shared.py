"""What every command shares: the screen, progress, errors in words, the last lines."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from gbi_pyro.data.images import ImageSets
    from gbi_pyro.experiments.results import Row

WIDTH_OF_A_FILE = 110  # where the output is no terminal, whose width is known
console = Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE)
errors = Console(stderr=True)

FirstSeed = Annotated[int, typer.Option(help="The first seed.", min=0)]
Fast = Annotated[
    bool, typer.Option("--fast", help="Run through everything in seconds; shows nothing.")
]
Epochs = Annotated[int, typer.Option(help="Passes over the training images.", min=1)]
Data = Annotated[
    Path | None,
    typer.Option(help="Folder with the image files; else GBI_PYRO_DATA, else a download."),
]


@contextlib.contextmanager
def watched(out: Path, stages: int) -> Iterator[Callable[[str], None]]:
    """Show progress while a study runs; a stop by Ctrl-C is told in words."""
    check_folder(out)
    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    try:
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("starting", total=stages)
            yield lambda what: bar.update(task, description=escape(what), advance=1)
    except KeyboardInterrupt:
        errors.print(f"Stopped. Files that were finished lie in {out}; none is half written.")
        raise typer.Exit(130) from None


@contextlib.contextmanager
def said_in_words() -> Iterator[None]:
    """Turn what is wrong with the input into one line and exit status 2."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        errors.print(f"[red]error:[/] {escape(str(error))}")
        raise typer.Exit(2) from None


def load(name: str, data: Path | None) -> ImageSets:
    """Load an image set, or say in words why not."""
    from gbi_pyro.data.images import load_images

    with said_in_words():
        return load_images(name, None if name == "digits" else data)


def say_bars(rows: Sequence[Row]) -> None:
    """Say which bars are not met."""
    short = [row for row in rows if row.verdict == "not met"]
    if short:
        console.print(f"{len(short)} bar(s) not met: " + "; ".join(row.what for row in short))


def summarise(rows: Sequence[Row], out: Path, figures: Sequence[Path]) -> None:
    """Say which bars are not met, and where everything lies."""
    say_bars(rows)
    files = ("metrics.json", "table.md", "posterior.nc", "weights.safetensors", "config.json")
    written = ", ".join(name for name in files if (out / name).exists())
    console.print(f"Results in {out}: {written} (posterior.nc by arviz.from_netcdf)")
    console.print("Figures: " + ", ".join(map(str, figures)))


def check_folder(out: Path) -> None:
    """Stop if the folder for the results is a file."""
    if out.exists() and not out.is_dir():
        errors.print(f"[red]error:[/] --out {out} is a file; expected a folder, new or not")
        raise typer.Exit(2)
