"""The command line of the library, ``gbi-pyro``: ``check`` a model, ``compare`` finished runs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

WIDTH_OF_A_FILE = 110  # where the output is no terminal, whose width is known
console = Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE)
errors = Console(stderr=True)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Infer which task is going on, with calibrated uncertainty.",
)


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Turn invalid input into one line on stderr and exit status 2."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        errors.print(f"[red]error:[/] {escape(str(error))}")
        raise typer.Exit(2) from None


def check_folder(out: Path) -> None:
    """Stop with exit status 2 if the folder for results is a file."""
    if out.exists() and not out.is_dir():
        errors.print(f"[red]error:[/] --out {out} is a file; expected a folder, new or not")
        raise typer.Exit(2)


def _version(asked: bool) -> None:
    if asked:
        from gbi_pyro import __version__

        console.print(f"gbi-pyro {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Run one of the commands."""


@app.command()
def check(
    model: Annotated[str, typer.Argument(help="The Pyro model, as module:attribute.")],
    data: Annotated[
        str | None,
        typer.Option(help="Its arguments, as module:attribute: a tuple, or a function giving one."),
    ] = None,
) -> None:
    """Report what is wrong with a model's task sites, before a run does."""
    from gbi_pyro.check import check_model, load_object

    with report_errors():
        target = load_object(model)
        args = load_object(data, must_be_callable=False) if data else ()
    args = args() if callable(args) else args
    report = check_model(target, *(args if isinstance(args, tuple) else (args,)))
    for finding in report.findings:
        console.print(str(finding), markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(0 if report.ok else 1)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, the reference first.")],
    out: Annotated[Path, typer.Option(help="Folder for table and figure.")] = Path("runs/compare"),
    may_differ: Annotated[
        list[str] | None,
        typer.Option(help="A field of the configuration that may differ; repeat for each."),
    ] = None,
    level: Annotated[float, typer.Option(help="Coverage of the intervals.")] = 0.95,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only quantities whose name contains this; repeat for each."),
    ] = None,
) -> None:
    """Compare runs by every quantity they share, seed by seed, with paired intervals."""
    from gbi_pyro.metrics.runs import compare_runs, print_comparison, write_comparison

    check_folder(out)
    with report_errors():
        table = compare_runs(runs, may_differ=may_differ or (), level=level, only=only or ())
        files = write_comparison(table, str(runs[0]), out)
    print_comparison(table, str(runs[0]), level, console)
    console.print("Written: " + ", ".join(map(str, files)))


if __name__ == "__main__":
    app()
