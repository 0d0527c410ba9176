"""Task sites: how they are marked, read and checked.

A task abstraction is declared as a marked categorical site of a Pyro model::

    z = pyro.sample("z", dist.OneHotCategorical(logits=log_prior), infer={"task": True})

one task per element of the plates around it. Everything else in this library looks for that mark.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.subsample_messenger import SubsampleMessenger
from pyro.poutine.util import is_validation_enabled
from torch import Tensor
from torch.distributions import Independent, OneHotCategorical

from gbi_pyro._arrays import UNKNOWN as UNKNOWN
from gbi_pyro._arrays import as_tensor, check_order, parameter_of, scores_floats_alone
from gbi_pyro._arrays import check_labels as check_labels
from gbi_pyro.purity import pure

SIMPLEX_TOLERANCE = 1e-4  # wide float32 softmaxes sum to 1 only within this


def simplex_tolerance(dtype: torch.dtype) -> float:
    """Return how far from 1 rounding alone may leave a sum of probabilities.

    >>> simplex_tolerance(torch.float32), simplex_tolerance(torch.bfloat16)
    (0.0001, 0.03125)
    """
    return max(SIMPLEX_TOLERANCE, 4 * torch.finfo(dtype).eps)


class TaskSiteError(ValueError):
    """A model or a value that does not fit its task sites; the message says what to change."""


class Plate(NamedTuple):
    """A plate around a site: its name, its size here, and its size before subsampling.

    ``indices`` are those of a subsample, None where they are 0, 1, ....
    """

    name: str
    size: int
    full_size: int
    indices: tuple[int, ...] | None = None


def subsample_indices(plate: str, size: int) -> tuple[int, ...] | None:
    """Return the indices that an entered plate was given, ``subsample=...``; None for 0, 1, ...."""
    for handler in reversed(_PYRO_STACK):
        if isinstance(handler, SubsampleMessenger) and handler.name == plate:
            found = handler._indices
            if found is None or torch.equal(
                indices := torch.as_tensor(found).cpu(), torch.arange(size)
            ):
                return None
            return tuple(indices.tolist())
    return None


@dataclass(frozen=True)
class TaskSite:
    """One task abstraction of a model, as its last run left it.

    Attributes:
        name: the name of the Pyro site.
        log_prior: normalised log prior probabilities, ``batch_shape + (K,)``; in a log joint they
            bear the scale that ``poutine.scale`` puts on the site.
        plates: for each batch dimension the plate that declares it, or None.
        order: where tasks have been put in another order, at k the model's own id of task k.
    """

    name: str
    log_prior: Tensor
    plates: tuple[Plate | None, ...]
    order: tuple[int, ...] | None = None

    @property
    def num_tasks(self) -> int:
        """K, the number of tasks."""
        return self.log_prior.shape[-1]

    @property
    def batch_shape(self) -> torch.Size:
        """One task is inferred for each element of this shape."""
        return self.log_prior.shape[:-1]

    @property
    def dims(self) -> tuple[str, ...]:
        """A name for each batch dimension: its plate, or ``<site>_dim_<i>`` without one."""
        return tuple(p.name if p else f"{self.name}_dim_{i}" for i, p in enumerate(self.plates))

    def time_dim(self, time: str | None = None) -> int:
        """Return the batch dimension (negative) that a chain over this task runs along.

        Args:
            time: the name of its plate; without it the plate named ``"time"``, or the only one.

        Raises:
            TaskSiteError: for a task without plates, a plate that is not there, or several.
        """
        rank = len(self.batch_shape)
        dims = {p.name: i - rank for i, p in enumerate(self.plates) if p}
        if time is None and ("time" in dims or len(dims) == 1):
            time = "time" if "time" in dims else next(iter(dims))
        if time in dims:
            return dims[time]
        if not dims:
            raise TaskSiteError(
                f"task site {self.name!r} is a single task: a chain needs one task per time step; "
                "declare a plate over time"
            )
        wanted = "one of them over time" if time is None else f"one named {time!r}"
        raise TaskSiteError(
            f"task site {self.name!r} lies in the plates {', '.join(map(repr, dims))}; expected "
            f"{wanted}: name the plate over time, time=..."
        )

    def uniform(self) -> Tensor:
        """Return u, the maximum-entropy point, for each element: ``batch_shape + (K,)``."""
        return torch.full_like(self.log_prior, 1.0 / self.num_tasks, requires_grad=False)

    def corner(self, task: Tensor | int) -> Tensor:
        """Return e_k, the point that stands for one task: ``task.shape + batch_shape + (K,)``."""
        k = torch.as_tensor(task, device=self.log_prior.device)
        one_hot = torch.nn.functional.one_hot(k, self.num_tasks).to(self.log_prior.dtype)
        one_hot = one_hot.reshape(k.shape + (1,) * len(self.batch_shape) + (self.num_tasks,))
        return one_hot.expand(k.shape + self.log_prior.shape)

    def shifted_tasks(self, shift: int) -> Tensor:
        """Return task ids that count up from element to element along every dimension, mod K.

        In K shifts each element sees every task of its neighbours: ``batch_shape``.
        """
        rank, tasks = len(self.batch_shape), torch.full(self.batch_shape, shift)
        for dim, size in enumerate(self.batch_shape):
            tasks = tasks + torch.arange(size).reshape(-1, *[1] * (rank - dim - 1))
        return (tasks % self.num_tasks).to(self.log_prior.device)

    def reordered(self, order: Any) -> TaskSite:
        """Return the same site with its tasks in another order, see ``TaskPosterior.reordered``."""
        ids = check_order(order, self.num_tasks)
        before = range(self.num_tasks) if self.order is None else self.order
        prior = self.log_prior[..., ids.to(self.log_prior.device)]
        return replace(self, log_prior=prior, order=tuple(before[k] for k in ids.tolist()))

    def as_data(self, tasks: Tensor) -> Tensor:
        """Return task ids, ``batch_shape``, as one-hot data of the model, whatever the order here.

        They are ``batch_shape + (K,)``.
        """
        ids = tasks.to(self.log_prior.device)
        if self.order is not None:
            ids = torch.tensor(self.order, device=ids.device)[ids]
        return torch.nn.functional.one_hot(ids, self.num_tasks).to(self.log_prior.dtype)

    def detached(self) -> TaskSite:
        """Return the same site with its prior cut off from any gradient."""
        prior = self.log_prior
        return replace(self, log_prior=prior.detach()) if prior.requires_grad else self


def is_task_message(msg: Any) -> bool:
    """Whether a Pyro message is a task that is still to be inferred (not one given as data)."""
    return msg["type"] == "sample" and bool(msg["infer"].get("task")) and not msg["is_observed"]


def convert_data(msg: Any) -> None:
    """Turn the data of a Pyro message into a tensor, in place: arrays, lists, integer one-hots.

    Floating numbers take the dtype of the site's distribution, in which the model computes.

    Raises:
        TaskSiteError: for what holds no numbers.
    """
    value, is_task = msg["value"], bool(msg["infer"].get("task"))
    if value is None:
        return
    if not isinstance(value, Tensor) or value.is_meta:
        what = f"the data of site {msg['name']!r}"
        value = as_tensor(value, what, like=parameter_of(msg["fn"]), error=TaskSiteError)
    # A task enters the network by matmul.
    if not value.is_floating_point() and (is_task or scores_floats_alone(msg["fn"])):
        like = parameter_of(msg["fn"])
        value = value.to(torch.get_default_dtype() if like is None else like.dtype)
    msg["value"] = value


def read_task_site(msg: Any, min_tasks: int = 2) -> TaskSite:
    """Read a marked site from its Pyro message, after its plates have expanded it.

    Raises:
        TaskSiteError: for a distribution that is not one ``OneHotCategorical`` per plate element,
            and for a task with a single value.
    """
    name, fn = msg["name"], msg["fn"]
    while type(fn).__name__ in ("MaskedDistribution", "ExpandedDistribution"):
        fn = fn.base_dist
    if isinstance(fn, Independent):
        raise TaskSiteError(
            f"task site {name!r} has an event of {len(fn.event_shape)} dimensions; a task is one "
            "OneHotCategorical per plate element: drop .to_event(...) and declare a plate"
        )
    if not isinstance(fn, OneHotCategorical):
        raise TaskSiteError(
            f"task site {name!r} is a {type(fn).__name__}; expected a OneHotCategorical, so that "
            "its value can move through the simplex: replace the distribution, and let the task "
            "enter the network by matmul or concatenation"
        )
    if fn.event_shape[-1] < min_tasks:
        raise TaskSiteError(
            f"task site {name!r} has K = 1: there is no task to infer; give it at least 2 tasks, "
            "or drop the mark infer={'task': True}"
        )
    as_tensor(fn.logits, f"the prior of task site {name!r}", error=TaskSiteError)
    if not fn.batch_shape.numel():
        raise TaskSiteError(
            f"task site {name!r} has batch shape {tuple(fn.batch_shape)}; expected at least one "
            "element to infer: leave empty batches out"
        )
    plates = {
        f.dim: Plate(f.name, f.size, f.full_size or f.size, subsample_indices(f.name, f.size))
        for f in msg["cond_indep_stack"]
        if f.vectorized
    }
    return TaskSite(
        name, _log_prior(fn), tuple(plates.get(d) for d in range(-len(fn.batch_shape), 0))
    )


def _log_prior(prior: OneHotCategorical) -> Tensor:
    # torch clamps the scores of a prior given by `probs` to log(eps). The log of the probabilities
    # themselves keeps a forbidden task forbidden. (Which of the two was given is forgotten when a
    # plate expands the prior; given scores as small as that have probabilities to match.)
    logits = prior.logits
    smallest = torch.finfo(logits.dtype).eps
    lowest = math.log(smallest) * (1 + 1e-6)
    checks = is_validation_enabled()  # where it is off nothing waits for a value
    if checks and logits.detach().amin().item() > math.log(smallest) * (1 - 1e-6):
        return logits
    probs = prior.probs.detach()
    clamped = (probs < smallest) & (logits >= lowest)
    return torch.where(clamped, probs.log(), logits) if not checks or clamped.any() else logits


def unknown_site(name: str, known: list[str]) -> TaskSiteError:
    """Return the error for a name that is no unobserved, marked task site of the model."""
    have = ", ".join(map(repr, known)) if known else "none"
    close = difflib.get_close_matches(name, known, n=1)
    cure = f"Did you mean {close[0]!r}?" if close else "Mark the site, leave it unobserved, or"
    return TaskSiteError(
        f"{name!r} is not a task site of this model; its unobserved sites marked "
        f"infer={{'task': True}} are: {have}. {cure}" + " correct the name" * (not close)
    )


def missing_point(name: str, given: list[str]) -> TaskSiteError:
    """Return the error for a task site that has neither a label nor a point."""
    have = f"points for {', '.join(map(repr, given))}" if given else "none"
    return TaskSiteError(
        f"task site {name!r} was given no point: expected one for every unobserved task site of "
        f"the model, got {have}; name it among the values, or give its labels as data"
    )


def no_data(name: str) -> TaskSiteError:
    """Return the error for a model that observes nothing a task could be inferred from."""
    return TaskSiteError(
        f"task site {name!r} has nothing to be inferred from: expected at least one observed site, "
        "got a model without data; pass the data, obs=... (None leaves a site unobserved)"
    )


def raise_if_empty_plate(error: ZeroDivisionError) -> None:
    """Raise the error for a plate of size 0, if it is what Pyro's bare division by zero means."""
    if "size cannot be zero" in str(error):
        raise TaskSiteError(
            "a plate of the model has size 0; expected at least one element: the data of this call "
            "are empty, leave empty batches out"
        ) from error


def no_task_sites() -> TaskSiteError:
    """Return the error for a model without anything to infer."""
    return TaskSiteError(
        "the model has no task site to infer: expected at least one unobserved OneHotCategorical "
        "sampled with infer={'task': True}, found none. Mark the site, and call the model without "
        "its task labels"
    )


def unreached(name: str) -> TaskSiteError:
    """Return the error for a task on which the likelihood does not depend."""
    return TaskSiteError(
        f"task site {name!r} does not reach the likelihood: expected the log likelihood to change "
        "with the task, got a gradient of zero. Let the task enter the network by matmul or "
        "concatenation (indexing by argmax, detach() and rounding cut the gradient)"
    )


class _FindTaskSites(Messenger):
    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, TaskSite] = {}

    def _pyro_sample(self, msg: Any) -> None:
        convert_data(msg)
        if is_task_message(msg):
            self.sites[msg["name"]] = read_task_site(msg).detached()


def find_task_sites(model: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, TaskSite]:
    """Find the task sites of a model by running it once, leaving nothing behind.

    Args:
        model: a Pyro model.
        args, kwargs: what the model takes.

    Returns:
        The unobserved sites marked ``infer={"task": True}``, by name, in the order of the model.

    Raises:
        TaskSiteError: when there is none, or one of them is not a task (see ``read_task_site``).

    >>> import pyro
    >>> import pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("sequence", len(x)):
    ...         prior = dist.OneHotCategorical(torch.tensor([0.2, 0.8]))
    ...         z = pyro.sample("z", prior, infer={"task": True})
    ...         pyro.sample("x", dist.Normal(z @ torch.tensor([0.0, 1.0]), 0.1), obs=x)
    >>> site = find_task_sites(model, torch.zeros(3))["z"]
    >>> site.num_tasks, tuple(site.batch_shape), site.dims
    (2, (3,), ('sequence',))
    """
    if not callable(model):
        raise TypeError(f"model should be a Pyro model, a callable; got a {type(model).__name__}")
    found = _FindTaskSites()
    try:
        with pure(model), torch.no_grad(), found:
            model(*args, **kwargs)
    except ZeroDivisionError as error:
        raise_if_empty_plate(error)
        raise
    if not found.sites:
        raise no_task_sites()
    return found.sites
