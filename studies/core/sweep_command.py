"""The command ``python -m studies sweep``: many seeds and settings, here or on other machines."""

from __future__ import annotations

import contextlib
import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gbi_pyro.cli import folder_for_results, make_console, report_errors
from studies.core.commands import StudyGroup, load_study
from studies.core.settings import parse_grid, parse_seeds

if TYPE_CHECKING:
    from studies.core.sweep_engines import Engine
    from studies.core.sweep_results import Value
    from studies.core.sweep_units import Combination, Outcome


@click.command("sweep", short_help="Measure many seeds and settings, here or on other machines.")
@click.argument("study")
@click.option("--seeds", required=True, metavar="0-19", help="Numbers and ranges: 0-19,25.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=A,B",
    help="Values of a setting; several of these make a grid. Lists are separated by semicolons.",
)
@click.option("--out", metavar="PATH", help="Folder of the sweep.  [default: runs/STUDY-sweep]")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the study's data files.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes on this machine.")
@click.option("--workers", type=click.IntRange(min=1), help="Dask workers on this machine.")
@click.option("--scheduler", metavar="tcp://HOST:PORT", help="Address of a Dask scheduler.")
@click.option("--units-only", is_flag=True, help="Write no results: a later call gathers them.")
@click.option(
    "--fast",
    is_flag=True,
    help="Smoke test with a tiny configuration; the numbers are meaningless.",
)
@click.pass_context
def sweep_study(
    context: click.Context,
    study: str,
    seeds: str,
    settings: tuple[str, ...],
    out: str | None,
    data: Path | None,
    jobs: int | None,
    workers: int | None,
    scheduler: str | None,
    units_only: bool,
    fast: bool,
) -> None:
    r"""Measure a study under every combination of settings, seed by seed.

    A unit is one seed of one part of the study under one combination. Finished units are kept and
    never measured again. One that fails leaves its traceback in failed/, and the others go on.

    \b
    python -m studies sweep toy --seeds 0-19 --set sigma=0.1,0.3 --jobs 4
    """
    from studies.core.sweep import combinations

    with report_errors():
        engine = _engine(jobs, workers, scheduler)
        kind = _study(context, study)
        config = kind.config_type().fast() if fast else kind.config_type()
        grid: dict[str, tuple[Any, ...]] = {}
        for text in settings:
            name, values = parse_grid(kind.config_type, text)
            if name in grid:
                raise ValueError(f"--set {name} should be given once; got {text!r} as well")
            grid[name] = values
        if data is not None and not kind.reads_files:
            raise ValueError(f"--data is for studies that read files; {study} reads none")
        folder = folder_for_results(f"runs/{study}-sweep" if out is None else out)
        todo = combinations(kind, config, grid, folder, data)
        try:
            failures = _sweep(todo, parse_seeds(seeds), folder, engine, units_only)
        except KeyboardInterrupt:
            click.echo(f"Stopped. Finished units are kept in {folder}; run it again.", err=True)
            raise SystemExit(130) from None
    if failures:
        raise SystemExit(1)


def _engine(
    jobs: int | None, workers: int | None, scheduler: str | None
) -> contextlib.AbstractContextManager[Engine] | None:
    from studies.core.sweep_engines import dask_workers, processes

    given = {"--jobs": jobs, "--workers": workers, "--scheduler": scheduler}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ValueError(f"{' and '.join(names)} exclude each other: give one of them")
    if jobs is not None:
        return processes(jobs)
    return dask_workers(workers, scheduler) if names else None


def _study(context: click.Context, name: str) -> Any:
    group = context.parent.command if context.parent else None
    studies = group.studies if isinstance(group, StudyGroup) else {}
    if name not in studies:
        near = difflib.get_close_matches(name, studies, n=1)
        hint = f"did you mean {near[0]}?" if near else f"they are {', '.join(studies)}"
        raise ValueError(f"there is no study {name!r}: {hint}")
    return load_study(studies[name])


def _sweep(
    todo: list[Combination],
    seeds: tuple[int, ...],
    folder: Path,
    engine: contextlib.AbstractContextManager[Engine] | None,
    units_only: bool,
) -> int:
    """Measure, report and write a sweep; returns how many units failed."""
    from studies.core.sweep import measure
    from studies.core.sweep_results import DATASET, VALUES, values_of, write_results

    with _Progress() as progress:

        def report(outcome: Outcome) -> None:
            where = outcome.unit.failure.relative_to(folder.resolve())
            progress.line(f"failed: {outcome.unit.name}: {outcome.error} ({folder / where})")

        everything, outcomes = measure(todo, seeds, engine, progress, report)
    failures = sum(bool(outcome.error) for outcome in outcomes)
    done = sum(not outcome.error and outcome.unit.part is not None for outcome in outcomes)
    whole = sum(m.found(seed) is not None for m in everything for seed in seeds)
    click.echo(
        f"{done} units done, {failures} failed; "
        f"{whole} of {len(todo) * len(seeds)} seeds and settings are finished."
    )
    if whole and not units_only:
        values = values_of(everything, seeds)
        write_results(folder, everything, seeds, values)
        _print_table(todo[0].study.title, values)
        click.echo(f"Results in {folder}: {DATASET} (by xarray.load_dataset), {VALUES}")
    return failures


class _Progress:
    """The progress of the whole on stderr: a bar on a terminal, else one line a unit."""

    def __init__(self) -> None:
        self.console = make_console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self.bar = Progress(*columns, TimeElapsedColumn(), console=self.console, transient=True)
        self.task = self.bar.add_task("starting", total=None)

    def __enter__(self) -> _Progress:
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.bar.stop()

    def __call__(self, done: int, total: int, what: str) -> None:
        self.bar.update(self.task, completed=done, total=total, description=escape(what))
        if not self.console.is_terminal:
            self.line(f"{done}/{total}: {what}")

    def line(self, text: str) -> None:
        """Print one line above the bar."""
        self.console.print(escape(text), soft_wrap=True, highlight=False)


def _print_table(title: str, values: list[Value]) -> None:
    """Print the means over seeds of quantities with a target, or of all where there is none."""
    from studies.core.sweep_units import shown
    from studies.core.table import Row

    chosen = {v.quantity for v in values if v.row.target} or {v.quantity for v in values}
    names = [*dict(values[0].settings)]
    vary = [name for name in names if len({dict(v.settings)[name] for v in values}) > 1]
    lines: dict[str, dict[tuple[str, ...], list[float]]] = {}
    for v in values:
        if v.quantity in chosen:
            levels = tuple(shown(dict(v.settings)[name]) for name in vary)
            lines.setdefault(v.quantity, {}).setdefault(levels, []).append(v.value)
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("quantity", *vary):
        table.add_column(name)
    table.add_column("mean ± SEM", justify="right", no_wrap=True)
    table.add_column("seeds", justify="right")
    for quantity, by_levels in lines.items():
        for i, (levels, of_seeds) in enumerate(by_levels.items()):
            row = Row.of("", quantity, of_seeds)
            cells = (quantity if i == 0 else "", *levels, row.mean_and_sem, str(len(of_seeds)))
            table.add_row(*map(escape, cells))
    make_console().print(table)
