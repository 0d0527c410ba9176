"""Results that were measured again: each seed agrees, or the difference is reported."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from gbi_pyro.files import Manifest
from studies.core import check_results
from studies.core.check_results import CHECKED, compare, main, measure_again
from studies.core.protocol import Found, Report, Seeds, Study
from studies.core.runner import run
from studies.core.table import Row


@dataclass(frozen=True)
class Config(Seeds):
    """A study's settings.

    Attributes:
        seeds: how many.
        first_seed: the first one.
        sizes: of what is drawn.
    """

    sizes: tuple[int, ...] = (3, 4)


@dataclass(frozen=True)
class Draws:
    means: list[float]


class Drawn(Study[Config]):
    """Means of random numbers."""

    name = "drawn"
    title = "Means of random numbers"
    config_type = Config

    def measure(self, seed: int, report: Report) -> Draws:
        draw = np.random.default_rng(seed)
        return Draws([float(draw.normal(size=n).mean()) for n in self.config.sizes])

    def table(self, found: Found) -> list[Row]:
        records = found[self.name]
        rows = [
            Row.of("T9", f"mean of {n}", [r.means[i] for r in records])
            for i, n in enumerate(self.config.sizes)
        ]
        overall = float(np.mean([r.means for r in records]))
        return [*rows, Row.of("", "over all seeds", [overall]), Row.of("", "seconds", [overall])]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    return run(Drawn(Config(seeds=4, first_seed=2)), tmp_path / "drawn").folder


def test_seeds_measured_again_agree(stored, tmp_path):
    comparison = measure_again(Drawn, stored, 2, tmp_path / "again")
    assert comparison.differences == ()
    assert comparison.compared == 2  # what is over all seeds depends on how many there are


def test_a_changed_value_is_found_in_its_row_and_seed(stored, tmp_path):
    path = stored / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["rows"][1]["values"][1] += 0.5
    metrics["rows"][0]["values"][3] += 0.5  # a seed that is not measured again
    path.write_text(json.dumps(metrics))
    with pytest.raises(ValueError, match=r"metrics.json should be as the run wrote it"):
        measure_again(Drawn, stored, 2, tmp_path / "again")
    Manifest.write(stored)
    comparison = measure_again(Drawn, stored, 2, tmp_path / "again")
    (difference,) = comparison.differences
    assert "mean of 4 (T9), seed 3" in difference


def test_results_of_other_settings_are_refused(stored, tmp_path):
    path = stored / "config.json"
    about = json.loads(path.read_text())
    about["config"]["width"] = 2
    path.write_text(json.dumps(about))
    Manifest.write(stored)
    with pytest.raises(ValueError, match="width"):
        measure_again(Drawn, stored, 2, tmp_path / "again")


@pytest.mark.parametrize(
    ("old", "new", "agree"),
    [
        (1.0, 1.0009, True),
        (1.0, 1.002, False),
        (0.0, 1e-12, True),
        (1e-6, 2e-6, False),
        (None, None, True),
        (None, 1.0, False),
    ],
)
def test_values_agree_within_a_thousandth_or_rounding(old, new, agree):
    def table(value):
        return [{"claim": "", "what": "x", "values": [value]}]

    comparison = compare(table(old), table(new), (0,), 1)
    assert (comparison.differences == ()) is agree


def test_rows_that_came_or_went_are_differences():
    rows = [{"claim": "", "what": what, "values": [1.0]} for what in ("a", "a", "b")]
    comparison = compare(rows[:2], rows[1:], (0,), 1)
    assert comparison.differences == (
        "a, 2: not in the new table",
        "b: not in the stored table",
    )


def test_the_command_fails_where_results_differ(stored, tmp_path, monkeypatch):
    monkeypatch.setattr(check_results, "CHECKED", {"drawn": 2, "gone": 1})
    monkeypatch.setattr("studies.__main__.STUDIES", {"drawn": "unused"})
    monkeypatch.setattr(check_results, "load_study", lambda _place: Drawn)
    arguments = ["--results", str(tmp_path)]
    fine = CliRunner().invoke(main, arguments)
    assert fine.exit_code == 0
    assert fine.output.splitlines() == [
        "drawn: 2 rows compared, 0 differences",
        f"gone: no run in {tmp_path / 'gone'}, not checked",
    ]
    run(Drawn(replace(Config(seeds=4, first_seed=2), sizes=(5, 6))), stored)
    assert CliRunner().invoke(main, arguments).exit_code == 0
    text = (stored / "metrics.json").read_text()
    (stored / "metrics.json").write_text(text.replace("mean of 5", "mean of five"))
    altered = CliRunner().invoke(main, arguments)
    assert altered.exit_code == 2
    assert "should be as the run wrote it" in altered.stderr
    Manifest.write(stored)
    assert CliRunner().invoke(main, arguments).exit_code == 1


def test_checked_results_are_named_as_their_folders():
    assert set(CHECKED) <= {path.name for path in Path("results").iterdir()}
