"""Runs made by the studies' command line and compared by the library's."""

import csv
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from matplotlib.image import imread
from typer.main import get_command

from gbi_pyro.cli import app
from gbi_pyro.files import Manifest
from gbi_pyro.metrics.runs import compare_runs
from studies.__main__ import app as studies


def compare(*args: str) -> Result:
    return CliRunner().invoke(get_command(app), ["compare", *args])


def told_or_not(*args: str) -> Result:
    threads = torch.get_num_threads()
    result = CliRunner().invoke(studies, ["told_or_not", *args])
    torch.set_num_threads(threads)
    return result


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    torch.set_num_threads(1)
    folders = []
    for task in ("labels", "none", "shuffled"):
        folder = tmp_path_factory.mktemp("runs") / task
        result = told_or_not("--task", task, "--fast", "--out", str(folder))
        assert result.exit_code == 0, result.output
        assert "held-out" in result.output
        folders.append(str(folder))
    return folders


def test_from_training_to_table(runs: list[str], tmp_path: Path) -> None:
    out = tmp_path / "compare"
    result = compare(*runs, "--out", str(out))
    assert result.exit_code == 0, result.output
    table = compare_runs([Path(run) for run in runs])
    read = json.loads((out / "comparison.json").read_text())
    assert read == {"caption": table.caption, "rows": table.records()}
    with (out / "comparison.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for line, record in zip(lines, table.records(), strict=True):
        assert {k: v or None for k, v in line.items()} == {
            k: None if v is None else str(v) for k, v in record.items()
        }
    again = compare(*runs, "--out", str(out), "--json")
    assert json.loads(again.stdout) == read
    words = " ".join(result.output.split())
    assert "prequential code length" in words
    assert "log evidence" in words
    assert {record["pairs"] for record in table.records()} == {3, 9}
    assert imread(out / "figures" / "comparison.png").std() > 0


def test_another_reference_gives_other_signs(runs: list[str], tmp_path: Path) -> None:
    outs = [tmp_path / "there", tmp_path / "back"]
    for out, pair in zip(outs, (runs[:2], runs[1::-1]), strict=True):
        assert compare(*pair, "--out", str(out)).exit_code == 0
    there, back = (json.loads((o / "comparison.json").read_text())["rows"] for o in outs)
    for one, other in zip(there, back, strict=True):
        assert one["difference"] == pytest.approx(-other["difference"])
        assert [one["low"], one["high"]] == pytest.approx([-other["high"], -other["low"]])


def test_runs_on_other_data_are_refused_by_the_fields(runs: list[str], tmp_path: Path) -> None:
    other = tmp_path / "other"
    config = json.loads((Path(runs[1]) / "config.json").read_text())
    config["config"]["sigma"] = 0.3
    other.mkdir()
    (other / "config.json").write_text(json.dumps(config))
    (other / "metrics.json").write_bytes((Path(runs[1]) / "metrics.json").read_bytes())
    Manifest.write(other)
    out = tmp_path / "out"
    result = compare(runs[0], str(other), "--out", str(out))
    assert result.exit_code == 2
    assert "differ in sigma (0.1 and 0.3)" in " ".join(result.stderr.split())
    assert not out.exists()
    result = compare(runs[0], str(other), "--may-differ", "sigma", "--out", str(out))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--level", "95"], "level should be between 0 and 1; got 95"),
        (["--may-differ", "noise"], "may_differ should name fields"),
        (["--only", "perplexity"], "only should be part of the name"),
    ],
)
def test_invalid_options_are_reported_in_words(
    runs: list[str], tmp_path: Path, options: list[str], words: str
) -> None:
    result = compare(*runs, *options, "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_run_is_reported_in_words(runs: list[str], tmp_path: Path) -> None:
    result = compare(runs[0], str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "should be the folder of a finished run" in " ".join(result.stderr.split())
    assert compare(runs[0], "--out", str(tmp_path / "out")).exit_code == 2
    assert compare().exit_code == 2


def test_only_asks_for_some_quantities(runs: list[str], tmp_path: Path) -> None:
    out = ["--out", str(tmp_path)]
    result = compare(*runs, "--only", "prequential", "--only", "squared", *out)
    assert result.exit_code == 0
    rows = json.loads((tmp_path / "comparison.json").read_text())["rows"]
    assert len({row["quantity"] for row in rows}) == 2


def test_an_unknown_kind_of_network_is_reported_in_words(tmp_path: Path) -> None:
    result = told_or_not("--task", "label", "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    for word in ("'label'", "labels", "none", "shuffled", "unlabelled"):
        assert word in result.stderr
    assert not (tmp_path / "out").exists()
