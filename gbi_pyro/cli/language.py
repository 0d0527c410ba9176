"""``gbi-pyro language``: name the corpus, and adapt to a new one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gbi_pyro.cli.shared import FirstSeed, console, said_in_words, summarise, watched


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
    first_seed: FirstSeed = 0,
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

    with said_in_words():
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
    with watched(out, num_stages(config, texts)) as report:
        results = run(config, texts, out, report)
    shown = [row for row in results.rows if row.bar is not None or row.statement in ("L1", "L2")]
    print_table(f"Language study, {seeds} seed(s). Losses and KL in nats", shown, console)
    if results.adapted:
        print_adaptation(results.adapted, console)
    summarise(results.bars, out, results.figures)
