"""The README: its example prints what it says, its commands exist, its digest is the results'."""

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from gbi_pyro.metrics.table import format_number
from studies.bench.crossing import bench

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
DIGEST = README.split("## Results")[1].split("All tables, figures and claims")[0]
LINES = [line for line in DIGEST.split("\n- ") if "](results/" in line]

NUMBERS = {
    "toy": [
        "K = 2, sigma 0.1: filtered KL, one step",
        "K = 4, sigma 0.1: filtered KL, one step",
        "K = 4, sigma 0.1: filtered KL, calibrated",
    ],
    "images": [
        "one step, affine head: accuracy, %",
        "exact in code space, affine head: accuracy, %",
        "one step, paper's network: accuracy, %",
        "classifier of the same encoder: accuracy, %",
    ],
    "ood": [
        "mnist -> fashion, normalised: AUROC, default (cosine of residual and class)",
        "fashion -> mnist, normalised: AUROC, default (cosine of residual and class)",
        "mnist -> upside down, normalised: AUROC, default (cosine of residual and class)",
    ],
    "language": [
        "10 corpora: task at the input: words to the plain LSTM's final test loss, over its own",
    ],
    "unsupervised": [
        "K = 5, sigma 0.1, batch, no labels: all tasks found",
        "K = 5, sigma 0.3, batch, no labels: all tasks found",
    ],
    "sequences": [
        f"held-out choices, one trial ahead, {model}: bits a trial over the GLM"
        for model in ("4 states", "4 states, driven", "neural, 3 states", "GRU")
    ],
    "bench": [
        f"metahmm-24-T40: {method}: KL(exact || it), nats"
        for method in ("one step", "second-order joint", "second-order joint + 16 rescored")
    ],
}
"""Quantities whose mean stands in the digest, by folder of results."""


def test_it_is_short():
    assert len(README.splitlines()) <= 150


def test_the_example_prints_what_the_readme_says():
    example, _ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (printed,) = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(example, "README.md", "exec"), {})
    assert out.getvalue() == printed


def test_a_problem_and_a_method_of_your_own_join_the_benchmark():
    _, mine = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in mine.splitlines() if line]) <= 14
    names: dict[str, Any] = {}
    exec(compile(mine, "my.py", "exec"), names)
    found = bench({"mine": names["problem"]}, {"order 2": names["method"]}, cases=20, seeds=1)
    assert found.kl.item() < 1e-6  # a Gaussian mean: the second order is exact


@pytest.mark.parametrize("folder", NUMBERS)
def test_the_digest_says_what_the_results_say(folder):
    (line,) = [line for line in LINES if f"](results/{folder}/" in line]
    rows = json.loads((ROOT / "results" / folder / "metrics.json").read_text())["rows"]
    means = {row["what"]: row["mean"] for row in rows}
    numbers = {
        float(number.replace("−", "-")) for number in re.findall(r"[−-]?\d[\d.e-]*\d|\d", line)
    }
    for what in NUMBERS[folder]:
        assert float(format_number(means[what])) in numbers, f"{what}: {format_number(means[what])}"


def test_the_digest_has_a_line_for_each_of_its_studies():
    assert len(LINES) == len(NUMBERS)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(((?!http)[^)#]+)\)", README))))
def test_a_file_that_the_readme_links_is_there(path):
    assert (ROOT / path).exists()


def test_every_make_target_and_command_exists():
    targets = set(re.findall(r"^make (\w[\w-]*)", README, re.MULTILINE))
    assert targets
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in targets)


def test_every_package_stands_in_the_layout():
    layout = README.split("## Package layout")[1]
    folders = {p.name for p in (ROOT / "gbi_pyro").iterdir() if (p / "__init__.py").exists()}
    assert all(f"{folder}/" in layout for folder in folders)
