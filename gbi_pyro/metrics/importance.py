"""Importance correction of a task posterior, with Pareto k-hat and effective size."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import one_hot

from gbi_pyro.inference.autoguide import AutoTaskGuide
from gbi_pyro.logjoint import LogJoint, RelaxedModel
from gbi_pyro.metrics._pareto import pareto_smoothed
from gbi_pyro.metrics._validate import checked_pair
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.relax import points_at
from gbi_pyro.sites import TaskSiteError

ENOUGH = 100  # effective draws below which neither their number nor k-hat itself can be trusted


@dataclass(frozen=True)
class ImportanceCorrection:
    """Draws of the tasks from an estimate, weighted to stand for the exact posterior.

    Units are the elements of the plates that were named, ``unit_shape``; () if everything is one.

    Attributes:
        tasks: by site the drawn task ids, ``(draws,) + batch_shape``.
        log_weights: log p(x, z) - log q(z | x) of each draw, raw, ``(draws,) + unit_shape``.
        smoothed: log weights, Pareto-smoothed and normalised over draws, ``(draws,) + unit_shape``.
        k_hat: Pareto's shape of the largest weights, ``unit_shape``; -inf where they are equal.
        num_tasks: K by site.
        unit_dims: the dimensions of the units among those of the plates, negative.
        method: the inference that was corrected.
    """

    tasks: dict[str, Tensor]
    log_weights: Tensor
    smoothed: Tensor
    k_hat: Tensor
    num_tasks: dict[str, int]
    unit_dims: tuple[int, ...]
    method: str

    @property
    def num_draws(self) -> int:
        """S, how many draws were weighted."""
        return len(self.log_weights)

    @property
    def effective_size(self) -> Tensor:
        """How many exact draws they are worth: 1 / sum_s w_s^2 (Kong 1992), ``unit_shape``."""
        return (-(2 * self.smoothed).logsumexp(0)).exp()

    @property
    def log_evidence(self) -> Tensor:
        """The estimate of log p(x): the log of the mean raw weight, ``unit_shape``."""
        return self.log_weights.logsumexp(0) - math.log(self.num_draws)

    @property
    def threshold(self) -> float:
        """Up to which k-hat this many draws suffice: min(1 - 1 / log10 S, 0.7)."""
        return min(1 - 1 / math.log10(self.num_draws), 0.7)

    def probs(self, site: str) -> Tensor:
        """Return the corrected probabilities of the tasks, ``batch_shape + (K,)``."""
        drawn = one_hot(self.tasks[site], self.num_tasks[site]).double()
        units = dict(zip(self.unit_dims, self.k_hat.shape, strict=True))
        shape = [units.get(d, 1) for d in range(2 - drawn.ndim, 0)]
        return (self.smoothed.exp().reshape(self.num_draws, *shape, 1) * drawn).sum(0)

    @property
    def trusted(self) -> Tensor:
        """Whether the weights can be relied on: k-hat and effective size suffice, ``unit_shape``.

        Both are asked for, since the rarest large weights may not have been drawn yet: then k-hat
        is small, and the draws are worth few.
        """
        return (self.k_hat <= self.threshold) & (self.effective_size >= ENOUGH)

    @property
    def verdict(self) -> str:
        """Whether the corrected numbers can be trusted, in words."""
        bad, units = int((~self.trusted).sum()), self.k_hat.numel()
        where = f" for {bad} of {units} units" if units > 1 and bad else ""
        found = (
            f"k-hat {self.k_hat.max().item():.2f} ({self.threshold:.2f} is allowed), "
            f"{self.num_draws} draws are worth {self.effective_size.min().item():.0f} exact ones "
            f"({ENOUGH} are needed)" + ", at worst" * (units > 1)
        )
        if not bad:
            return f"{self.method}: close enough to the exact posterior to be corrected: {found}"
        return (
            f"{self.method}: too far from the exact posterior to be corrected{where}: {found}. "
            "Draw more, calibrate it, take order=2 or Enumeration, or weight the elements of a "
            "plate apart, each=..."
        )


def importance_correction(
    guide: AutoTaskGuide,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    num_draws: int = 1000,
    generator: torch.Generator,
    each: Collection[str] = (),
) -> ImportanceCorrection:
    r"""Weight draws from an inferred posterior by p(x, z) / q(z | x), and check the weights.

    q is what the guide draws from: the joint posterior of sites that hang together or of a smoothed
    chain, else the product of the posteriors of the elements.

    The inference runs once and the model once for every draw, so this is for models that are too
    large to enumerate, or whose elements influence each other; where ``Enumeration`` works with
    fewer passes it is exact. For a posterior already at hand, or another one, give the guide an
    inference that returns it: ``AutoTaskGuide(model, lambda *_: posterior)``.

    *What k-hat means here.* The weights of discrete tasks take finitely many values, the largest
    being max p / q, so that every moment exists and the true tail has shape k <= 0. But k-hat,
    fitted to the largest weights of S draws (Vehtari et al. 2024, Pareto smoothed importance
    sampling, JMLR 25:72), says what these draws are good for: above ``threshold`` a few of them
    rule the sum, as if moments were missing, and only far more draws would show that they are not.
    Where fewer than five weights stand out of many equal ones there is nothing to fit, and it is
    +inf; where the largest ones are equal there is no tail, and it is -inf. So it says little of
    one element with few tasks, for which ``effective_share`` is exact, and much of the many tasks
    of a whole unit. Nor can it see what was never drawn: hence a least effective size, ``trusted``.

    Args:
        guide: the model with its inference.
        args: what the model takes.
        kwargs: likewise, by name.
        num_draws: S, at least 100.
        generator: source of the draws, seeded.
        each: names of plates whose elements do not influence each other; each is then a unit with
            weights of its own, which are less uneven than those of everything together.

    Returns:
        The draws with their weights, raw and smoothed; log evidence, effective size and a verdict.

    Raises:
        TaskSiteError: when a site lies outside a plate in ``each``, a plate is unknown, or all
            draws are impossible under the model.
        ValueError: for too few draws.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("trial", len(x)):
        ...         prior = dist.OneHotCategorical(torch.full((4,), 0.25))
        ...         z = pyro.sample("z", prior, infer={"task": True})
        ...         pyro.sample("x", dist.Normal(z @ torch.arange(4.0), 2.0), obs=x)
        >>> x, draw = torch.linspace(0, 3, 20), torch.Generator().manual_seed(0)
        >>> found = importance_correction(AutoTaskGuide(model), (x,), generator=draw)
        >>> print(found.verdict)
        one step: close enough to the exact posterior to be corrected: k-hat ...
    """
    if num_draws < ENOUGH:
        raise ValueError(f"num_draws should be {ENOUGH} or more; got {num_draws}: try 1000")
    kwargs = kwargs or {}
    with torch.enable_grad():
        posterior = guide.infer(guide.model, *args, **kwargs)
    tasks = posterior.sample(num_draws, generator=generator)
    log_q = _log_q(posterior, tasks)
    run = RelaxedModel(guide.model, args, kwargs)
    dims = _unit_dims(posterior, each)
    rows, rounding = [], []
    for s in range(num_draws):
        corners = {
            name: one_hot(ids[s], posterior.sites[name].num_tasks).to(posterior.log_probs[name])
            for name, ids in tasks.items()
        }
        joint = run.log_joint(points_at(corners))
        terms = _terms(joint, [-q[s] for q in log_q], dims)
        rows.append(_by_unit(terms, dims))
        eps = torch.finfo(joint.total.dtype).eps
        finite = [(eps * t.nan_to_num(neginf=0.0)).square() for t in terms]
        rounding.append(_by_unit(finite, dims).sqrt())
    log_weights = torch.stack(rows)
    if bool(log_weights.isneginf().all(0).any()):
        raise TaskSiteError(
            f"every draw from {posterior.method!r} is impossible under the model; expected one "
            "with a finite log joint in each unit, at least: look for tasks that the model forbids"
        )
    smoothed, k_hat = _pareto_smoothed(log_weights, torch.stack(rounding).amax(0))
    return ImportanceCorrection(
        {name: ids.cpu() for name, ids in tasks.items()},
        log_weights,
        smoothed,
        k_hat,
        {name: site.num_tasks for name, site in posterior.sites.items()},
        tuple(sorted(dims.values())),
        posterior.method,
    )


def effective_share(
    exact: TaskPosterior | Tensor | ArrayLike,
    estimate: TaskPosterior | Tensor | ArrayLike,
    site: str | None = None,
) -> Tensor:
    """Return the effective sample size of one draw from the estimate.

    1 / sum_k p_k^2 / q_k = 1 / (1 + chi^2(p || q)), the limit of effective size / draws (Kong 1992)
    for each element by itself, without drawing. At most exp(-KL(p || q)). The share of independent
    elements together is the product of theirs: small errors in many elements add up.

    Args:
        exact: a posterior, or its normalised log probabilities, (..., K).
        estimate: the same of the estimate.
        site: which task site to compare; without it the only one, or all of several together.

    Returns:
        One number per element, (...), in [0, 1], float64: 0 where the estimate forbids a task that
        the exact posterior allows.

    Raises:
        TaskSiteError: for an unknown site; for several sites that make no table of combinations.
        ValueError: for unequal shapes, or rows that are not log probabilities.

    Example:
        >>> effective_share(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log())
        tensor(0.7500, dtype=torch.float64)
    """
    log_p, log_q = (row.log_softmax(-1) for row in checked_pair(exact, estimate, site))
    terms = (2 * log_p - log_q).masked_fill(log_p.isneginf(), -torch.inf)
    return (-terms.logsumexp(-1)).exp().clamp_max(1.0)  # but for rounding


def _unit_dims(posterior: TaskPosterior, each: Collection[str]) -> dict[str, int]:
    """Return the dimension, negative, of each plate whose elements are units."""
    dims: dict[str, int] = {}
    for name, site in posterior.sites.items():
        placed = {p.name: i - len(site.plates) for i, p in enumerate(site.plates) if p}
        for plate in each:
            if plate not in placed:
                raise TaskSiteError(
                    f"task site {name!r} does not lie in plate {plate!r}; expected each=... to "
                    f"name plates around every task, and the plates here are {sorted(placed)}"
                )
            if posterior.joint is not None and plate == posterior.settings.get("time"):
                raise TaskSiteError(
                    f"plate {plate!r} of task site {name!r} is the time of a chain; expected "
                    "each=... to name plates of independent elements: leave it out"
                )
            dims[plate] = placed[plate]
    return dims


def _log_q(posterior: TaskPosterior, tasks: Mapping[str, Tensor]) -> list[Tensor]:
    """Return log q of each drawn task given those before it: ``(draws,) + batch_shape`` by site."""
    joint, found = posterior.joint, []
    for name, log_probs in posterior.log_probs.items():
        if joint is None or name not in joint.sites:
            q = log_probs.expand(*tasks[name].shape, log_probs.shape[-1])
            found.append(q.gather(-1, tasks[name].unsqueeze(-1)).squeeze(-1))
            continue
        before = joint.sites[: joint.sites.index(name)]
        # Draws stand to the left of the plates of all sites.
        rank = max(site.log_prior.ndim - 1 for site in posterior.sites.values())
        given = {n: _spread(tasks[n], rank) for n in before}
        values = one_hot(_spread(tasks[name], rank), log_probs.shape[-1]).to(log_probs)
        log_q = joint.conditional(name, given).log_prob(values)
        found.append(log_q.reshape(tasks[name].shape))
    return found


def _spread(tasks: Tensor, rank: int) -> Tensor:
    return tasks.reshape(len(tasks), *[1] * (rank + 1 - tasks.ndim), *tasks.shape[1:])


def _terms(joint: LogJoint, minus_log_q: list[Tensor], dims: dict[str, int]) -> list[Tensor]:
    """Return the terms of log p(x, z) - log q(z) of one draw, with plates as dimensions."""
    for name, factor in joint.factors.items():
        if not factor.plates.keys() >= dims.keys():
            raise TaskSiteError(
                f"site {name!r} does not lie in all plates of each={sorted(dims)}, so that their "
                "elements share its term and have no weights of their own; leave each=() to weight "
                "everything together"
            )
    return [factor.log_prob for factor in joint.factors.values()] + minus_log_q


def _by_unit(terms: list[Tensor], dims: dict[str, int]) -> Tensor:
    """Sum terms over all dimensions that units do not have: ``unit_shape``."""
    total = torch.zeros((), dtype=torch.float64)
    for term in terms:
        over = [d for d in range(-term.ndim, 0) if d not in dims.values()]
        term = term.detach().cpu().double()
        total = total + (term.sum(over) if over else term)
    return total


def _pareto_smoothed(log_weights: Tensor, rounding: Tensor) -> tuple[Tensor, Tensor]:
    """Return log weights, smoothed and normalised over draws, and k-hat."""
    columns = log_weights.reshape(len(log_weights), -1)
    smoothed, k_hat = pareto_smoothed(_tied(columns.T, 8 * rounding.reshape(-1, 1)))
    return smoothed.T.reshape(log_weights.shape), k_hat.reshape(log_weights.shape[1:])


def _tied(values: Tensor, tolerance: Tensor) -> Tensor:
    """Make values, (units, draws), equal that differ by rounding: a tail would be fitted to it."""
    ordered, order = values.sort(-1)
    group = (ordered.diff(dim=-1, prepend=ordered[:, :1]) > tolerance).cumsum(-1)
    means = torch.zeros_like(ordered).scatter_reduce(-1, group, ordered, "mean", include_self=False)
    return torch.empty_like(values).scatter(-1, order, means.gather(-1, group))
