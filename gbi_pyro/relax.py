"""A model with its task at a point of the simplex: the soft one-hot and the effect handler."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pyro.distributions import MaskedDistribution, TorchDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import is_validation_enabled
from torch import Tensor
from torch.distributions import constraints

from gbi_pyro._arrays import as_tensor
from gbi_pyro.sites import (
    TaskSite,
    TaskSiteError,
    is_task_message,
    read_task_site,
    simplex_tolerance,
    unknown_site,
)

Model = Callable[..., Any]
Point = Callable[[TaskSite], Tensor | None]


def points_at(values: Mapping[str, Tensor]) -> Point:
    """Return the function that gives each task site the point of its name."""
    return lambda site: values[site.name]


def as_point(site: TaskSite, value: Any) -> Tensor:
    """Return a point for a task site as a tensor of floating numbers."""
    what = f"the value of task site {site.name!r}"
    point = as_tensor(value, what, like=site.log_prior, error=TaskSiteError)
    return point if point.is_floating_point() else point.to(site.log_prior.dtype)


def check_value(site: TaskSite, value: Tensor, *, on_simplex: bool) -> None:
    """Check a point for a task site: its shape, and that it lies on the simplex if it has to.

    Leading dimensions beyond the site's own are welcome: that is how several points are tried at
    once.
    """
    expected = tuple(site.log_prior.shape)
    got = tuple(value.shape)
    if got[-len(expected) :] != expected:
        ids = "; task ids are made points by torch.nn.functional.one_hot(ids, K).float()"
        raise TaskSiteError(
            f"value of task site {site.name!r} has shape {got}; expected {expected}, that is one "
            f"point of {site.num_tasks} numbers for each element of {site.dims or 'the model'}"
            f"{ids * (got == expected[:-1])}"
        )
    if not (on_simplex and is_validation_enabled()):
        return
    value, tolerance = value.detach(), simplex_tolerance(value.dtype)
    total = value.sum(-1)
    low, high = (bound.item() for bound in total.aminmax())
    smallest = value.amin().item()
    # Written so that a NaN fails it.
    if low >= 1 - tolerance and high <= 1 + tolerance and smallest >= -tolerance:
        return
    worst = high if abs(high - 1) > abs(low - 1) else low
    raise TaskSiteError(
        f"value of task site {site.name!r} is off the simplex: expected numbers >= 0 that sum to "
        f"1, got a sum of {worst:.4g} and a smallest number of {smallest:.4g}; apply a softmax, or "
        "ask for free values"
    )


class SoftOneHot(TorchDistribution):
    """The categorical log prior, extended linearly from the corners to the whole simplex.

    log p(q) = sum_k q_k log pi_k, where a task of prior probability zero costs nothing as long as
    q_k = 0. At a corner this is the categorical's own log probability.

    Args:
        log_prior: normalised log probabilities, ``batch_shape + (K,)``.

    >>> import torch
    >>> SoftOneHot(torch.tensor([0.5, 0.5, 0.0]).log()).log_prob(torch.tensor([0.5, 0.5, 0.0]))
    tensor(-0.6931)
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    support = constraints.simplex

    def __init__(self, log_prior: Tensor) -> None:
        self.log_prior = log_prior
        super().__init__(log_prior.shape[:-1], log_prior.shape[-1:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return sum_k q_k log pi_k for ``value`` q of shape ``(..., K)``."""
        if is_validation_enabled():  # where it is off nothing waits for a value
            log_prob = (value * self.log_prior).sum(-1)
            if not math.isnan(log_prob.sum().item()):
                return log_prob
        costless = (value == 0) & self.log_prior.isneginf()
        return (value * self.log_prior.masked_fill(costless, 0.0)).sum(-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> SoftOneHot:
        """Return the same prior for a larger batch."""
        return SoftOneHot(self.log_prior.expand(tuple(batch_shape) + self.event_shape))


class RelaxMessenger(Messenger):
    """Effect handler that puts the task sites of a model at points of the simplex.

    Args:
        point: gives the point for a site, ``lead + batch_shape + (K,)``, or None to leave it alone.
        on_simplex: whether points are checked to lie there.
        inferred: whether the points stand for tasks to be inferred. A mask then hides data only:
            each element keeps its prior, and without data its posterior is the prior. Given tasks
            are masked like any data.
        min_tasks: the smallest K that is not refused.
    """

    def __init__(
        self,
        point: Point,
        *,
        on_simplex: bool = True,
        inferred: bool = False,
        min_tasks: int = 2,
    ) -> None:
        super().__init__()
        self.min_tasks = min_tasks
        self.point, self.on_simplex, self.inferred = point, on_simplex, inferred
        self.names: list[str] = []  # of all task sites, those left alone too
        self.sites: dict[str, TaskSite] = {}
        self.values: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if not is_task_message(msg):
            return
        site = read_task_site(msg, self.min_tasks)
        self.names.append(site.name)
        value = self.point(site)
        if value is None:
            return
        value = as_point(site, value)
        check_value(site, value, on_simplex=self.on_simplex)
        self.sites[site.name], self.values[site.name] = site, value
        prior: TorchDistribution = SoftOneHot(site.log_prior)
        if self.inferred:
            msg["mask"] = None
        elif isinstance(msg["fn"], MaskedDistribution):
            prior = prior.mask(msg["fn"]._mask)
        msg["fn"], msg["value"] = prior, value
        msg["is_observed"] = msg["done"] = True


def clamp_tasks(model: Model, values: Mapping[str, Tensor]) -> Model:
    """Clamp task sites of a model to points of the simplex: mixtures of tasks are legal inputs.

    The result is a Pyro model like any other, for training on mixtures or for prediction.

    Args:
        model: a Pyro model with task sites.
        values: for each site to clamp its point, ``batch_shape + (K,)``, numbers >= 0 that sum
            to 1. Sites that are not named stay as they are.

    Returns:
        The clamped model.

    Raises:
        TypeError: for values that are no mapping, or a site without a point.
        TaskSiteError: for a wrong shape, or a point off the simplex, when the model runs.
    """
    if not isinstance(values, Mapping) or any(v is None for v in values.values()):
        raise TypeError(
            "values should map names of task sites to points, {'z': q}, and leave out the sites "
            f"that stay open; got {values!r:.60}"
        )

    def clamped(*args: Any, **kwargs: Any) -> Any:
        with RelaxMessenger(lambda site: values.get(site.name)) as relax:
            result = model(*args, **kwargs)
        check_names(values, relax.names)
        return result

    return clamped


def check_names(values: Mapping[str, Tensor], sites: Iterable[str]) -> None:
    """Check that every named value belongs to an unobserved task site of the model."""
    known = list(sites)
    for name in values:
        if name not in known:
            raise unknown_site(name, known)
