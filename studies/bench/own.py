"""Problems and methods of your own, which a command names as ``module:attribute``."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gbi_pyro.check import load_object
from gbi_pyro.problems import Problem
from studies.bench.measure import Maker
from studies.bench.methods import Method


@dataclass(frozen=True)
class Always:
    """Makes one and the same problem of every seed: only its cases differ.

    Attributes:
        problem: the problem.
    """

    problem: Problem

    def __call__(self, seed: int) -> Problem:
        """Return the problem."""
        return self.problem


def own_problem(spec: str, seed: int = 0) -> Maker:
    """Return what makes a problem of a seed, from ``module:attribute``.

    Args:
        spec: of a ``Problem``, or of a function that makes one of a seed.
        seed: one that the function is tried with.

    Raises:
        ValueError: for a module or an attribute that is not there, or is no problem.
    """
    found = load_object(spec, must_be_callable=False)
    if isinstance(found, Problem):
        return Always(found)
    expected = "expected a gbi_pyro.problems.Problem, or a function that makes one of a seed"
    if not callable(found) or isinstance(found, type):
        raise ValueError(f"problem {spec} is {_kind(found)}; {expected}")
    try:
        made = found(seed)
    except TypeError as error:
        raise ValueError(f"problem {spec} takes no seed ({error}); {expected}") from error
    if not isinstance(made, Problem):
        raise ValueError(f"problem {spec} makes {_kind(made)} of a seed; {expected}")
    return found  # type: ignore[no-any-return]


def own_method(spec: str) -> Method:
    """Return a method from ``module:attribute``.

    Raises:
        ValueError: for a module or an attribute that is not there, or is no method.
    """
    found = load_object(spec, must_be_callable=False)
    if isinstance(found, type) or not (callable(found) or hasattr(found, "fit")):
        hint = f": give an object of it, {found.__name__}()" if isinstance(found, type) else ""
        raise ValueError(
            f"method {spec} is {_kind(found)}; expected what is called as infer(model, *args), or "
            f"has fit(problem, generator){hint}"
        )
    return found  # type: ignore[no-any-return]


def _kind(found: Any) -> str:
    return f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"


def checksum(spec: str) -> str:
    """Return the SHA-256 of the file that a spec's module lies in: what it measured depends on it.

    Of a module without a file it is that of the spec.
    """
    load_object(spec, must_be_callable=False)
    file = getattr(sys.modules[spec.partition(":")[0]], "__file__", None)
    content = Path(file).read_bytes() if file else spec.encode()
    return hashlib.sha256(content).hexdigest()
