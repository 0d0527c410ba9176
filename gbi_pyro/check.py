"""Check a model before a run: its task sites, its data, and the cost of inference."""

from __future__ import annotations

import difflib
import importlib
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from gbi_pyro.logjoint import LogJoint, RelaxedModel
from gbi_pyro.relax import Model
from gbi_pyro.score import sum_to_element
from gbi_pyro.sites import TaskSite, TaskSiteError, find_task_sites

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """What one check found about ``site`` (or ``"model"``).

    ``ok`` is True if all is well, False for a fault, None for a note.
    """

    check: str
    site: str
    ok: bool | None
    message: str

    def __str__(self) -> str:
        mark = {True: "ok", False: "FAULT", None: "note"}[self.ok]
        return f"{mark:<5} {self.site}: {self.check}: {self.message}"


@dataclass(frozen=True)
class ModelReport:
    """What the checks found, in their order, up to the first fault."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no fault (notes are none)."""
        return all(finding.ok is not False for finding in self.findings)


class _FaultError(Exception):
    """A check failed, and those after it cannot be made."""


def check_model(model: Model, *args: Any, **kwargs: Any) -> ModelReport:
    """Check that the tasks of a model can be inferred from these data.

    An invalid model raises nothing: its error becomes a finding. This costs two runs of the model,
    three more for each site, and a backward pass; nothing is left behind.

    Args:
        model: a Pyro model.
        args, kwargs: what the model takes.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("sequence", len(x)):
    ...         prior = dist.OneHotCategorical(torch.tensor([0.5, 0.5]))
    ...         z = pyro.sample("z", prior, infer={"task": True})
    ...         pyro.sample("x", dist.Normal(z @ torch.tensor([0.2, 0.8]), 0.1), obs=x)
    >>> report = check_model(model, torch.zeros(3))
    >>> print(report.ok, report.findings[0], sep=": ")
    True: ok    z: task site: K = 2, one task for each element of sequence (3)
    >>> print(check_model(model, torch.tensor([float("nan")])).findings[-1])
    FAULT x: data and log joint: the data of site 'x' have 1 NaN or infinite element(s)...
    """
    found: list[Finding] = []

    def attempt(check: str, action: Callable[[], T]) -> T:
        try:
            return action()
        except TaskSiteError as error:
            named = re.search(r"site '([^']*)'", str(error))
            site, message = named[1] if named else "model", str(error)
        except Exception as error:  # whatever a user's model may raise
            site = "model"
            message = f"the model itself failed with {type(error).__name__}: {error}"
        found.append(Finding(check, site, False, message))
        raise _FaultError

    def note(check: str, site: str, ok: bool | None, message: str) -> None:
        found.append(Finding(check, site, ok, message))

    run = RelaxedModel(model, args, kwargs)
    try:
        check = "task site"
        sites = attempt(check, lambda: find_task_sites(model, *args, **kwargs))
        for name, site in sites.items():
            sizes = zip(site.dims, site.batch_shape, strict=True)
            each = " x ".join(f"{dim} ({n})" for dim, n in sizes)
            each = f"one task for each element of {each}" if each else "a single task"
            note(check, name, True, f"K = {site.num_tasks}, {each}")
        check = "data and log joint"
        joint = attempt(check, lambda: run.log_joint(lambda s: s.uniform(), order=1))
        note(check, "model", True, "data are finite, and the model takes mixtures of tasks")
        check = "reach of the task"
        attempt(check, lambda: run.likelihood_gradient(joint))
        for name, site in joint.sites.items():
            hidden = joint.hidden(site)
            note(check, name, None if hidden else True, _MASKED if hidden else _REACH)
        check = "influence between elements"
        for name, site in sites.items():
            if site.batch_shape.numel() == 1:
                note(check, name, None, "not applicable to a single element")
            elif attempt(check, partial(_influence, run, site)):
                note(check, name, None, _INFLUENCE)
            else:
                note(check, name, True, _NO_INFLUENCE)
    except _FaultError:
        return ModelReport(tuple(found))
    for name, site in sites.items():
        if site.num_tasks > 2:
            note("first order", name, None, _BIAS)
    sizes_of_sites = [site.num_tasks for site in sites.values()]
    cost = (
        "one step 1 forward and 1 backward pass; order=2 at most "
        f"{1 + sum(k - 1 for k in sizes_of_sites)} backward; enumeration "
        f"{math.prod(sizes_of_sites)} forward"
    )
    note("cost", "model", None, cost)
    return ModelReport(tuple(found))


_REACH = "the likelihood changes with the task"
_MASKED = (
    "all data of this call are masked, so the posterior is the prior, and whether the likelihood "
    "changes with the task cannot be seen: check with data that are not"
)
_NO_INFLUENCE = (
    "not seen in samples, in which each element met every task of its neighbours: enumerating each "
    "element is exact as far as they show"
)
_INFLUENCE = (
    "the task of one element changes the likelihood of another (a network that carries past "
    "tasks?): enumerating each element is not exact, while one step is possible. For the "
    "likelihood of each step given the past, wrap it: stepwise(model, *args)"
)
_BIAS = (
    "with 3 tasks or more the plain one step is biased unless the tasks' means lie equally far "
    "from their centroid: take OneStepGradient(order=2), or a calibration (see calibrate)"
)


def _influence(run: RelaxedModel, site: TaskSite) -> bool:
    # The same task everywhere, then tasks that change from element to element: without influence
    # each element scores as it did. The other sites stay at maximum entropy.
    def score(tasks: torch.Tensor) -> LogJoint:
        value = torch.nn.functional.one_hot(tasks, site.num_tasks).to(site.log_prior)
        return run.log_joint(lambda s: value if s.name == site.name else s.uniform())

    def inside(joint: LogJoint, *, rounding: bool = False) -> torch.Tensor:
        found = [f for n, f in joint.factors.items() if n != site.name and f.belongs(site)]
        terms = [(f.rounding if rounding else f.log_prob).double() for f in found]
        return sum_to_element(terms, site, joint.nesting)

    zero = torch.zeros(site.batch_shape, dtype=torch.long, device=site.log_prior.device)
    same = [score(zero + k) for k in range(site.num_tasks)]
    table = torch.stack([inside(joint).expand(site.batch_shape) for joint in same])
    for shift in range(site.num_tasks):
        tasks = site.shifted_tasks(shift)
        mixed = score(tasks)
        expected = table.gather(0, tasks.unsqueeze(0)).squeeze(0)
        if not _within(inside(mixed), expected, inside(mixed, rounding=True)):
            return True
        shared = [n for n, f in mixed.factors.items() if not f.belongs(site)]
        here = [mixed.factors[n] for n in shared]
        there = [same[0].factors[n].log_prob for n in shared]
        if not all(_within(f.log_prob, t, f.rounding) for f, t in zip(here, there, strict=True)):
            return True
    return False


def _within(a: torch.Tensor, b: torch.Tensor, rounding: torch.Tensor) -> bool:
    return bool(((a == b) | ((a - b).abs() <= rounding)).all())


def load_object(spec: str, *, must_be_callable: bool = True) -> Any:
    """Import what ``module:attribute`` names, as a command is given it.

    The current directory comes first on ``sys.path`` and stays there: the module may import later.

    Raises:
        ValueError: says which part is wrong: the form, the module, an import inside the module,
            the attribute, or its type.

    >>> load_object("math:sqrt")
    <built-in function sqrt>
    >>> load_object("math:tahn")
    Traceback (most recent call last):
    ValueError: module 'math' has no attribute 'tahn'; did you mean 'tan' or 'tanh'...
    """
    name, _, attribute = spec.partition(":")
    if not attribute or not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"expected module:attribute, such as my_models:model, got {spec!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{name}.".startswith(f"{missing}."):
            raise ValueError(f"no module {name!r} in {here}, and none installed") from error
        failure = f"{type(error).__name__}: {error}"
        raise ValueError(f"module {name!r} exists, but its import failed with {failure}") from error
    if not hasattr(module, attribute):
        close = difflib.get_close_matches(attribute, dir(module))
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(f"module {name!r} has no attribute {attribute!r}{hint}")
    found = getattr(module, attribute)
    if must_be_callable and not callable(found):
        raise ValueError(f"{spec} is a {type(found).__name__}; expected something callable")
    return found
