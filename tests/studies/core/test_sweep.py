"""Sweeps: each unit measured once, failures kept apart, results with the seed of each value."""

import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from gbi_pyro.files import Manifest
from studies.core.commands import StudyGroup
from studies.core.runner import run
from studies.core.sweep_command import sweep_study
from studies.core.sweep_results import without_settings
from tests.studies.core.swept_study import Config, Swept

ROOT = Path(__file__).resolve().parents[3]
PLACE = "tests.studies.core.swept_study:Swept"
app = StudyGroup({"swept": PLACE})
app.add_command(sweep_study)


@pytest.fixture
def trace(tmp_path):
    folder = tmp_path / "trace"
    folder.mkdir()
    return folder


def started(trace: Path) -> Counter[str]:
    """How often each unit was started."""
    return Counter(path.name.rsplit(".", 2)[0] for path in trace.iterdir())


def sweep(folder, *args, seeds="0-4"):
    out = ["--out", str(folder / "sweep")]
    return CliRunner().invoke(app, ["sweep", "swept", "--seeds", seeds, *out, *args])


def values(folder) -> xr.DataArray:
    return xr.load_dataset(folder / "sweep" / "sweep.nc")["value"]


def test_twenty_seeds_after_five_measure_fifteen_and_then_none(tmp_path, trace):
    result = sweep(tmp_path, "--set", f"trace={trace}")
    assert result.exit_code == 0, result.output
    first = values(tmp_path)
    sweep(tmp_path, "--set", f"trace={trace}", seeds="0-19")
    names = started(trace)
    assert {n for n in names if n.startswith("one")} == {f"one {s}, scale 1" for s in range(20)}
    blocks = {"0-3", "4-4", "5-8", "9-12", "13-16", "17-19"}
    assert {n for n in names if n.startswith("block")} == {f"block {b}, scale 1" for b in blocks}
    assert set(names.values()) == {1}
    assert values(tmp_path).sel(seed=slice(0, 4)).equals(first)
    result = sweep(tmp_path, "--set", f"trace={trace}", seeds="0-19")
    assert "0 units done, 0 failed; 20 of 20" in result.output
    assert started(trace) == names


def test_values_are_those_of_a_run_of_all_seeds_with_their_seeds(tmp_path):
    sweep(tmp_path, "--set", "scale=1,2.5", "--set", "shift=0,10", seeds="2,7,3")
    found = values(tmp_path)
    assert found.dims == ("quantity", "scale", "shift", "seed")
    assert [*found.quantity.values] == [
        "scale: number",
        "all three (T9)",
        "at scale 1: sign",  # of every scale
        "seed",
    ]
    assert [*found.seed.values] == [2, 3, 7]
    seeds, grid = found.seed, found.scale * found.seed + found["shift"]
    for quantity, expected in (("scale: number", grid), ("all three (T9)", grid), ("seed", seeds)):
        np.testing.assert_array_equal(
            found.sel(quantity=quantity).transpose("scale", "shift", "seed"),
            expected.broadcast_like(grid).transpose("scale", "shift", "seed"),
        )
    whole = run(Swept(Config(seeds=2, first_seed=2, scale=2.5, shift=10.0)), tmp_path / "run")
    one = found.sel(quantity="scale: number", scale=2.5, shift=10.0, seed=[2, 3])
    assert tuple(one.values) == whole.rows[1].values
    lines = (tmp_path / "sweep" / "sweep.csv").read_text().splitlines()
    assert lines[0] == "quantity,claim,scale,shift,seed,value"
    assert "scale: number,,2.5,10.0,3,17.5" in lines
    assert len(lines) == 1 + 4 * 2 * 2 * 3
    assert Manifest.read(tmp_path / "sweep").read_json("config.json")["study"] == "swept (sweep)"


def test_a_part_that_does_not_depend_on_a_setting_is_measured_once(tmp_path, trace):
    sweep(tmp_path, "--set", f"trace={trace}", "--set", "shift=0,1", seeds="0")
    assert started(trace) == {"one 0, scale 1": 2, "block 0-0, scale 1": 1}


def test_a_unit_that_fails_ends_no_other_and_is_measured_when_it_no_longer_does(tmp_path, trace):
    settings = ("--set", f"trace={trace}", "--set", "scale=1,2")
    result = sweep(tmp_path, *settings, "--set", "fail=1")
    assert result.exit_code == 1
    failures = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert len(failures) == 2
    assert "scale 1.0" in failures[0]
    assert "seed 1, one by one: RuntimeError: seed 1 fails (" in failures[0]
    path = Path(failures[0].rpartition("(")[2].rstrip(")"))
    assert "Traceback" in path.read_text()
    assert [*values(tmp_path).seed.values] == [0, 2, 3, 4]
    result = sweep(tmp_path, *settings, "--set", "fail=-1")
    assert result.exit_code == 0
    assert "2 units done" in result.output
    assert not [*path.parent.iterdir()]
    assert {n: i for n, i in started(trace).items() if i > 1} == {
        "one 1, scale 1": 2,
        "one 1, scale 2": 2,
    }


def test_choices_are_made_once_and_before_the_units(tmp_path, trace):
    settings = ("--set", f"trace={trace}", "--set", "chosen=true", "--set", "scale=1,2")
    assert sweep(tmp_path, *settings, seeds="0-1").exit_code == 0
    assert sweep(tmp_path, *settings, seeds="0-2").exit_code == 0
    names = started(trace)
    assert names["choice, scale 1"] == names["choice, scale 2"] == 1
    assert values(tmp_path).sel(quantity="scale: number", scale=2, seed=2).item() == 104


def test_choices_that_fail_leave_the_other_settings(tmp_path):
    result = sweep(tmp_path, "--set", "chosen=true,false", "--set", "fail=-2", seeds="0-1")
    assert result.exit_code == 1
    assert "failed: chosen True, choices on validation seeds: RuntimeError" in result.stderr
    assert np.isnan(values(tmp_path).sel(chosen="True")).all()
    assert not np.isnan(values(tmp_path).sel(chosen="False")).any()


def test_in_processes_a_failing_and_a_killed_unit_cost_only_themselves(tmp_path, trace):
    settings = ("--set", f"trace={trace}", "--set", "chosen=true", "--set", "kill=2")
    result = sweep(tmp_path, *settings, "--set", "fail=1", "--jobs", "2", seeds="0-3")
    assert result.exit_code == 1
    assert "seed 1 fails" in result.stderr
    assert "4 units done, 1 failed; 3 of 4" in result.output
    names = started(trace)
    assert {name: n for name, n in names.items() if n > 1} == {"one 2, scale 1": 2}
    assert len(names) == 1 + 4 + 1
    assert [*values(tmp_path).seed.values] == [0, 2, 3]


def test_a_unit_that_kills_its_processes_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("studies.core.sweep_engines.ATTEMPTS", 1)
    result = sweep(tmp_path, "--set", "kill=2", "--jobs", "1", seeds="2")
    assert result.exit_code == 1
    assert "its process was killed 1 times" in result.stderr
    assert "0 of 1 seeds" in result.output


def test_two_processes_may_write_to_one_folder_at_the_same_time(tmp_path):
    code = (
        "from studies.core.commands import StudyGroup\n"
        "from studies.core.sweep_command import sweep_study\n"
        f"app = StudyGroup({{'swept': {PLACE!r}}}); app.add_command(sweep_study); app()"
    )
    command = [sys.executable, "-c", code, "sweep", "swept", "--out", str(tmp_path / "sweep")]
    command += ["--set", "slow=0.02", "--seeds"]
    running = [subprocess.Popen([*command, seeds], cwd=ROOT) for seeds in ("0-9", "4-13")]
    assert [process.wait() for process in running] == [0, 0]
    Manifest.read(tmp_path / "sweep").read_bytes("sweep.nc")
    result = sweep(tmp_path, "--set", "slow=0.02", seeds="0-13")
    assert "0 units done, 0 failed; 14 of 14" in result.output
    assert (values(tmp_path).sel(quantity="seed") == np.arange(14)).all()
    assert not [*(tmp_path / "sweep").rglob("*.partial*")]


def test_units_of_an_array_of_jobs_are_gathered_by_one_more_call(tmp_path):
    for seed in range(3):
        assert sweep(tmp_path, "--units-only", seeds=f"{seed}").exit_code == 0
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["units"]
    result = sweep(tmp_path, seeds="0-2")
    assert "0 units done, 0 failed; 3 of 3" in result.output
    assert values(tmp_path).sizes["seed"] == 3


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--set", "scael=1"), "no setting 'scael': did you mean scale?"),
        (("--set", "scale=a"), "not a valid float"),
        (("--set", "scale=1", "--set", "scale=2"), "scale should be given once"),
        (("--set", "scale=1,-1"), "scale must be positive"),
        (("--set", "seeds=1,2"), "seeds is no setting of a sweep"),
        (("--jobs", "2", "--workers", "2"), "exclude each other"),
        (("--data", "/nope"), "swept reads none"),
        (("--out", ""), "--out should name a folder"),
    ],
)
def test_invalid_sweeps_are_one_line_and_status_2(tmp_path, args, words):
    result = sweep(tmp_path, *args)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "sweep").exists()


def test_an_unknown_study_is_refused():
    result = CliRunner().invoke(app, ["sweep", "swpet", "--seeds", "0"])
    assert result.exit_code == 2
    assert "did you mean swept?" in result.stderr


def test_the_folder_of_a_run_is_refused(tmp_path):
    run(Swept(Config()), tmp_path / "sweep")
    result = sweep(tmp_path)
    assert result.exit_code == 2
    assert "it holds one of swept: give another folder" in result.stderr


@pytest.mark.skipif(find_spec("distributed") is not None, reason="Dask is installed")
def test_workers_without_dask_are_refused(tmp_path):
    result = sweep(tmp_path, "--workers", "2")
    assert result.exit_code == 2
    assert "gbi-pyro[cluster]" in result.stderr


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("sigma 0.1: error", [("sigma", 0.1)], "sigma: error"),
        ("sigma = 0.1", [("sigma", 0.1)], "sigma"),
        ("sigma 0.12: error", [("sigma", 0.1)], "sigma 0.12: error"),
        ("sigma 0.1.", [("sigma", 0.1)], "sigma."),
        ("not_sigma 0.1", [("sigma", 0.1)], "not_sigma 0.1"),
        ("block length 50, K = 2", [("block_length", 50)], "block length, K = 2"),
        ("error of 2", [("sigma", 2)], "error of 2"),
    ],
)
def test_a_setting_in_a_name_does_not_split_a_quantity(name, settings, expected):
    assert without_settings(name, settings) == expected
