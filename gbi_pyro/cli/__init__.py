"""The command line, ``gbi-pyro``: one file for each command. No mathematics here."""

from __future__ import annotations

import torch
import typer

from gbi_pyro.cli.check import check
from gbi_pyro.cli.compare import compare
from gbi_pyro.cli.controls import controls
from gbi_pyro.cli.discover import discover
from gbi_pyro.cli.fit import fit
from gbi_pyro.cli.images import images
from gbi_pyro.cli.language import language
from gbi_pyro.cli.ood import ood
from gbi_pyro.cli.toy import toy

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Infer which task is going on, with the exact posterior beside every estimate.",
)


@app.callback()
def main() -> None:
    """Set what belongs to the process: one thread, which small networks are fastest on."""
    torch.set_num_threads(1)


for command in (toy, images, ood, language, discover, controls, fit, compare, check):
    app.command()(command)
