"""The studies' command line: options from configurations, errors in one line."""

from dataclasses import dataclass, replace

import pytest
from click.testing import CliRunner

from studies.__main__ import STUDIES, app
from studies.core.claims import CLAIMS, as_markdown
from studies.core.commands import load_study, study_command
from studies.core.protocol import Found, Report, Seeds, Study
from studies.core.table import Row


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
        (("--seeds", "0"), "seeds must be at least 1"),
        (("--sigmas", "a"), "expected float values with commas"),
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
    codes += [f"D{i}" for i in range(1, 10)]
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
