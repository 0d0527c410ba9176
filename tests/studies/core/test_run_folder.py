import errno
import itertools
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import xarray as xr

from gbi_pyro.files import Manifest, partial_path, remove_partials, replacing
from studies.core.run_folder import RunFolder, prepared, replacing_run
from studies.core.table import Row


def test_config_names_the_study_its_options_and_the_versions(tmp_path):
    @dataclass(frozen=True)
    class Config:
        seeds: int = 3
        rate: float = 0.1
        method_fields: ClassVar[frozenset[str]] = frozenset({"rate"})

    RunFolder(tmp_path).write_config("toy", Config(), {"rates": (0.1,)})
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["study"] == "toy"
    assert content["config"] == {"seeds": 3, "rate": 0.1}
    assert content["method_fields"] == ["rate"]
    assert content["inputs"] == {"rates": [0.1]}
    # The package's metadata may leave out the build, which torch.__version__ names.
    assert torch.__version__.split("+")[0] == content["versions"]["torch"].split("+")[0]


def test_metrics_hold_every_row_and_the_table(tmp_path):
    RunFolder(tmp_path).write_metrics([Row("T9", "error", (0.5, 0.7))], 1.23)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["rows"][0]["values"] == [0.5, 0.7]
    assert (
        "[unseen means (T9)](../claims.md#t9) | error | 0.600 ± 0.100 |"
        in (tmp_path / "table.md").read_text()
    )


def test_a_data_set_is_written_with_the_name_of_the_run(tmp_path):
    data = xr.Dataset({"kl": (("method",), [0.5, np.inf])}, coords={"method": ["a", "b"]})
    RunFolder(tmp_path, "abc").write_file("bench.nc", data)
    found = xr.load_dataset(tmp_path / "bench.nc")
    assert found.attrs == {"run": "abc"}
    assert found.drop_attrs().identical(data)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "metrics.json"
    path.write_text("old")

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_replaces_the_old_one_and_keeps_its_suffix(tmp_path):
    path = tmp_path / "deep" / "figure.png"
    with replacing(path) as temporary:
        assert temporary.suffix == ".png"
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def write_run(folder, *names, study="toy"):
    with prepared(folder, study), replacing_run(folder, "a") as new:
        new.write_json("config.json", {"study": study})
        for name in names:
            new.write_file(name, f"{names}")


def test_a_new_run_replaces_the_old_one_whole(tmp_path):
    for kept in ("pieces/a.npz", "checkpoints/b.npz", "mine.txt"):
        (tmp_path / kept).parent.mkdir(exist_ok=True)
        (tmp_path / kept).write_text("kept")
    kept = files(tmp_path)
    write_run(tmp_path, "table.md", "figures/old.txt", "extra.json")
    write_run(tmp_path, "table.md", "posterior.nc")
    assert files(tmp_path) - kept == {"config.json", "table.md", "posterior.nc", "run.json"}
    assert not (tmp_path / "figures").exists()
    assert Manifest.read(tmp_path).read_bytes("table.md") == b"('table.md', 'posterior.nc')"


def test_a_run_of_an_earlier_version_goes_too(tmp_path):
    (tmp_path / "figures").mkdir()
    for name in ("config.json", "posterior.nc", "figures/figure-1.png", "notes.txt"):
        (tmp_path / name).write_text('{"study": "toy"}')
    write_run(tmp_path)
    assert files(tmp_path) == {"config.json", "run.json", "notes.txt"}


def test_at_whatever_step_a_run_stops_no_reader_takes_it_for_another(tmp_path, monkeypatch):
    """The old run is whole, or the new one, or the folder is refused; the next run repairs it."""
    steps, stop = itertools.count(), 0

    def counted(original):
        def call(self, *args, **kwargs):
            if next(steps) == stop:
                raise KeyboardInterrupt
            return original(self, *args, **kwargs)

        return call

    seen = set()
    for stop in range(100):
        folder = tmp_path / f"{stop}"
        write_run(folder, "a.md", "old.md", "figures/old.md")
        steps = itertools.count()
        with monkeypatch.context() as patch:
            for name in ("replace", "unlink"):
                patch.setattr(Path, name, counted(getattr(Path, name)))
            try:
                write_run(folder, "a.md", "new.md")
                finished = True
            except KeyboardInterrupt:
                finished = False
        try:
            manifest = Manifest.read(folder)
            state = "new" if "new.md" in manifest.files else "old"
            for name in manifest.files:
                manifest.read_bytes(name)
        except ValueError:
            state = "refused"
        seen.add(state)
        write_run(folder, "third.md")
        assert files(folder) == {"config.json", "third.md", "run.json"}
        if finished:
            break
    assert seen == {"old", "refused", "new"}


def test_what_ended_processes_left_is_removed_and_other_folders_are_left_alone(tmp_path):
    left = [".run.1.partial/config.json", ".table.99999999.partial.md", "pieces/.a.1.partial.npz"]
    others = ["inner/.a.1.partial.md", ".hidden", "checkpoints/a.npz"]
    for name in (*left, *others, "checkpoints/raw/.a.1.partial.npz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    with prepared(tmp_path, "toy"):
        assert files(tmp_path) == set(others)


def test_partial_files_of_living_processes_stay_where_others_may_write(tmp_path):
    here, elsewhere = partial_path(tmp_path / "a.md").name, ".a@elsewhere.99999999.partial.md"
    ended = here.replace(f".{os.getpid()}.", ".99999999.")
    for name in (here, elsewhere, ended, ".a.99999999.partial.md"):
        (tmp_path / name).write_text("")
    remove_partials(tmp_path)
    assert files(tmp_path) == {here, elsewhere}  # another machine's processes are not known here
    remove_partials(tmp_path, of_living=True)
    assert files(tmp_path) == set()


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with (
        prepared(tmp_path, "toy"),
        pytest.raises(ValueError, match="should be free; another process"),
        prepared(tmp_path, "toy"),
    ):
        pass
    with prepared(tmp_path, "toy"):
        pass


def test_the_folder_of_another_study_or_of_no_study_is_refused_as_it_is(tmp_path):
    write_run(tmp_path / "a")
    with pytest.raises(
        ValueError, match="should be empty, or hold a run of images; it holds one of"
    ):
        write_run(tmp_path / "a", study="images")
    assert Manifest.read(tmp_path / "a").read_json("config.json") == {"study": "toy"}
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"its config.json is of no study"):
        write_run(tmp_path)
    assert files(tmp_path) == {"config.json", "a/config.json", "a/run.json"}


def test_a_damaged_run_is_replaced(tmp_path):
    write_run(tmp_path, "old.md")
    (tmp_path / "config.json").write_text("{")
    write_run(tmp_path)
    assert files(tmp_path) == {"config.json", "run.json"}
    (tmp_path / "run.json").write_text('{"files": {"../outside": null, "/etc": null}}')
    outside = tmp_path.parent / "outside"
    outside.write_text("kept")
    write_run(tmp_path)
    assert outside.exists()
    outside.unlink()


def test_what_the_system_refuses_is_said_before_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "inner"):
        with pytest.raises(OSError, match="should be a folder that can be written to; got"):
            write_run(folder)


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path):
    def refused():
        with replacing(tmp_path / "a.md") as temporary:
            temporary.write_text("begun")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"No space left on device: '.*/a.md'"):
        refused()
    assert files(tmp_path) == set()


def test_numbers_that_are_not_finite_are_null(tmp_path):
    RunFolder(tmp_path).write_json("a.json", {"x": [math.nan, math.inf, 1.5]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [None, None, 1.5]}
