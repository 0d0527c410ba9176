"""The lowest version of each dependency that pyproject.toml allows, for ``make lowest``."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


def declared(*extras: str) -> list[Requirement]:
    """Return the dependencies of the library, and of some of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"]]
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def lowest(requirement: Requirement) -> str:
    """Return the lowest version that a requirement allows.

    >>> lowest(Requirement("arviz>=0.21,<2"))
    'arviz==0.21'
    """
    (version,) = (s.version for s in requirement.specifier if s.operator == ">=")
    return f"{requirement.name}=={version}"


if __name__ == "__main__":
    print(*map(lowest, declared("studies")), sep="\n")
