"""Import layers: which part of the library and of the studies may import which, and what loads."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import gbi_pyro

ROOT = Path(__file__).resolve().parents[1]
CORE = {
    "_arrays",
    "_observed",
    "joint",
    "logjoint",
    "posterior",
    "purity",
    "relax",
    "score",
    "sites",
}
MAY_IMPORT: dict[str, set[str]] = {
    "_numpy_state": set(),
    "purity": {"_numpy_state"},
    "files": set(),
    "joint": {"sites"},
    "_arrays": set(),
    "_arviz": set(),
    "sites": {"_arrays", "purity"},
    "relax": {"_arrays", "sites"},
    "_observed": {"sites"},
    "score": {"_observed", "relax", "sites"},
    "logjoint": {"purity", "relax", "score", "sites"},
    "posterior": {"_arrays", "joint", "logjoint", "sites"},
    "check": {"logjoint", "relax", "score", "sites"},
    "inference": {*CORE, "files"},
    "tracker": set(),
    "learning": {*CORE, "inference", "tracker"},
    "metrics": {*CORE, "_arviz", "files", "inference", "plots"},
    "export": {*CORE, "_arviz", "files", "inference", "learning"},
    "models": {"_arrays", "files"},
    "problems": {*CORE, "inference", "models"},
    "data": set(),
    "estimators": {*CORE, "data", "inference", "learning", "metrics", "models"},
    "plots": {"_arviz", "files"},
    "representation": {"_arrays"},
    "cli": {"", "check", "metrics"},
    "": {"check", "logjoint", "posterior", "relax", "sites", "tracker", *gbi_pyro._PACKAGES},
}
"""What the modules of each layer may import beside their own layer; "" is ``import gbi_pyro``."""
SLOW = {"arviz", "matplotlib", "pandas", "sklearn", "xarray"}


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    dotted(path): path for top in ("gbi_pyro", "studies") for path in (ROOT / top).rglob("*.py")
}
LIBRARY = sorted(name for name in MODULES if name.split(".")[0] == "gbi_pyro")
STUDIES = sorted(name for name in MODULES if name.count(".") and name.startswith("studies."))


def imports(name: str, *, late: bool = True) -> set[str]:
    """Everything a module imports, as dotted names; ``late`` counts imports inside functions."""
    tree = ast.parse(MODULES[name].read_text())
    found = set()
    for node in ast.walk(tree) if late else tree.body:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} has a relative import; write the full name"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
    return found


IMPORTS = {name: imports(name) for name in MODULES}


def part(name: str) -> str:
    """What follows the first dot: sites, inference, models, toy, ...; "" for the package itself."""
    return [*name.split("."), ""][1]


def parts_used(name: str, top: str) -> set[str]:
    return {part(i) for i in IMPORTS[name] if i.split(".")[0] == top}


def test_every_module_of_the_library_lies_in_a_layer() -> None:
    assert {part(name) for name in LIBRARY} == set(MAY_IMPORT)


@pytest.mark.parametrize("name", LIBRARY)
def test_a_module_imports_only_what_its_layer_may(name: str) -> None:
    assert parts_used(name, "gbi_pyro") - {part(name)} <= MAY_IMPORT[part(name)]
    assert not parts_used(name, "studies"), "the library knows no study"


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_imports_the_library_and_what_all_studies_share(name: str) -> None:
    names_of_studies = {"__main__"} if part(name) == "core" else set()
    assert parts_used(name, "studies") <= {part(name), "core", *names_of_studies}


def test_plots_know_neither_torch_nor_pyro() -> None:
    plots = [name for name in LIBRARY if part(name) == "plots"]
    used = {i.split(".")[0] for name in plots for i in IMPORTS[name]}
    assert "matplotlib" in used
    assert not {"torch", "pyro"} & used


def test_one_module_alone_imports_arviz() -> None:
    """So what its versions do differently has one place."""
    assert [n for n, used in IMPORTS.items() if "arviz" in {i.split(".")[0] for i in used}] == [
        "gbi_pyro._arviz"
    ]


def test_the_command_line_loads_the_library_late() -> None:
    assert not any(i.startswith("gbi_pyro") for i in imports("gbi_pyro.cli", late=False))


def test_no_module_imports_itself_by_way_of_others() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name in done:
            return
        for other in sorted(IMPORTS[name] & set(MODULES)):
            visit(other, (*path, name))
        done.add(name)

    for name in MODULES:
        visit(name, ())


def loaded_by(code: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after some code."""
    code += "\nimport sys; print('loaded', *{m.split('.')[0] for m in sys.modules})"
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return set(output.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_slow() -> None:
    loaded = loaded_by("import gbi_pyro")
    assert "gbi_pyro" in loaded
    assert not {*SLOW, "pyro", "torch", "typer"} & loaded


def test_importing_everything_but_plots_and_estimators_loads_nothing_slow() -> None:
    others = sorted({*gbi_pyro._PACKAGES} - {"plots", "estimators"})
    packages = ", ".join(f"gbi_pyro.{p}" for p in others)
    loaded = loaded_by(f"import {packages}, gbi_pyro.check")
    assert "torch" in loaded
    assert not SLOW & loaded


def test_estimators_load_no_more_than_scikit_learn_does() -> None:
    loaded = loaded_by("import gbi_pyro.estimators")
    assert "sklearn" in loaded
    assert SLOW & loaded == SLOW & loaded_by("import sklearn.base")


def test_help_of_the_command_line_loads_no_torch() -> None:
    code = "from gbi_pyro.cli import app\ntry: app(['--help'])\nexcept SystemExit: pass"
    loaded = loaded_by(code)
    assert "typer" in loaded
    assert not {*SLOW, "pyro", "torch"} & loaded


@pytest.mark.parametrize("package", ["gbi_pyro", *(f"gbi_pyro.{p}" for p in gbi_pyro._PACKAGES)])
def test_every_public_name_is_there_once_and_in_order(package: str) -> None:
    module = import_module(package)
    names = module.__all__
    assert len(set(names)) == len(names)
    assert not [name for name in names if name.startswith("_")]
    assert all(getattr(module, name) is not None for name in names)
    assert set(names) <= set(dir(module))


def test_lazy_names_are_those_of_the_sub_packages() -> None:
    assert {*gbi_pyro._PACKAGES, *gbi_pyro._MODULES} == set(gbi_pyro.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        gbi_pyro.nothing  # noqa: B018
