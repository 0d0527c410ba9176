"""Sweeps on Dask workers; skipped where Dask is not installed."""

import pytest
import xarray as xr
from click.testing import CliRunner

from studies.core.commands import StudyGroup
from studies.core.sweep_command import sweep_study
from tests.studies.core.test_sweep import PLACE, started

distributed = pytest.importorskip("distributed")
app = StudyGroup({"swept": PLACE})
app.add_command(sweep_study)


def sweep(folder, *args):
    out = ["--out", str(folder / "sweep"), "--seeds", "0-7"]
    return CliRunner().invoke(app, ["sweep", "swept", *out, *args])


@pytest.mark.slow  # half a minute on a busy machine
def test_of_two_workers_one_is_killed_in_mid_unit_and_every_unit_counts_once(tmp_path):
    trace = tmp_path / "trace"
    trace.mkdir()
    settings = (
        "--set",
        f"trace={trace}",
        "--set",
        "kill=2",
        "--set",
        "fail=5",
        "--set",
        "slow=.05",
    )
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        result = sweep(tmp_path, *settings, "--scheduler", cluster.scheduler_address)
    assert result.exit_code == 1, result.output
    assert "9 units done, 1 failed; 7 of 8" in result.output
    before = started(trace)
    assert before.pop("one 2, scale 1") == 2
    assert before.pop("one 5, scale 1") in (1, 2)  # what a killed worker said is asked for again
    assert set(before.values()) == {1}
    assert len(before) == 6 + 2
    assert len([*(tmp_path / "sweep" / "units").glob("one*.npz")]) == 7
    values = (
        xr.load_dataset(tmp_path / "sweep" / "sweep.nc")["value"].sel(quantity="seed").squeeze()
    )
    assert [*values.values] == [*values.seed.values] == [0, 1, 2, 3, 4, 6, 7]
    result = sweep(tmp_path, "--set", "fail=-1")
    assert "1 units done, 0 failed; 8 of 8" in result.output
    result = sweep(tmp_path)
    assert "0 units done, 0 failed; 8 of 8" in result.output


def test_a_scheduler_that_does_not_answer_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("studies.core.sweep_engines.PATIENCE", 0.2)
    result = sweep(tmp_path, "--scheduler", "tcp://127.0.0.1:9")
    assert result.exit_code == 2
    assert "tcp://127.0.0.1:9" in result.stderr
    assert result.stderr.count("\n") == 1
