"""The studies' command line: options from configurations, errors in one line."""

import errno
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner

from gbi_pyro.data.images import DATASETS
from gbi_pyro.files import Manifest
from studies.__main__ import STUDIES, app
from studies.core.claims import CLAIMS, as_markdown
from studies.core.commands import load_study, study_command
from studies.core.image_data import Dataset
from studies.core.protocol import Found, Report, Seeds, Study
from studies.core.run_folder import RunFolder
from studies.core.table import Row, Target


@dataclass(frozen=True)
class Config(Seeds):
    """Settings.

    Attributes:
        seeds: how many.
        first_seed: the first one.
        sigmas: the noise
            of each stream.
        deep: whether it is deep.
        name: of something; None for nothing.
    """

    seeds: int = 1
    sigmas: tuple[float, ...] = (0.1, 0.3)
    deep: bool = False
    name: str | None = None

    def __post_init__(self) -> None:
        self.check_at_least_one("seeds")

    def fast(self) -> "Config":
        return replace(self, sigmas=(9.0,))


@dataclass(frozen=True)
class Seen:
    text: str


class Echo(Study[Config]):
    name = "echo"
    title = "Says which settings it was given"
    config_type = Config

    def measure(self, seed: int, report: Report) -> Seen:
        return Seen(f"{self.config.sigmas} {self.config.deep} {self.config.name}")

    def table(self, found: Found) -> list[Row]:
        return [Row.of("", r.text, [0.0]) for r in found["echo"]]


def echo(tmp_path, *args):
    return CliRunner().invoke(study_command(Echo), ["--out", str(tmp_path / "run"), *args])


@pytest.mark.parametrize(
    ("args", "seen"),
    [
        ((), "(0.1, 0.3) False None"),
        (("--sigmas", "0.5", "--deep", "--name", "a"), "(0.5,) True a"),
        (("--sigmas", "0.5,1"), "(0.5, 1.0) False None"),
        (("--fast", "--no-deep"), "(9.0,) False None"),
        (("--set", "sigmas=0.5,1", "--set", "deep=yes"), "(0.5, 1.0) True None"),
    ],
)
def test_fields_of_the_configuration_are_options(tmp_path, args, seen):
    result = echo(tmp_path, *args)
    assert result.exit_code == 0, result.output
    assert seen in " ".join(result.output.split())


def test_the_help_describes_each_field_with_its_default(tmp_path):
    text = " ".join(echo(tmp_path, "--help").output.split())
    for words in ("the noise of each stream.", "[default: 0.1,0.3]", "--deep / --no-deep"):
        assert words in text


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--seeds", "0"), "--seeds must be at least 1"),
        (("--sigmas", "a"), "expected float values with commas"),
        (("--set", "sigma=1"), "did you mean sigmas?"),
        (("--set", "seeds=2", "--seeds", "2"), "seeds should be given once"),
        (("--set", "seeds=0"), "--seeds must be at least 1"),
    ],
)
def test_invalid_settings_are_one_line_and_status_2(tmp_path, args, words):
    result = echo(tmp_path, *args)
    assert result.exit_code == 2
    assert words in " ".join((result.output + result.stderr).split())
    assert not (tmp_path / "run").exists()


def test_a_file_is_no_folder_for_results(tmp_path):
    path = tmp_path / "file"
    path.write_text("kept")
    result = CliRunner().invoke(study_command(Echo), ["--out", str(path)])
    assert result.exit_code == 2
    assert "expected a folder" in " ".join(result.stderr.split())
    assert path.read_text() == "kept"


def test_an_empty_name_is_no_folder_for_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(study_command(Echo), ["--out", ""])
    assert result.exit_code == 2
    assert "--out should name a folder" in result.stderr
    assert [*tmp_path.iterdir()] == []


def test_a_study_that_reads_no_files_has_no_folder_of_data(tmp_path):
    result = echo(tmp_path, "--data", "/nope")
    assert result.exit_code == 2
    assert "No such option" in result.stderr


@pytest.mark.parametrize("name", [n for n in STUDIES if load_study(STUDIES[n]).reads_files])
def test_files_for_what_needs_none_are_refused(tmp_path, name):
    dataset = [] if name in ("bench", "language", "sequences") else ["--dataset", "digits"]
    out = ["--fast", "--out", str(tmp_path / "run"), "--data", str(tmp_path / "nope")]
    result = CliRunner().invoke(app, [name, *dataset, *out])
    assert result.exit_code == 2
    assert "nope" in result.stderr.splitlines()[-1]


def test_the_way_to_read_a_posterior_is_told_where_there_is_one(tmp_path):
    assert "from_netcdf" not in echo(tmp_path).output


def test_the_folder_of_another_study_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"study": "toy"}')
    result = echo(tmp_path)
    assert result.exit_code == 2
    assert "it holds one of toy" in result.stderr
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["config.json"]


def test_a_run_is_repeated_from_its_configuration_on_disk(tmp_path):
    """Exactly; and options given beside the file change single settings."""
    first = echo(tmp_path, "--sigmas", "0.1,0.30000000000000004", "--name", "a b", "--seeds", "2")
    assert first.exit_code == 0
    file = tmp_path / "run" / "config.json"
    again = ["--config", str(file), "--out", str(tmp_path / "again")]
    assert CliRunner().invoke(study_command(Echo), again).exit_code == 0
    one, two = (json.loads((tmp_path / f / "config.json").read_text()) for f in ("run", "again"))
    assert one == two
    assert echo(tmp_path, *again, "--name", "c").exit_code == 0
    changed = json.loads((tmp_path / "again" / "config.json").read_text())["config"]
    assert changed == {**one["config"], "name": "c"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"study": "toy", "config": {}}', "should be of a run of echo; it is of toy"),
        ('{"study": "echo", "config": {}}', "should have the fields of Config"),
        ("[]", "should be the config.json of a run"),
        ("{", "should be the config.json of a run"),
    ],
)
def test_a_file_of_no_such_run_is_refused(tmp_path, content, words):
    (tmp_path / "config.json").write_text(content)
    result = echo(tmp_path, "--config", str(tmp_path / "config.json"))
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert not (tmp_path / "run").exists()


def test_rows_as_json_are_all_of_stdout_and_those_on_disk(tmp_path):
    result = echo(tmp_path, "--json")
    found = json.loads(result.stdout)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found == {
        "study": "echo",
        "folder": str(tmp_path / "run"),
        "rows": metrics["rows"],
    }


@pytest.mark.parametrize(("limit", "status"), [(-1.0, 1), (1.0, 0)])
def test_a_missed_target_is_status_1_where_that_is_asked_for(tmp_path, monkeypatch, limit, status):
    rows = [Row.of("T9", "error", [0.0], Target(limit))]
    monkeypatch.setattr(Echo, "table", lambda _self, _found: rows)
    assert echo(tmp_path).exit_code == 0
    assert echo(tmp_path, "--strict").exit_code == status


def test_without_a_terminal_each_stage_is_a_plain_line_on_stderr(tmp_path):
    lines = echo(tmp_path, "--seeds", "2").stderr.splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines] == [
        "1/4  choices on validation seeds",
        "2/4  seed 0: echo",
        "3/4  seed 1: echo",
        "4/4  table, figures and files",
    ]


def test_the_help_has_examples_whose_options_exist_and_the_exit_status():
    text = CliRunner().invoke(app, ["--help"]).output
    assert "Exit status: 0: done." in text
    commands = [line.split() for line in text.splitlines() if "python -m studies" in line]
    assert len(commands) >= 3
    for _, _, _, name, *rest in commands:
        known = CliRunner().invoke(app, [name, "--help"]).output
        assert all(option in known for option in rest if option.startswith("--"))


def test_a_full_disk_loses_no_unit(tmp_path, monkeypatch):
    """The results cannot be written: one line, status 2, and the next run measures nothing."""
    measured = []

    def measure(self, seed, report):
        measured.append(seed)
        return Seen("seen")

    def refused(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    measure.__annotations__["return"] = Seen
    monkeypatch.setattr(Echo, "measure", measure)
    with monkeypatch.context() as full:
        full.setattr(RunFolder, "write_metrics", refused)
        result = echo(tmp_path, "--seeds", "2")
    assert result.exit_code == 2
    error = result.stderr.splitlines()[-1]
    assert "the results cannot be written ([Errno 28] No space left" in error
    assert "every finished unit is kept" in error
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["pieces"]
    assert echo(tmp_path, "--seeds", "2").exit_code == 0
    assert measured == [0, 1]


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_a_command_whose_help_names_its_seeds(name):
    study = load_study(STUDIES[name])
    assert (study.name, issubclass(study.config_type, Seeds)) == (name, True)
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    assert "--seeds" in result.output


def test_the_help_lists_every_study():
    output = CliRunner().invoke(app, ["--help"]).output
    assert all(name in output for name in STUDIES)


def test_every_claim_is_one_sentence_in_the_list():
    codes = [f"M{i}" for i in (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13)]
    codes += [f"T{i}" for i in range(1, 14)] + [f"I{i}" for i in range(1, 8)]
    codes += [f"L{i}" for i in range(1, 5)] + [f"C{i}" for i in range(1, 8)]
    codes += [f"D{i}" for i in range(1, 10)] + [f"S{i}" for i in range(1, 5)]
    codes += [f"B{i}" for i in range(1, 12)]
    assert set(CLAIMS) == set(codes)
    assert all(claim.sentence.endswith(".") for claim in CLAIMS.values())
    assert as_markdown().count('<a id="') == len(codes)


def test_a_published_run_stands_in_the_index_with_its_targets(tmp_path):
    assert echo(tmp_path).exit_code == 0
    results = tmp_path / "results"
    publish = ("publish", str(tmp_path / "run"), "--results", str(results))
    assert CliRunner().invoke(app, publish).exit_code == 0
    assert sorted(p.name for p in (results / "echo").iterdir()) == [
        "config.json",
        "metrics.json",
        "run.json",
        "table.md",
    ]
    assert (
        "| [echo](echo/table.md) | `echo` | 1 | none set |" in (results / "README.md").read_text()
    )
    assert CliRunner().invoke(app, ["index", "--results", str(results)]).exit_code == 0
    assert (results / "claims.md").read_text() == as_markdown()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("publish", "nowhere"), "folder of a finished run"),
        (("publish", "a", "b", "--name", "c"), "for a single run"),
        (("index",), "should hold folders of finished studies"),
    ],
)
def test_what_cannot_be_published_is_refused(tmp_path, args, words):
    result = CliRunner().invoke(app, [*args, "--results", str(tmp_path)])
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


def test_a_published_run_replaces_the_earlier_one_whole_and_an_altered_one_is_refused(tmp_path):
    assert echo(tmp_path).exit_code == 0
    publish = ["publish", str(tmp_path / "run"), "--results", str(tmp_path / "results")]
    assert CliRunner().invoke(app, publish).exit_code == 0
    folder = tmp_path / "results" / "echo"
    (folder / "old.png").write_text("")
    assert CliRunner().invoke(app, publish).exit_code == 0
    assert not (folder / "old.png").exists()
    metrics = tmp_path / "run" / "metrics.json"
    metrics.write_text(metrics.read_text().replace("0.0", "1.0"))
    result = CliRunner().invoke(app, publish)
    assert result.exit_code == 2
    assert "metrics.json should be as the run wrote it" in result.stderr
    assert {p.name for p in (tmp_path / "results").iterdir()} == {"echo", "README.md"}
    (folder / "metrics.json").write_bytes(metrics.read_bytes())
    index = CliRunner().invoke(app, ["index", "--results", str(tmp_path / "results")])
    assert index.exit_code == 2
    assert "metrics.json should be as the run wrote it" in index.stderr


def test_published_results_are_as_they_were_written():
    folders = [path.parent for path in Path("results").glob("*/metrics.json")]
    assert folders
    for folder in folders:
        manifest = Manifest.read(folder)
        for name in manifest.files:
            manifest.read_bytes(name)
        assert {p.name for p in folder.iterdir()} == {*manifest.files, "run.json"}


def test_the_sets_of_a_command_are_those_of_the_library():
    assert get_args(Dataset) == DATASETS
    for name in ("images", "ood", "baselines", "unsupervised_images"):
        result = CliRunner().invoke(app, [name, "--dataset", "nope"])
        assert result.exit_code == 2
        assert "Invalid value for '--dataset'" in result.stderr
