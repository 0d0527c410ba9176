"""The command line of the library, ``gbi-pyro``: ``check`` a model, ``compare`` finished runs."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import typer.core
from rich.console import Console
from rich.markup import escape

EXIT_STATUS = (
    "Exit status: 0: done. 2: refused input, or output that cannot be written. 130: interrupted."
)
WIDTH_OF_A_FILE = 110  # where the output is no terminal, whose width is known


def make_console(*, stderr: bool = False) -> Console:
    """Return a console; with ``NO_COLOR`` set it writes no codes at all, not even for bold."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stderr or stream.isatty() else WIDTH_OF_A_FILE
    plain = bool(os.environ.get("NO_COLOR"))
    return Console(stderr=stderr, width=width, color_system=None if plain else "auto")


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Turn invalid input and refusals of the operating system into one line and status 2."""
    try:
        yield
        sys.stdout.flush()  # a full disk refuses the output only now
    except BrokenPipeError:
        raise  # the reader had enough
    except (ValueError, OSError, ImportError) as error:
        fail(str(error))


def fail(why: str) -> NoReturn:
    """Print an error as one line on stderr and stop with exit status 2."""
    try:
        sys.stdout.flush()
    except OSError:  # nothing more can be written there, not even at exit
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    console = make_console(stderr=True)
    console.print(f"[red]error:[/] {escape(' '.join(why.split()))}", soft_wrap=True)
    raise SystemExit(2) from None


@contextlib.contextmanager
def checked_output() -> Iterator[None]:
    """Report output that cannot be written, help texts included, in one line; exit status 2."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        fail(f"the output cannot be written ({error})")


class _Group(typer.core.TyperGroup):
    """The commands, whose output is checked to its end."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        with checked_output():
            return super().main(*args, **kwargs)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None if os.environ.get("NO_COLOR") else "rich",
    help="Infer which task is going on, with calibrated uncertainty.",
    epilog=EXIT_STATUS,
)


def folder_for_results(given: str) -> Path:
    """Return the folder that an option names.

    Raises:
        ValueError: for no name, or that of a file.
    """
    if not str(given):
        raise ValueError("--out should name a folder, new or not; got an empty name")
    if Path(given).exists() and not Path(given).is_dir():
        raise ValueError(f"--out {given} is a file; expected a folder, new or not")
    return Path(given)


def _version(asked: bool) -> None:
    if asked:
        from gbi_pyro import __version__

        make_console().print(f"gbi-pyro {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Run one of the commands."""


def _load(spec: str, *, must_be_callable: bool = True) -> Any:
    """Import what a command is given; a module that ends the program does not end this one."""
    from gbi_pyro.check import load_object

    try:
        return load_object(spec, must_be_callable=must_be_callable)
    except SystemExit as stop:
        raise ImportError(
            f"module {spec.partition(':')[0]!r} calls sys.exit({stop.code!r}) when it is imported; "
            "expected one that only defines a model: put the call under "
            "if __name__ == '__main__'"
        ) from None


AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON alone.")]


@app.command(
    epilog=f"Example: gbi-pyro check my:model --data my:data. {EXIT_STATUS} 1: something is wrong."
)
def check(
    model: Annotated[str, typer.Argument(help="The Pyro model, as module:attribute.")],
    data: Annotated[
        str | None,
        typer.Option(help="Its arguments, as module:attribute: a tuple, or a function giving one."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Report what is wrong with a model's task sites, before a run does."""
    from gbi_pyro.check import check_model

    with report_errors():
        target = _load(model)
        args = _load(data, must_be_callable=False) if data else ()
    args = args() if callable(args) else args
    report = check_model(target, *(args if isinstance(args, tuple) else (args,)))
    if as_json:
        _print_json({"ok": report.ok, "findings": [asdict(f) for f in report.findings]})
    else:
        console = make_console()
        for finding in report.findings:
            console.print(str(finding), markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(0 if report.ok else 1)


def _print_json(content: Any) -> None:
    typer.echo(json.dumps(content, indent=2, allow_nan=False))


@app.command(epilog=f"Example: gbi-pyro compare runs/reference runs/other. {EXIT_STATUS}")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, the reference first.")],
    out: Annotated[
        str, typer.Option(metavar="PATH", help="Folder for table and figure.")
    ] = "runs/compare",
    may_differ: Annotated[
        list[str] | None,
        typer.Option(help="A field of the configuration that may differ; repeat for each."),
    ] = None,
    level: Annotated[float, typer.Option(help="Coverage of the intervals.")] = 0.95,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only quantities whose name contains this; repeat for each."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs by every quantity they share, seed by seed, with paired intervals."""
    from gbi_pyro.metrics.runs import compare_runs, print_comparison, write_comparison

    with report_errors():
        folder, console = folder_for_results(out), make_console()
        table = compare_runs(runs, may_differ=may_differ or (), level=level, only=only or ())
        files = write_comparison(table, str(runs[0]), folder)
        if as_json:
            _print_json({"caption": table.caption, "rows": table.records()})
            return
        print_comparison(table, str(runs[0]), level, console)
        console.print("Written: " + escape(", ".join(map(str, files))))


if __name__ == "__main__":
    app()
