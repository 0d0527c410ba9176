"""Run every benchmark and print one table: ``python -m benchmarks [--fast] [--out FILE]``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.chains import LARGEST, chains, streams
from benchmarks.enumeration import enumeration
from benchmarks.fits import fits
from benchmarks.gate import gate
from benchmarks.images import images
from benchmarks.joints import joints
from benchmarks.language import language
from benchmarks.online import online
from benchmarks.overhead import overhead
from benchmarks.results import write_results
from benchmarks.stepwise import stepwise_evidence
from benchmarks.training_step import training_step
from studies.core.table import print_table


def main() -> None:
    """Run them on one thread."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--fast", action="store_true", help="smoke test with few repeats")
    parser.add_argument("--out", type=Path, help="also write the table here, as Markdown")
    options = parser.parse_args()
    fast = options.fast
    torch.set_num_threads(1)
    rows = [
        *training_step(0.5 if fast else 30),
        *overhead(0.2 if fast else 20),
        *stepwise_evidence(0.2 if fast else 10),
        *enumeration(0.2 if fast else 10, 320 if fast else 32_000),
        *online(1 if fast else 20),
        *images(0.2 if fast else 8),
        *language(0.2 if fast else 8),
        *gate(10 if fast else 150),
        *fits(1 if fast else 5, 2 if fast else 20),
        *joints(0.5 if fast else 20),
        *streams(0.2 if fast else 10),
        *chains(0.1 if fast else 4, 10_000 if fast else LARGEST),
    ]
    print_table("Benchmarks: ratios of runs interleaved in one process", rows, Console(width=110))
    if options.out is not None:
        write_results(options.out, rows, fast=fast)


if __name__ == "__main__":
    main()
