"""Who may import whom (DESIGN, "Rooms"): read from the imports, module by module."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "gbi_pyro"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports(name: str) -> set[str]:
    """Everything a module imports, wherever in the file, as dotted names of modules."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
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


def room(name: str) -> str:
    """sites, relax, inference, models, ...; the package itself is the room ''."""
    return [*name.split("."), ""][1]


def rooms_used(name: str) -> set[str]:
    return {room(i) for i in IMPORTS[name] if i.split(".")[0] == "gbi_pyro"}


CORE = {"purity", "sites", "relax", "score", "logjoint", "posterior", "files"}
MAY_IMPORT = {
    "purity": set(),
    "files": set(),
    "sites": {"purity"},
    "relax": {"sites"},
    "score": {"relax", "sites"},
    "logjoint": {"score", "relax", "sites", "purity"},
    "posterior": {"logjoint", "relax", "sites"},
    "inference": CORE | {"inference"},
    "models": {"models", "sites", "relax", "logjoint"},
    "data": {"data", "files"},
    "diagnostics": CORE | {"inference", "diagnostics"},
    "check": CORE,
    "": CORE | {"inference", "diagnostics"},
}
TOP = {"experiments", "cli", "__main__"}


@pytest.mark.parametrize("name", MODULES)
def test_a_room_imports_only_what_it_may(name: str) -> None:
    used = rooms_used(name)
    if room(name) in MAY_IMPORT:
        assert used <= MAY_IMPORT[room(name)]
    if room(name) not in TOP:
        assert "experiments" not in used
        assert "cli" not in used


@pytest.mark.parametrize("name", [n for n in MODULES if room(n) == "plots"])
def test_plots_know_no_torch(name: str) -> None:
    assert not {"torch", "pyro"} & {i.split(".")[0] for i in IMPORTS[name]}


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


def test_the_rules_above_speak_of_rooms_that_exist() -> None:
    assert set(MAY_IMPORT) <= {room(name) for name in MODULES}


def test_importing_the_package_loads_no_plotting_and_no_arviz() -> None:
    code = "import sys, gbi_pyro; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "gbi_pyro" in loaded
    assert not {"arviz", "matplotlib", "xarray", "sklearn", "typer"} & set(loaded)
