"""The reference: a page for each part of the library, which leads to a page for each name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType

from sphinx.pycode import ModuleAnalyzer

import gbi_pyro

PARTS = {
    "core": "Core",
    "inference": "Inference",
    "learning": "Learning",
    "metrics": "Metrics",
    "export": "Export to ArviZ",
    "models": "Models",
    "data": "Data",
    "problems": "Problems",
    "plots": "Plots",
    "representation": "Representations",
    "estimators": "Estimators",
}
"""The title of each part: the modules at the top of the package, and its sub-packages."""
NOT_IMPORTED = {"gbi_pyro.cli"}


def modules(part: str) -> list[ModuleType]:
    """Return the public modules of a part, its package first."""
    package = importlib.import_module("gbi_pyro" if part == "core" else f"gbi_pyro.{part}")
    found = [] if part == "core" else [package]
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        name = info.name
        if not (info.ispkg or name.rpartition(".")[2].startswith("_") or name in NOT_IMPORTED):
            found.append(importlib.import_module(name))
    return found


def names(module: ModuleType) -> list[str]:
    """Return what a module offers, by the name to import it by.

    That is each class, function and documented value that it defines, and what its ``__all__``
    takes out of private modules.
    """
    documented = {name for _, name in ModuleAnalyzer.for_module(module.__name__).find_attr_docs()}
    found = []
    for name, value in vars(module).items():
        private_home = "._" in getattr(value, "__module__", "")
        is_own = getattr(value, "__module__", None) == module.__name__ and (
            inspect.isclass(value) or inspect.isfunction(value)
        )
        is_taken = private_home and name in getattr(module, "__all__", ())
        if not name.startswith("_") and (is_own or is_taken or name in documented):
            found.append(f"{module.__name__}.{name}")
    return found


def top_names() -> dict[str, str]:
    """Return the names to import from ``gbi_pyro`` itself, and where each is defined."""
    values = {name: getattr(gbi_pyro, name) for name in gbi_pyro.__all__}
    return {
        name: f"{value.__module__}.{value.__qualname__}"
        for name, value in values.items()
        if not inspect.ismodule(value)
    }


def part_page(part: str) -> str:
    """Return the page of a part: its modules, and what each offers."""
    lines = [PARTS[part], "=" * len(PARTS[part]), ""]
    for module in modules(part):
        short = module.__name__.rpartition(".")[2]
        if short != part:
            lines += [short, "-" * len(short), ""]
        lines += [f".. automodule:: {module.__name__}", "   :no-members:", ""]
        if found := names(module):
            lines += [".. autosummary::", "   :nosignatures:", "   :toctree:"]
            lines += ["   :template: autosummary/object.rst", ""]
            lines += [f"   {name.rpartition('.')[2]}" for name in found] + [""]
    return "\n".join(lines)


def import_lines() -> dict[str, str]:
    """Return the shortest way to import each name, by where it is defined."""
    found = {}
    for part in PARTS:
        package = "gbi_pyro" if part == "core" else f"gbi_pyro.{part}"
        public = importlib.import_module(package).__all__
        for module in modules(part):
            for name in names(module):
                home, _, short = name.rpartition(".")
                found[name] = f"from {package if short in public else home} import {short}"
    return found | {full: f"from gbi_pyro import {name}" for name, full in top_names().items()}


def pages() -> dict[str, str]:
    """Return every page of the reference but those of single names, by file."""
    top = "".join(f"   ~{name}\n" for name in top_names().values())
    found = {"api/names.inc": f".. autosummary::\n   :nosignatures:\n\n{top}"}
    return found | {f"api/{part}.rst": part_page(part) for part in PARTS}
