"""Commands made of studies: every field of a study's configuration is an option."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from gbi_pyro.cli import (
    EXIT_STATUS,
    checked_output,
    folder_for_results,
    make_console,
    report_errors,
)
from studies.core.options import config_options, configure
from studies.core.progress import shown_progress

EXAMPLES = f"""\b
Examples:
  python -m studies toy --seeds 20 --jobs 2
  python -m studies toy --config results/toy/config.json --set sigma=0.2
  python -m studies toy --json --strict > rows.json
  python -m studies publish runs/toy

{EXIT_STATUS} 1: with --strict, a target is not reached.
"""


class StudyGroup(click.Group):
    """A command for each study; a study's module is loaded when its own command is asked for.

    Args:
        studies: ``module:class`` by the name of the command.
    """

    def __init__(self, studies: Mapping[str, str]) -> None:
        super().__init__(
            "studies",
            help="Run a study and write its table, figures, posterior and weights to a folder.",
            epilog=EXAMPLES,
        )
        self.studies = studies
        self.add_command(publish_runs)
        self.add_command(write_lists)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; output that cannot be written is one line on stderr."""
        with checked_output():
            return super().main(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, studies first."""
        return [*self.studies, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; None where there is none of the name."""
        if cmd_name not in self.studies:
            return self.commands.get(cmd_name)
        return study_command(load_study(self.studies[cmd_name]))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the studies by name alone: their help would load all of them."""
        with formatter.section("Studies"):
            formatter.write_text(", ".join(self.studies))
        with formatter.section("Other commands"):
            formatter.write_dl([(n, c.get_short_help_str()) for n, c in self.commands.items()])


def load_study(place: str) -> Any:
    """Return a study's class from ``module:class``."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


def study_command(study: Any) -> click.Command:
    """Make the command of a study: its configuration's fields, and where the results go."""
    options: list[click.Parameter] = [
        click.Option(
            ["--out"],
            metavar="PATH",
            default=str(Path("runs") / study.name),
            show_default=True,
            help="Folder for the results.",
        ),
        click.Option(
            ["--config", "file"],
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            help="config.json of a run of this study: its settings in place of the defaults.",
        ),
        click.Option(
            ["--set", "settings"],
            metavar="KEY=VALUE",
            multiple=True,
            help="Any setting, by its name in config.json; repeat for each.",
        ),
        *config_options(study.config_type),
        *([_data_option(study.data_variable)] if study.reads_files else []),
        click.Option(
            ["--jobs"],
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Units measured side by side, one processor core each.",
        ),
        click.Option(
            ["--device"],
            default="cpu",
            show_default=True,
            help="Where networks run: cpu, cuda, cuda:1, mps.",
        ),
        click.Option(
            ["--fast"],
            is_flag=True,
            help="Smoke test with a tiny configuration; the numbers are meaningless.",
        ),
        click.Option(
            ["--json", "as_json"], is_flag=True, help="Print the rows of the table as JSON alone."
        ),
        click.Option(
            ["--strict"], is_flag=True, help="Exit with status 1 if a target is not reached."
        ),
    ]

    def callback(
        out: str,
        file: Path | None,
        settings: tuple[str, ...],
        jobs: int,
        device: str,
        fast: bool,
        as_json: bool,
        strict: bool,
        data: Path | None = None,
        **given: Any,
    ) -> None:
        with report_errors():
            folder = folder_for_results(out)
            config = configure(study, file, settings, given)
            whole = study(config.fast() if fast else config, data)
            missed = run_study(whole, folder, jobs, device, as_json=as_json)
        raise SystemExit(1 if strict and missed else 0)

    return click.Command(
        study.name,
        params=options,
        callback=callback,
        help=f"{study.title}.",
        epilog=f"{EXIT_STATUS} 1: with --strict, a target is not reached.",
    )


def _data_option(variable: str) -> click.Option:
    return click.Option(
        ["--data"],
        type=click.Path(path_type=Path),
        help=f"Folder of the data files; else {variable}.",
    )


def run_study(
    study: Any, out: Path, jobs: int, device: str = "cpu", *, as_json: bool = False
) -> list[str]:
    """Run a study with its progress on stderr, print its table, and return the targets it missed.

    Args:
        study: what to run.
        out: the folder of the results.
        jobs: units measured side by side.
        device: where networks run.
        as_json: print the table as JSON, and nothing else.
    """
    from studies.core.runner import num_stages, run

    try:
        with shown_progress(num_stages(study)) as (progress, detail):
            results = run(study, out, jobs=jobs, device=device, progress=progress, detail=detail)
    except KeyboardInterrupt:
        click.echo(f"Stopped. Finished units are kept in {out}; the run resumes.", err=True)
        raise SystemExit(130) from None
    if not results.rows:  # of processes that train together the first one prints
        return []
    missed = [row.what for row in results.rows if row.verdict == "not reached"]
    if as_json:
        rows = [row.as_dict() for row in results.rows]
        found = {"study": study.name, "folder": str(out), "rows": rows}
        click.echo(json.dumps(found, indent=2, allow_nan=False))
    else:
        _print_results(study, results, missed)
    return missed


def _print_results(study: Any, results: Any, missed: list[str]) -> None:
    from studies.core.table import print_table

    console, out = make_console(), results.folder
    print_table(study.title, study.shown(results.rows), console)
    if missed:
        console.print(f"{len(missed)} target(s) not reached: " + escape("; ".join(missed)))
    files = ("metrics.json", "table.md", "posterior.nc", "weights.safetensors", "config.json")
    more = study.extra_files(results.found)
    written = [name for name in (*files, *more) if (out / name).exists()]
    how = " (posterior.nc by arviz.from_netcdf)" if "posterior.nc" in written else ""
    console.print(escape(f"Results in {out}: {', '.join(written)}{how}"))
    if results.figures:
        console.print(escape("Figures: " + ", ".join(map(str, results.figures))))


_RESULTS = click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="The folder of results.",
)


@click.command("publish", short_help="Copy finished runs into results/, and write its index.")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--name", help="Of the folder there, for a single run; the study's without.")
@_RESULTS
def publish_runs(runs: tuple[Path, ...], name: str | None, results: Path) -> None:
    """Copy tables and figures of finished runs into the folder of results."""
    from studies.core.index import publish, write_index

    with report_errors():
        if name and len(runs) > 1:
            raise ValueError(f"--name is for a single run; got {len(runs)}")
        for run in runs:
            click.echo(f"Published: {publish(run, results, name)}")
        write_index(results)


@click.command("index", short_help="Write the index of results and the list of claims.")
@_RESULTS
def write_lists(results: Path) -> None:
    """Write README.md and claims.md into the folder of results."""
    from gbi_pyro.files import replacing
    from studies.core.claims import as_markdown
    from studies.core.index import write_index

    with report_errors():
        click.echo(f"Written: {write_index(results)}")
        with replacing(results / "claims.md") as temporary:
            temporary.write_text(as_markdown())
        click.echo(f"Written: {results / 'claims.md'}")
