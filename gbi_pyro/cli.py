"""The command line, ``gbi-pyro``: a command for each study, and ``check``. No mathematics here."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from gbi_pyro.data.images import ImageSets
    from gbi_pyro.experiments.results import Row

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Infer which task is going on, with the exact posterior beside every estimate.",
)
WIDTH_OF_A_FILE = 110  # where the output is no terminal, whose width is known
console = Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE)
errors = Console(stderr=True)


@app.callback()
def main() -> None:
    """Set what belongs to the process: one thread, which small networks are fastest on."""
    torch.set_num_threads(1)


@app.command()
def toy(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/toy"),
    seeds: Annotated[
        int, typer.Option(help="Networks of each kind; 20 is the full study.", min=1)
    ] = 5,
    first_seed: Annotated[int, typer.Option(help="The first seed.", min=0)] = 0,
    fast: Annotated[
        bool, typer.Option("--fast", help="Run through everything in seconds; shows nothing.")
    ] = False,
) -> None:
    """Run the paper's toy study (Figures 1-3, Table 1) beside the exact posterior."""
    from gbi_pyro.experiments.results import print_table
    from gbi_pyro.experiments.toy.config import ToyConfig
    from gbi_pyro.experiments.toy.study import num_stages, run

    config = replace(ToyConfig(), seeds=seeds, first_seed=first_seed)
    if fast:
        config = config.fast()
    with _watched(out, num_stages(config)) as report:
        results = run(config, out, report)
    title = (
        f"Toy study, {config.seeds} seeds. Errors are mean squared errors; KL is KL(exact || "
        "estimate) in nats per step."
    )
    print_table(title, results.rows, console)
    _summarise(results.rows, out, results.figures)


@app.command()
def images(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/images"),
    dataset: Annotated[
        str, typer.Option(help="digits, mnist, fashion, cifar10 or cifar100.")
    ] = "digits",
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with the image files; else GBI_PYRO_DATA, else a download."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Networks of each kind.", min=1)] = 3,
    first_seed: Annotated[int, typer.Option(help="The first seed.", min=0)] = 0,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.", min=1)] = 10,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Also train at several widths of the bottleneck.")
    ] = False,
) -> None:
    """Name the class of images in one pass and in every other way, beside the exact posterior."""
    from gbi_pyro.experiments.images.config import ImagesConfig
    from gbi_pyro.experiments.images.rows import print_methods
    from gbi_pyro.experiments.images.study import num_stages, run
    from gbi_pyro.experiments.results import print_table

    config = ImagesConfig(dataset, seeds, first_seed, epochs, sweep=sweep)
    sets = _load(dataset, data)
    with _watched(out, num_stages(config)) as report:
        results = run(config, sets, out, report)
    title = (
        f"{dataset}, {config.seeds} seeds, {len(sets.test.x)} test images. ECE, Brier and -log p "
        "after one temperature, chosen on validation; KL(exact || it) in nats per image"
    )
    print_methods(title, results.by_seed, console)
    print_table("Bars are those for MNIST", results.bars, console)
    _summarise(results.bars, out, results.figures)


@app.command()
def ood(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/ood"),
    dataset: Annotated[str, typer.Option(help="The known images.")] = "digits",
    other: Annotated[
        str | None, typer.Option(help="The unknown ones, and the known of the other direction.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with the image files; else GBI_PYRO_DATA, else a download."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Networks of each kind.", min=1)] = 1,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.", min=1)] = 10,
    ensemble: Annotated[int, typer.Option(help="Classifiers in the ensemble.", min=1)] = 5,
) -> None:
    """Tell images of an unknown kind from those of a known one, by every score."""
    from gbi_pyro.experiments.images.config import ImagesConfig
    from gbi_pyro.experiments.images.outlier_study import (
        OutlierConfig,
        check_sets,
        num_stages,
        print_cases,
        run,
    )

    images = ImagesConfig(dataset=dataset, seeds=seeds, epochs=epochs)
    config = OutlierConfig(images, other, ensemble)
    sets = [_load(name, data) for name in (dataset, other) if name]
    with _said_in_words():
        check_sets(sets)
    with _watched(out, num_stages(config)) as report:
        results = run(config, sets, out, report)
    print_cases(results.cases, results.default, console)
    _say_bars(results.rows)
    console.print(
        f"Results, with intervals and false positive rates: {out}/metrics.json, table.md\n"
        f"Figures, one for each case: {out}/figures"
    )


@app.command()
def language(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/language"),
    corpora: Annotated[
        Path | None,
        typer.Option(
            help="Folder with train/, dev/ and test/, a file for each corpus; without it, random "
            "bigram languages, whose posterior is exact."
        ),
    ] = None,
    draws: Annotated[int, typer.Option(help="Draws of 3 of the corpora.", min=0)] = 3,
    seeds: Annotated[int, typer.Option(help="Networks of each kind.", min=1)] = 1,
    first_seed: Annotated[int, typer.Option(help="The first seed.", min=0)] = 0,
    all_at_once: Annotated[
        bool,
        typer.Option("--all-at-once/--not-all-at-once", help="Also learn all corpora together."),
    ] = True,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Also adapt to each corpus left out in turn.")
    ] = False,
    jobs: Annotated[int, typer.Option(help="Networks trained side by side.", min=1)] = 2,
) -> None:
    """Name the corpus from a few words, and adapt to a new one (the paper's Figure 5)."""
    from gbi_pyro.data.text import read_corpora
    from gbi_pyro.experiments.language.config import LanguageConfig
    from gbi_pyro.experiments.language.rows import print_adaptation
    from gbi_pyro.experiments.language.study import num_stages, run
    from gbi_pyro.experiments.language.texts import bigram_texts, corpora_texts
    from gbi_pyro.experiments.results import print_table

    with _said_in_words():
        config = LanguageConfig(
            seeds,
            first_seed,
            draws,
            all_at_once=all_at_once,
            leave_one_out=leave_one_out,
            jobs=jobs,
        )
        if corpora is None:
            config = config.for_bigrams()
            texts = [bigram_texts(config)]
        else:
            texts = corpora_texts(config, read_corpora(corpora))
    with _watched(out, num_stages(config, texts)) as report:
        results = run(config, texts, out, report)
    shown = [row for row in results.rows if row.bar is not None or row.statement in ("L1", "L2")]
    print_table(f"Language study, {seeds} seed(s). Losses and KL in nats", shown, console)
    if results.adapted:
        print_adaptation(results.adapted, console)
    _summarise(results.bars, out, results.figures)


@app.command()
def discover(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/discover"),
    seeds: Annotated[
        int, typer.Option(help="Data sets of each kind; 20 is the full study.", min=1)
    ] = 5,
    first_seed: Annotated[int, typer.Option(help="The first seed.", min=0)] = 0,
    fast: Annotated[
        bool, typer.Option("--fast", help="Run through everything in seconds; shows nothing.")
    ] = False,
) -> None:
    """Learn tasks without labels, online and in batches, beside the exact filter and rivals."""
    from gbi_pyro.experiments.discover.config import DiscoverConfig
    from gbi_pyro.experiments.discover.rows import print_online
    from gbi_pyro.experiments.discover.study import num_stages, run
    from gbi_pyro.experiments.results import print_table

    config = DiscoverConfig(seeds=seeds, first_seed=first_seed)
    if fast:
        config = config.fast()
    with _watched(out, num_stages(config)) as report:
        results = run(config, out, report)
    print_online("Z accuracy, median, and MSE over the exact filter's", results.online, console)
    print_table(f"Learning without labels, {config.seeds} seeds", results.bars, console)
    _summarise(results.bars, out, results.figures)


@app.command()
def check(
    model: Annotated[str, typer.Argument(help="The Pyro model, as module:attribute.")],
    data: Annotated[
        str | None,
        typer.Option(help="Its arguments, as module:attribute: a tuple, or a function giving one."),
    ] = None,
) -> None:
    """Say what is wrong with a model's task sites before a run does."""
    from gbi_pyro.check import check_model, load_object

    with _said_in_words():
        target = load_object(model)
        args = load_object(data, must_be_callable=False) if data else ()
    args = args() if callable(args) else args
    report = check_model(target, *(args if isinstance(args, tuple) else (args,)))
    for finding in report.findings:
        console.print(str(finding), markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(0 if report.ok else 1)


@contextlib.contextmanager
def _watched(out: Path, stages: int) -> Iterator[Callable[[str], None]]:
    """Show progress while a study runs; a stop by Ctrl-C is told in words."""
    _check_folder(out)
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
def _said_in_words() -> Iterator[None]:
    """Turn what is wrong with the input into one line and exit status 2."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        errors.print(f"[red]error:[/] {escape(str(error))}")
        raise typer.Exit(2) from None


def _load(name: str, data: Path | None) -> ImageSets:
    """Load an image set, or say in words why not."""
    from gbi_pyro.data.images import load_images

    with _said_in_words():
        return load_images(name, None if name == "digits" else data)


def _say_bars(rows: Sequence[Row]) -> None:
    """Say which bars are not met."""
    short = [row for row in rows if row.verdict == "not met"]
    if short:
        console.print(f"{len(short)} bar(s) not met: " + "; ".join(row.what for row in short))


def _summarise(rows: Sequence[Row], out: Path, figures: Sequence[Path]) -> None:
    """Say which bars are not met, and where everything lies."""
    _say_bars(rows)
    files = ("metrics.json", "table.md", "posterior.nc", "weights.safetensors", "config.json")
    written = ", ".join(name for name in files if (out / name).exists())
    console.print(f"Results in {out}: {written} (posterior.nc by arviz.from_netcdf)")
    console.print("Figures: " + ", ".join(map(str, figures)))


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        errors.print(f"[red]error:[/] --out {out} is a file; expected a folder, new or not")
        raise typer.Exit(2)


if __name__ == "__main__":
    app()
