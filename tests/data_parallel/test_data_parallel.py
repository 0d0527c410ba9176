"""Two processes that train together end as one process does with the whole batch."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from study_runs import without_figures
from trainings import IMAGES, TRAININGS

from studies.core.runner import run
from studies.images.study import ImagesStudy

HERE = Path(__file__).parent
ROUNDING = 1e-5


def start(what, folder):
    """Run the worker in two processes, as ``torchrun`` does, and return what each found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    paths = os.pathsep.join(map(str, (HERE, HERE.parent, HERE.parents[1])))
    workers = []
    for rank in range(2):
        numbers = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        environment = {**os.environ, **own, **numbers, "PYTHONPATH": paths}
        command = [sys.executable, str(HERE / "worker.py"), what, str(folder)]
        workers.append(
            subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        )
    said = [worker.communicate(timeout=300)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    return [json.loads((folder / f"{what}-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return start("library", tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def trained(folder):
    return start("studies", folder)


@pytest.mark.parametrize("shares", ["equal", "unequal"])
@pytest.mark.parametrize("model", ["lstm", "masked", "scaled"])
def test_weights_are_those_of_one_process(model, shares, found):
    for of_rank in found:
        from_one, from_each_other = of_rank[f"{model}, {shares}"]
        assert from_one < ROUNDING
        assert from_each_other == 0


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("param", "parameter 'sigma' is none of the network's"),
        ("bare", "model should be a DistributedDataParallel"),
        ("nothing", "the model observes nothing"),
        ("em", "GradientEM trains in a single process"),
    ],
)
def test_what_would_go_wrong_silently_is_refused(what, message, found):
    for of_rank in found:
        assert message in of_rank[what]


def test_inference_is_that_of_the_network_inside(found):
    assert all(of_rank["one step"] for of_rank in found)


@pytest.mark.parametrize("name", TRAININGS)
def test_studies_train_as_in_one_process(name, trained, tmp_path):
    """An interrupted training goes on in both processes from the one checkpoint."""
    alone = TRAININGS[name](tmp_path)
    assert trained[0][name] == trained[1][name]
    np.testing.assert_allclose(trained[0][name], alone, atol=ROUNDING)


def test_the_first_process_writes_the_study(trained, folder, tmp_path):
    written = sorted(p.name for p in (folder / "images").iterdir())
    about = json.loads((folder / "images" / "config.json").read_text())
    assert about["processes"] == 2
    alone = run(without_figures(ImagesStudy(IMAGES)), tmp_path / "alone")
    assert written == sorted(p.name for p in (tmp_path / "alone").iterdir())
    rows = json.loads((folder / "images" / "metrics.json").read_text())["rows"]
    assert [row["what"] for row in rows] == [row.what for row in alone.rows]


@pytest.mark.parametrize(
    ("what", "message"),
    [("jobs", "jobs should be 1 under torchrun"), ("toy", "does not train in several processes")],
)
def test_what_several_processes_cannot_do_is_refused(what, message, trained):
    for of_rank in trained:
        assert message in of_rank[what]
