"""The relaxed log joint l(q) = log p(x, Z = q): the model scored with its task at a point q.

The prior enters exactly and linearly, q . log pi; the likelihood is whatever the network makes
of q. Every inference of the library is built from runs of :class:`RelaxedModel`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gbi_pyro.purity import differentiable_networks, pure
from gbi_pyro.relax import Model, Point, RelaxMessenger, check_names, points_at
from gbi_pyro.score import Factor, ScoreMessenger, sum_terms, sum_to_element
from gbi_pyro.sites import (
    TaskSite,
    TaskSiteError,
    missing_point,
    no_data,
    no_task_sites,
    unreached,
)


class Passes(NamedTuple):
    """Compute used, counted as it is used: runs of the model and backward passes to the task.

    ``check`` counts runs made only to make sure that a method applies.
    """

    forward: int = 0
    backward: int = 0
    check: int = 0


@dataclass(frozen=True)
class LogJoint:
    """The relaxed log joint, kept factor by factor.

    Attributes:
        factors: one for each sample site of the model, by name.
        sites: the task sites.
        values: the point q of each task site.
    """

    factors: dict[str, Factor]
    sites: dict[str, TaskSite]
    values: dict[str, Tensor]

    def _sum(self, names: list[str]) -> Tensor:
        return sum_terms([self.factors[n] for n in names])

    @property
    def total(self) -> Tensor:
        """l(q) summed over everything, a scalar."""
        return self._sum(list(self.factors))

    @property
    def prior(self) -> Tensor:
        """The part q . log pi of the task sites, a scalar."""
        return self._sum(list(self.sites))

    @property
    def likelihood(self) -> Tensor:
        """The part of all other sites, a scalar."""
        return self._sum([n for n in self.factors if n not in self.sites])

    @property
    def nesting(self) -> int:
        """How many dimensions the plates take, over all factors."""
        return max(f.log_prob.ndim for f in self.factors.values())

    def hidden(self, site: TaskSite) -> bool:
        """Whether a task site has data, and all of them are masked: its posterior is its prior."""
        masks = [f.mask for f in self.factors.values() if f.is_data and f.belongs(site)]
        return bool(masks) and not any(m is None or bool(m.any()) for m in masks)

    def num_observations(self, site: TaskSite) -> Tensor:
        """Return how many observed values each element of a task site explains: ``batch_shape``."""
        inside = [f for n, f in self.factors.items() if n != site.name and f.belongs(site)]
        data = [f for f in inside if f.is_data]
        if data and all(f.mask is None for f in data):
            each = sum(f.log_prob.numel() for f in data) / site.batch_shape.numel()
            return site.log_prior.new_full(site.batch_shape, each, requires_grad=False)
        count = sum_to_element([f.num_terms for f in inside], site, self.nesting)
        if not data:
            # A likelihood by pyro.factor alone observes its elements, one each.
            factors = [replace(f, is_data=True).num_terms for f in inside if not f.is_task]
            count = sum_to_element(factors, site, self.nesting).clamp_max(1)
        return count.expand(site.batch_shape)


def _scaled(site: TaskSite, scale: Tensor | float) -> TaskSite:
    if isinstance(scale, Tensor):
        return replace(site, log_prior=site.log_prior * scale.unsqueeze(-1))
    return site if scale == 1.0 else replace(site, log_prior=site.log_prior * scale)


@dataclass
class RelaxedModel:
    """A model with its data, ready to be run with its task at any point; counts the passes used.

    Checks that wait for a number, which on a GPU is a synchronisation each, obey Pyro's switch.
    With ``pyro.enable_validation(False)`` nothing looks at the data (NaN, infinite, outside of the
    support) or whether points lie on the simplex. Checked still: names, shapes, plates, and in a
    synchronisation each that no log probability of a run is NaN, and that a gradient is finite and
    not zero everywhere.

    Args:
        model: a Pyro model with task sites.
        args: what the model takes.
        kwargs: likewise.
    """

    model: Model
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not callable(self.model):
            raise TypeError(
                f"model should be a Pyro model, a callable; got a {type(self.model).__name__}"
            )
        self.passes: Passes = getattr(self.model, "passes_used", Passes())

    def count(self, forward: int = 0, backward: int = 0, check: int = 0) -> None:
        """Add to the passes used."""
        before = self.passes
        self.passes = Passes(
            before.forward + forward, before.backward + backward, before.check + check
        )

    def log_joint(
        self,
        point: Point,
        *,
        order: int = 0,
        freeze: bool = True,
        on_simplex: bool = False,
    ) -> LogJoint:
        """Run the model once with its task at a point, leaving nothing behind.

        Args:
            point: gives the point of a task site.
            order: how many derivatives with respect to the points will be asked for.
            freeze: whether weights are constants (an E-step), or keep their gradient.
            on_simplex: whether points, of a user, are checked to lie on the simplex.
        """
        if order and torch.is_inference_mode_enabled():
            raise TaskSiteError(
                "the gradient at a task site cannot be had inside torch.inference_mode(), which "
                "records nothing: leave it, or use torch.no_grad()"
            )

        def leaf(site: TaskSite) -> Tensor | None:
            value = point(site)
            return value.detach().requires_grad_() if value is not None and order else value

        with (
            pure(self.model, freeze=freeze) as in_training,
            torch.set_grad_enabled(bool(order) or (not freeze and torch.is_grad_enabled())),
            differentiable_networks(order),
            ScoreMessenger() as score,
            RelaxMessenger(leaf, on_simplex=on_simplex, inferred=True) as relax,
        ):
            self.model(*self.args, **self.kwargs)
        if freeze and in_training:
            raise runs_in_training(in_training[0])
        if not relax.sites:
            raise no_task_sites()
        sites = {n: _scaled(s, score.factors[n].scale) for n, s in relax.sites.items()}
        return LogJoint(score.factors, sites, relax.values)

    def likelihood_gradient(
        self, joint: LogJoint, *, create_graph: bool = False
    ) -> dict[str, Tensor]:
        """Return the gradient at the point of a run, for each task site: ``batch_shape + (K,)``.

        It leaves out the site's own prior, which is linear in q: its part of dl/dq is log pi
        itself, for the caller to add. It is zero where all data are masked. One backward pass.

        Raises:
            TaskSiteError: when a task does not reach the rest of the log joint, or the gradient
                is not finite.
        """
        names, values = list(joint.sites), list(joint.values.values())
        rest = [f.total for n, f in joint.factors.items() if n not in joint.sites]
        for name, site in joint.sites.items():
            if site.log_prior.requires_grad:  # a prior that depends on another task
                with torch.enable_grad():
                    rest.append((joint.values[name].detach() * site.log_prior).sum())
        if not rest:
            raise no_data(names[0])
        connected = [term for term in rest if term.requires_grad]
        gradients: dict[str, Tensor] = {}
        found: Sequence[Tensor | None] = [None] * len(names)
        if connected:
            found = torch.autograd.grad(
                connected, values, allow_unused=True, create_graph=create_graph
            )
        self.count(backward=1)
        for name, g in zip(names, found, strict=True):
            if g is None:
                if not joint.hidden(joint.sites[name]):
                    raise unreached(name)
                g = torch.zeros_like(joint.values[name])
            gradients[name] = g
            # One pass in the usual case; a sum may overflow.
            if not 0 < g.detach().abs().sum().item() < math.inf:
                self._check_gradient(joint, joint.sites[name], g)
        return gradients

    def _check_gradient(self, joint: LogJoint, site: TaskSite, g: Tensor) -> None:
        if not bool(g.isfinite().all()):
            raise TaskSiteError(
                f"the gradient at task site {site.name!r} has NaN or infinite elements; expected "
                "finite numbers: the likelihood is zero or undefined at this point of the "
                "simplex. Look at the scales and the support of the observed sites"
            )
        if not bool(g.any()) and not joint.hidden(site):
            self._check_reach(joint, site)

    def _check_reach(self, joint: LogJoint, site: TaskSite) -> None:
        # A gradient of zero everywhere may be chance (data right in the middle of two tasks): the
        # corners decide, term by term, since sums may agree by chance too. Nor may a task that
        # reaches the data through another one be seen while that one is in the middle.
        def terms(joint: LogJoint) -> list[Tensor]:
            likelihoods = [f.log_prob for n, f in joint.factors.items() if n not in joint.sites]
            return likelihoods + [s.log_prior for n, s in joint.sites.items() if n != site.name]

        def at(point: dict[str, Tensor]) -> list[Tensor]:
            self.count(check=1)
            return terms(self.log_joint(points_at(point)))

        backgrounds = [joint.values]
        if len(joint.sites) > 1:
            backgrounds += [{n: s.corner(k) for n, s in joint.sites.items()} for k in (0, 1)]
        for values in backgrounds:
            middle = {**values, site.name: joint.values[site.name]}
            here = terms(joint) if values is joint.values else at(middle)
            for k in range(site.num_tasks):
                if not all(map(torch.equal, at({**values, site.name: site.corner(k)}), here)):
                    return
        raise unreached(site.name)


def runs_in_training(layer: nn.Module) -> TaskSiteError:
    """Return the error for a network whose layers run as in training."""
    return TaskSiteError(
        f"the model ran a {type(layer).__name__} in training mode, which depends on chance or on "
        "the rest of the batch; expected the network as it will be used: call eval() first"
    )


def relaxed_log_joint(
    model: Model, values: Mapping[str, Tensor], *args: Any, **kwargs: Any
) -> LogJoint:
    """Score a model with its tasks at points of the simplex: l(q) = log p(x, Z = q).

    Differentiable in the points and in the weights, and pure: it leaves no parameter, gradient,
    random draw or flag behind.

    Args:
        model: a Pyro model with task sites.
        values: a point for each of its task sites, ``batch_shape + (K,)``.
        args, kwargs: what the model takes.

    Returns:
        The log joint with its parts, ``.total``, ``.prior`` (q . log pi) and ``.likelihood``.

    Raises:
        TaskSiteError: unknown or missing site, wrong shape, point off the simplex, NaN data.

    >>> import pyro, pyro.distributions as dist
    >>> def model():
    ...     prior = dist.OneHotCategorical(torch.tensor([0.25, 0.75]))
    ...     z = pyro.sample("z", prior, infer={"task": True})
    ...     pyro.sample("x", dist.Normal(z @ torch.tensor([0.0, 1.0]), 1.0), obs=torch.tensor(1.0))
    >>> joint = relaxed_log_joint(model, {"z": torch.tensor([0.5, 0.5])})
    >>> round(joint.prior.item(), 4)  # .5 log .25 + .5 log .75
    -0.837
    """
    if not isinstance(values, Mapping):
        raise TypeError(
            f"values should be points by the name of their site, got a {type(values).__name__}"
        )

    def point(site: TaskSite) -> Tensor:
        if site.name not in values:
            raise missing_point(site.name, list(values))
        return values[site.name]

    joint = RelaxedModel(model, args, kwargs).log_joint(point, freeze=False, on_simplex=True)
    check_names(values, joint.sites)
    return joint
