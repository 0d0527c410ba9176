"""The library's command line: checking a model, refused input, help and version."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from gbi_pyro.cli import app, make_console

MODELS = """
import torch, pyro, pyro.distributions as dist

def affine(x):
    with pyro.plate("sequence", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(torch.tensor([0.5, 0.5])), infer={"task": True})
        pyro.sample("x", dist.Normal(z @ torch.tensor([0.2, 0.8]), 0.1), obs=x)

def cut(x):
    with pyro.plate("sequence", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(torch.tensor([0.5, 0.5])), infer={"task": True})
        means = torch.tensor([0.2, 0.8])[z.argmax(-1)]
        pyro.sample("x", dist.Normal(means, 0.1), obs=x)

def data():
    return (torch.tensor([0.2, 0.7, 0.81]),)

one = torch.tensor([0.2, 0.7])
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    name = f"models_of_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    return name


def invoke(*args):
    threads = torch.get_num_threads()
    result = CliRunner().invoke(app, list(args))
    torch.set_num_threads(threads)
    return result


@pytest.mark.parametrize("data", ["data", "one"])
def test_a_valid_model_passes_the_check(models, data):
    result = invoke("check", f"{models}:affine", "--data", f"{models}:{data}")
    assert result.exit_code == 0, result.output
    assert "z: task site: K = 2" in result.output


def test_a_task_cut_off_from_the_likelihood_fails_the_check(models):
    result = invoke("check", f"{models}:cut", "--data", f"{models}:data")
    assert result.exit_code == 1
    assert "does not reach the likelihood" in " ".join(result.output.split())


@pytest.mark.parametrize(("model", "ok"), [("affine", True), ("cut", False)])
def test_findings_as_json_are_all_of_stdout(models, model, ok):
    result = invoke("check", f"{models}:{model}", "--data", f"{models}:data", "--json")
    found = json.loads(result.stdout)
    assert (found["ok"], result.exit_code) == (ok, 0 if ok else 1)
    assert {"check", "site", "ok", "message"} == set(found["findings"][0])


def test_a_model_that_is_not_there_is_an_error_of_usage(models):
    result = invoke("check", f"{models}:afine")
    assert result.exit_code == 2
    assert "afine" in result.stderr


def test_a_file_is_no_folder_for_results(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    result = invoke("compare", str(tmp_path), "--out", str(path))
    assert result.exit_code == 2
    assert "expected a folder" in " ".join(result.stderr.split())
    assert path.read_text() == ""


def test_an_empty_name_is_no_folder_for_results(tmp_path):
    result = invoke("compare", str(tmp_path), "--out", "")
    assert result.exit_code == 2
    assert "--out should name a folder, new or not; got an empty name" in result.stderr


@pytest.mark.parametrize("code", ["0", "'stopped'"])
def test_a_module_that_ends_the_program_is_reported(tmp_path, monkeypatch, code):
    name = f"ends_of_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(f"import sys; sys.exit({code})")
    monkeypatch.chdir(tmp_path)
    result = invoke("check", f"{name}:model")
    assert result.exit_code == 2
    assert f"'{name}' calls sys.exit({code}) when it is imported" in result.stderr


def test_an_error_is_one_line_however_long(tmp_path):
    result = invoke("compare", str(tmp_path / ("a" * 150)), str(tmp_path / "b"))
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("module", ["gbi_pyro.cli", "studies"])
@pytest.mark.parametrize("buffered", [True, False])
def test_output_that_cannot_be_written_is_one_line_and_status_2(module, buffered):
    env = {**os.environ, **({} if buffered else {"PYTHONUNBUFFERED": "1"})}
    command = [sys.executable, "-m", module, "--help"]
    with open("/dev/full", "w") as full:
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=env)
    assert found.returncode == 2
    assert found.stderr.splitlines()[:-1] == []
    assert "No space left on device" in found.stderr


def test_without_colour_there_are_no_codes_at_all(monkeypatch):
    written = {}
    for value in ("", "1"):
        monkeypatch.setenv("NO_COLOR", value)
        monkeypatch.setenv("FORCE_COLOR", "1")
        console = make_console()
        with console.capture() as captured:
            console.print("[bold]bold[/] [italic]italic[/] [red]red[/]")
        written[value] = captured.get()
    assert written["1"] == "bold italic red\n"
    assert "\x1b[" in written[""]


def test_the_help_lists_the_commands_and_what_each_takes():
    assert {"check", "compare", "--version"} <= set(invoke("--help").output.split())
    for command, options in {
        "check": {"model", "--data", "--json"},
        "compare": {"runs...", "--out", "--may-differ", "--level", "--only", "--json"},
    }.items():
        result = invoke(command, "--help")
        assert result.exit_code == 0
        assert options <= set(result.output.lower().split())
        assert f"Example: gbi-pyro {command}" in " ".join(result.output.split())
        assert "Exit status: 0: done." in " ".join(result.output.split())


def test_an_unknown_command_is_an_error_of_usage():
    result = invoke("toy")
    assert result.exit_code == 2
    assert "No such command 'toy'" in result.stderr


def test_the_version_is_that_of_the_package():
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.output.split() == ["gbi-pyro", version("gbi-pyro")]
