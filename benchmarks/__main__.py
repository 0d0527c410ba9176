"""Run every benchmark and print one table: ``python -m benchmarks [--fast]``."""

from __future__ import annotations

import sys

import torch
from rich.console import Console

from benchmarks.chains import LARGEST, chains, streams
from benchmarks.fits import fits
from benchmarks.gate import gate
from benchmarks.images import images
from benchmarks.joints import joints
from benchmarks.language import language
from benchmarks.online import online
from benchmarks.training_step import training_step
from studies.core.table import print_table


def main() -> None:
    """Run them on one thread."""
    torch.set_num_threads(1)
    fast = "--fast" in sys.argv[1:]
    rows = [
        *training_step(20 if fast else 400),
        *online(1 if fast else 5),
        *images(5 if fast else 40),
        *language(5 if fast else 40),
        *gate(10 if fast else 150),
        *fits(1 if fast else 5, 2 if fast else 20),
        *joints(0.5 if fast else 20),
        *streams(0.2 if fast else 10),
        *chains(0.1 if fast else 4, 10_000 if fast else LARGEST),
    ]
    print_table("Benchmarks: ratios of runs interleaved in one process", rows, Console(width=110))


if __name__ == "__main__":
    main()
