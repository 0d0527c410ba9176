"""The relaxed log joint l(q) = log p(x, Z = q): the model scored with its task at a point q.

The prior enters exactly and linearly, q . log pi; the likelihood is whatever the network makes
of q. Every inference of the library is built from runs of :class:`RelaxedModel`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.distributions import MaskedDistribution
from pyro.poutine.util import site_is_factor, site_is_subsample
from torch import Tensor

from gbi_pyro.purity import differentiable_networks, pure
from gbi_pyro.relax import Model, Point, RelaxMessenger, SoftOneHot, check_names
from gbi_pyro.sites import (
    TaskSite,
    TaskSiteError,
    check_value,
    is_task_message,
    missing_point,
    no_data,
    no_task_sites,
    read_task_site,
    unreached,
)


class Passes(NamedTuple):
    """Compute spent, counted as it is spent: runs of the model and backward passes to the task.

    ``check`` counts runs made only to make sure that a method applies.
    """

    forward: int = 0
    backward: int = 0
    check: int = 0


@dataclass(frozen=True)
class Factor:
    """One term of the log joint: the log probability of one site of the model.

    Attributes:
        log_prob: with the site's plates as dimensions; masks and scales of the user's applied, the
            scale of a plate's subsampling not.
        total: its sum, a scalar.
        plates: the names of the plates that the site lies in.
        is_data: whether it scores observed values (not a task, not a bare factor).
        mask: which entries count, if some do not.
        scale: the user's scale, by which ``log_prob`` is multiplied.
    """

    log_prob: Tensor
    total: Tensor
    plates: frozenset[str]
    is_data: bool
    mask: Tensor | None = None
    scale: Tensor | float = 1.0

    @property
    def num_terms(self) -> Tensor:
        """How many observed values each entry scores: 1, or 0 where masked."""
        ones = torch.full_like(self.log_prob, float(self.is_data), requires_grad=False)
        return ones if self.mask is None else ones * self.mask

    def belongs(self, site: TaskSite) -> bool:
        """Whether this has a term of its own (or more) for each element of a task site."""
        rank = len(site.batch_shape)
        for i, (size, plate) in enumerate(zip(site.batch_shape, site.plates, strict=True)):
            dim = i - rank
            if plate and plate.name not in self.plates:
                return False
            if not plate and size > 1:
                here = self.log_prob.shape[dim] if self.log_prob.ndim >= -dim else 1
                if here != size:
                    return False
        return True


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

    def num_observations(self, site: TaskSite) -> Tensor:
        """Return how many observed values each element of a task site explains: ``batch_shape``."""
        terms = [f.num_terms for f in self.factors.values() if f.belongs(site)]
        return sum_to_element(terms, site, self.nesting).expand(site.batch_shape)


def sum_terms(factors: Iterable[Factor]) -> Tensor:
    """Sum factors over everything, to a scalar."""
    totals = [f.total for f in factors]
    return torch.stack(totals).sum() if totals else torch.zeros(())


def sum_to_element(terms: list[Tensor], site: TaskSite, nesting: int) -> Tensor:
    """Sum terms over every plate dimension that the elements of a task site do not have.

    Args:
        terms: tensors whose last ``nesting`` dimensions are plates; those further left are points
            tried at once, and kept.
        site: the task site.
        nesting: the number of plate dimensions.

    Returns:
        ``lead + batch_shape``.
    """
    rank = len(site.batch_shape)
    shape = (1,) * (nesting - rank) + tuple(site.batch_shape)
    total = torch.zeros(shape, dtype=site.log_prior.dtype, device=site.log_prior.device)
    for term in terms:
        padded = term.reshape((1,) * (nesting - term.ndim) + tuple(term.shape))
        surplus = [d for d in range(-nesting, 0) if shape[d] == 1 and padded.shape[d] > 1]
        total = total + (padded.sum(surplus, keepdim=True) if surplus else padded)
    return total.reshape(total.shape[: total.ndim - nesting] + site.batch_shape)


class ScoreMessenger(poutine.messenger.Messenger):
    """Effect handler that scores every site of a run and checks the data as they pass."""

    def __init__(self) -> None:
        super().__init__()
        self.factors: dict[str, Factor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            return
        fn = msg["fn"]
        if msg["value"] is None and fn.subsample_size is not None and fn.subsample_size < fn.size:
            raise TaskSiteError(
                f"plate {msg['name']!r} draws a new subsample at each run, so a posterior would "
                "belong to unknown elements: pass the indices, subsample=..., or use a DataLoader"
            )

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        name, fn, value, mask = msg["name"], msg["fn"], msg["value"], msg["mask"]
        if not msg["is_observed"]:
            if is_task_message(msg):
                raise missing_point(name, [])
            raise TaskSiteError(
                f"site {name!r} is neither observed nor a task: expected a value for it while the "
                "task is inferred. If it is a task itself, mark it infer={'task': True}; else give "
                "it a value, poutine.condition(model, {...})"
            )
        while isinstance(fn, MaskedDistribution) and isinstance(fn._mask, Tensor):
            mask = fn._mask if mask is None else fn._mask & mask
            fn = fn.base_dist
        infer = msg["infer"]
        has_value = not (infer.get("_deterministic") or site_is_factor(msg))
        if has_value:
            value = _finite(name, value, fn.event_dim, mask)
        if infer.get("task") and not isinstance(fn, SoftOneHot):
            # Labels may be mixtures, which a categorical would score by their largest entry.
            site = read_task_site(msg)
            check_value(site, value, on_simplex=True)
            fn = SoftOneHot(site.log_prior)
        log_prob = fn.log_prob(value, *msg["args"], **msg["kwargs"])
        scale = msg["scale"]
        for frame in msg["cond_indep_stack"]:
            if frame.full_size is not None and frame.full_size != frame.size:
                scale = scale * frame.size / frame.full_size
        if isinstance(scale, Tensor) or scale != 1.0:
            log_prob = log_prob * scale
        keep = None
        if mask is not None and mask is not True:
            keep = torch.as_tensor(mask, device=log_prob.device)
            log_prob = torch.where(keep, log_prob, log_prob.new_zeros(()))
        total = log_prob.sum()
        if bool(total.isnan()) and bool(log_prob.isnan().any()):
            raise TaskSiteError(
                f"the log probability of site {name!r} is NaN though its value is finite: look for "
                "NaN or infinite numbers among the model's other inputs and its weights"
            )
        is_data = has_value and not infer.get("task")
        plates = frozenset(f.name for f in msg["cond_indep_stack"] if f.vectorized)
        self.factors[name] = Factor(log_prob, total, plates, is_data, keep, scale)


def _finite(name: str, value: Tensor, event_dim: int, mask: Any) -> Tensor:
    """Return the data, checked: NaN and infinite elements have to be masked."""
    if not value.is_floating_point() or math.isfinite(value.detach().sum().item()):
        return value  # one pass over the data in the usual case
    finite = value.isfinite()
    if event_dim:
        finite = finite.flatten(-event_dim).all(-1)
    allowed = finite if mask is None else finite | ~torch.as_tensor(mask, device=value.device)
    if not bool(allowed.all()):
        where = tuple((~allowed).nonzero()[0].tolist())
        raise TaskSiteError(
            f"the data of site {name!r} have {int((~allowed).sum())} NaN or infinite element(s), "
            f"the first at index {where}; expected finite numbers. Drop them, or hide them from "
            "the likelihood with poutine.mask"
        )
    if bool(finite.all()):  # a sum that overflowed
        return value
    # A masked NaN would still come back through the gradient (0 * NaN): a good element of the
    # same data stands in for it, or 1, where there is none.
    stand_in = value[finite][0] if bool(finite.any()) else torch.ones_like(value[~finite][0])
    return torch.where(finite.reshape(finite.shape + (1,) * event_dim), value, stand_in)


def _scaled(site: TaskSite, scale: Tensor | float) -> TaskSite:
    if isinstance(scale, Tensor):
        return replace(site, log_prior=site.log_prior * scale.unsqueeze(-1))
    return site if scale == 1.0 else replace(site, log_prior=site.log_prior * scale)


@dataclass
class RelaxedModel:
    """A model with its data, ready to be run with its task at any point; counts what it spends.

    Args:
        model: a Pyro model with task sites.
        args: what the model takes.
        kwargs: likewise.
    """

    model: Model
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.passes: Passes = getattr(self.model, "passes_spent", Passes())

    def count(self, **spent: int) -> None:
        """Add to the passes spent."""
        self.passes = self.passes._replace(
            **{k: getattr(self.passes, k) + v for k, v in spent.items()}
        )

    def log_joint(
        self,
        point: Point,
        *,
        order: int = 0,
        freeze: bool = True,
        on_simplex: bool = True,
    ) -> LogJoint:
        """Run the model once with its task at a point, leaving nothing behind.

        Args:
            point: gives the point of a task site.
            order: how many derivatives with respect to the points will be asked for.
            freeze: whether weights are constants (an E-step), or keep their gradient.
            on_simplex: whether points are checked to lie on the simplex.
        """
        points: dict[str, Tensor] = {}

        def leaf(site: TaskSite) -> Tensor | None:
            value = point(site)
            if value is not None and order:
                value = value.detach().requires_grad_()
            if value is not None:
                points[site.name] = value
            return value

        with (
            pure(self.model, freeze=freeze),
            torch.set_grad_enabled(bool(order) or (not freeze and torch.is_grad_enabled())),
            differentiable_networks(order),
            ScoreMessenger() as score,
            RelaxMessenger(leaf, on_simplex=on_simplex, inferred=True) as relax,
        ):
            self.model(*self.args, **self.kwargs)
        if not relax.sites:
            raise no_task_sites()
        sites = {n: _scaled(s, score.factors[n].scale) for n, s in relax.sites.items()}
        return LogJoint(score.factors, sites, relax.values)

    @torch.enable_grad()
    def evidence_gradient(
        self, joint: LogJoint, *, create_graph: bool = False
    ) -> dict[str, Tensor]:
        """Return the gradient at the point of a run, for each task site: ``batch_shape + (K,)``.

        It leaves out the site's own prior, which is linear in q: its part of dl/dq is log pi
        itself, for the caller to add. One backward pass.

        Raises:
            TaskSiteError: when a task does not reach the rest of the log joint, or the gradient
                is not finite.
        """
        names, values = list(joint.sites), list(joint.values.values())
        rest = [f.total for n, f in joint.factors.items() if n not in joint.sites]
        for name, site in joint.sites.items():
            if site.log_prior.requires_grad:  # a prior that depends on another task
                rest.append((joint.values[name].detach() * site.log_prior).sum())
        if not rest:
            raise no_data(names[0])
        connected = [term for term in rest if term.requires_grad]
        if not connected:
            raise unreached(names[0])
        found = torch.autograd.grad(
            torch.stack(connected).sum(), values, allow_unused=True, create_graph=create_graph
        )
        self.count(backward=1)
        for name, g in zip(names, found, strict=True):
            if g is None:
                raise unreached(name)
            if not bool(g.isfinite().all()):
                raise TaskSiteError(
                    f"the gradient at task site {name!r} has NaN or infinite elements; expected "
                    "finite numbers: the likelihood is zero or undefined at this point of the "
                    "simplex. Look at the scales and the support of the observed sites"
                )
            if not bool(g.any()):
                self._check_reach(joint, joint.sites[name])
        return dict(zip(names, found, strict=True))

    def _check_reach(self, joint: LogJoint, site: TaskSite) -> None:
        # A gradient of zero everywhere may be chance (data right in the middle of two tasks): the
        # corners tell, term by term, since sums may agree by chance too. Only this rare case pays.
        def terms(joint: LogJoint) -> list[Tensor]:
            likelihoods = [f.log_prob for n, f in joint.factors.items() if n not in joint.sites]
            return likelihoods + [s.log_prior for n, s in joint.sites.items() if n != site.name]

        here = terms(joint)
        for k in range(site.num_tasks):
            point = {**joint.values, site.name: site.corner(k)}
            self.count(check=1)
            at_corner = self.log_joint(lambda s, point=point: point[s.name], on_simplex=False)  # type: ignore[misc]
            if not all(map(torch.equal, terms(at_corner), here)):
                return
        raise unreached(site.name)


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

    def point(site: TaskSite) -> Tensor:
        if site.name not in values:
            raise missing_point(site.name, list(values))
        return values[site.name]

    joint = RelaxedModel(model, args, kwargs).log_joint(point, freeze=False)
    check_names(values, joint.sites)
    return joint
