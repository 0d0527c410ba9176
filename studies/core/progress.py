"""The progress of a study: a bar on a terminal, a plain line for each stage elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import click
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gbi_pyro.cli import make_console

Show = Callable[[str], None]


@contextlib.contextmanager
def shown_progress(total: int) -> Iterator[tuple[Show, Show]]:
    """Show on stderr what a study does, so that stdout holds its results alone.

    Args:
        total: how many stages there are.

    Yields:
        What to call at each stage, and what to call within one, which a terminal alone shows.
    """
    if not sys.stderr.isatty():
        yield _lines(total), lambda _what: None
        return
    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=make_console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=total)
        yield (
            lambda what: bar.update(task, description=escape(what), advance=1),
            lambda what: bar.update(task, description=escape(what)),
        )


def _lines(total: int) -> Show:
    start, done = time.monotonic(), 0

    def show(what: str) -> None:
        nonlocal done
        done += 1
        click.echo(f"{time.monotonic() - start:.0f} s  {done}/{total}  {what}", err=True)

    return show
