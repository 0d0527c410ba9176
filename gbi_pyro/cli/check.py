"""``gbi-pyro check``: what is wrong with a model, before a run."""

from __future__ import annotations

from typing import Annotated

import typer

from gbi_pyro.cli.shared import console, said_in_words


def check(
    model: Annotated[str, typer.Argument(help="The Pyro model, as module:attribute.")],
    data: Annotated[
        str | None,
        typer.Option(help="Its arguments, as module:attribute: a tuple, or a function giving one."),
    ] = None,
) -> None:
    """Say what is wrong with a model's task sites before a run does."""
    from gbi_pyro.check import check_model, load_object

    with said_in_words():
        target = load_object(model)
        args = load_object(data, must_be_callable=False) if data else ()
    args = args() if callable(args) else args
    report = check_model(target, *(args if isinstance(args, tuple) else (args,)))
    for finding in report.findings:
        console.print(str(finding), markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(0 if report.ok else 1)
