"""What is released: the sdist, the citation and the conda recipe say what pyproject.toml says."""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

import pytest
import yaml
from lowest_versions import declared, lowest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
RECIPE = yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text())
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
"""Packages that conda names differently."""


def test_dependencies_of_the_conda_package_are_those_of_the_wheel():
    wheel = {f"{CONDA.get(r.name, r.name)} {_in_order(r.specifier)}" for r in declared()}
    wheel.add(f"python {PROJECT['requires-python']}")
    conda = RECIPE["requirements"]
    assert set(conda["run"]) == wheel
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert set(conda["host"]) == {"pip", f"python {PROJECT['requires-python']}"} | {
        r.replace(">=", " >=") for r in build
    }


def _in_order(specifier):
    return ",".join(sorted(map(str, specifier), reverse=True))


def test_the_conda_package_has_version_and_commands_of_the_wheel():
    assert RECIPE["context"]["version"] == PROJECT["version"]
    assert RECIPE["about"]["license"] == PROJECT["license"]
    assert RECIPE["about"]["summary"] == PROJECT["description"]
    commands = {f"{name} = {where}" for name, where in PROJECT["scripts"].items()}
    assert set(RECIPE["build"]["python"]["entry_points"]) == commands


def test_the_citation_is_of_this_version_and_names_every_author_of_the_paper():
    assert str(CITATION["version"]) == PROJECT["version"]
    assert CITATION["license"] == PROJECT["license"]
    assert CITATION["authors"] == PROJECT["authors"]
    (paper,) = CITATION["references"]
    assert all(set(author) == {"family-names", "given-names"} for author in paper["authors"])
    number = paper["url"].rpartition("/")[2]
    assert PROJECT["urls"]["Paper"] == paper["url"]
    values = {identifier["value"] for identifier in paper["identifiers"]}
    assert values == {f"10.48550/arXiv.{number}", f"arXiv:{number}"}


def test_every_dependency_has_a_lowest_version():
    for requirement in declared("studies", "download"):
        assert lowest(requirement).startswith(f"{requirement.name}==")


def test_the_metadata_name_each_python_that_is_tested():
    found = metadata("gbi-pyro")
    assert found["License-Expression"] == PROJECT["license"]
    lowest_python = PROJECT["requires-python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {lowest_python}" in PROJECT["classifiers"]


def has_build_backend():
    try:
        return int(version("setuptools").split(".")[0]) >= 77
    except PackageNotFoundError:
        return False


needs_build = pytest.mark.skipif(
    not ((ROOT / ".git").exists() and has_build_backend()),
    reason="not a checkout, or without the build backend, setuptools >= 77",
)


@pytest.fixture(scope="module")
def listed():
    """Every file of the repository that is there."""
    command = ["git", "ls-files", "-z"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in found.stdout.split("\0") if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def built(listed, tmp_path_factory):
    """The folder of the sdist and the wheel, built from the files of the repository alone."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in listed:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).symlink_to(ROOT / name)
    backend = "from setuptools import build_meta as b; import sys; "
    for kind in ("sdist", "wheel"):
        command = [sys.executable, "-c", f"{backend} b.build_{kind}(sys.argv[1])", str(out)]
        subprocess.run(command, cwd=source, check=True, capture_output=True)
    return out


@needs_build
def test_the_sdist_holds_what_its_tests_need(built, listed):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert set(listed) - held <= {".ci/run", ".gitignore"}


@needs_build
def test_the_wheel_holds_the_library_and_no_study(built, listed):
    (wheel,) = built.glob("*.whl")
    files = set(zipfile.ZipFile(wheel).namelist())
    top = {file.split("/")[0] for file in files}
    assert {name for name in top if not name.endswith("info")} == {"gbi_pyro"}
    assert {name for name in listed if name.startswith("gbi_pyro/")} <= files
