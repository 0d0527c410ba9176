"""Exact scores for the most probable combinations of tasks under any posterior."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gbi_pyro.inference._combinations import Scorer, check_same_elements
from gbi_pyro.inference._options import check_chunk_size, check_numbers
from gbi_pyro.inference._shortlist import Shortlist, ShortlistJoint, most_probable
from gbi_pyro.joint import Joint, JointTable
from gbi_pyro.logjoint import RelaxedModel
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.relax import Model
from gbi_pyro.sites import TaskSiteError

MAX_BEYOND = 0.05  # probability beyond the list from which on it may miss the best
MIN_GAP = 2.0  # nats: a list that ends closer to its best may go on with a better one


class ShortlistWarning(UserWarning):
    """The combinations that were scored may not hold the most probable one."""


@dataclass(frozen=True)
class Rescored:
    r"""Infer the task by exact scores of the combinations that another posterior ranks highest.

    A cheap posterior q often ranks well and weighs badly. Its ``num_scored`` most probable
    combinations S of the tasks of all sites, each element its own, are scored exactly, one forward
    pass each:

        r(z) = q(S) p(x, z) / sum_{z' in S} p(x, z') for z in S,   r(z) = q(z) for all others.

    The others keep their shape and their weight relative to S. So KL(exact || r) is at most
    KL(exact || q) and falls with each combination more, in every element. With all of them scored
    r is the exact posterior, and the log evidence is known. Where nothing in S can have made the
    data, the others share its probability.

    The list is read off the table of all combinations. Beyond ``max_joint`` of them it is built
    site by site, from the best beginnings, which is exact for independent sites and a beam search
    for others.

    Settings of the result say how far the list can be trusted, element by element:
    ``mass_beyond`` is the probability of all others, if p(x, z) / q(z) is for them what it is for
    the second half of the list, and ``gap`` is by how many nats the last of the list scores below
    the best. More than ``MAX_BEYOND`` of the one or less than ``MIN_GAP`` of the other raises a
    ``ShortlistWarning``. It may well be needless, and no warning is no guarantee, least of all with
    a base that is too sure of itself.

    Args:
        base: any inference of single elements, such as ``OneStepGradient()``. It may be a
            posterior at a temperature, which serves to rank.
        num_scored: how many combinations of each element are scored, at least 2.
        chunk_size: how many are tried in one run, as a leading dimension that the model has to
            broadcast over; None tries one after the other, which any model can do.
        max_joint: the largest number of combinations that are written out as a table.
        warn: whether to warn where the list may miss the most probable combination.
        check: whether independence of elements, and broadcasting over a chunk, are checked.

    Raises:
        TypeError: for what is no inference, and options of another type.
        ValueError: for options out of range.
        TaskSiteError: for sites in different plates, a base along a chain, elements that influence
            each other, and data that no scored combination can have made.

    >>> import pyro, pyro.distributions as dist
    >>> from gbi_pyro import OneStepGradient
    >>> def model(x):
    ...     with pyro.plate("trial", len(x)):
    ...         z = pyro.sample("z", dist.OneHotCategorical(torch.ones(5)), infer={"task": True})
    ...         means = torch.tensor([0.0, 0.3, 1.0, 1.5, 4.0])
    ...         pyro.sample("x", dist.Normal(z @ means, 0.5), obs=x)
    >>> posterior = Rescored(OneStepGradient(), num_scored=5)(model, torch.tensor([0.3]))
    >>> posterior.probs().round(decimals=2)
    tensor([[0.3700, 0.4400, 0.1700, 0.0200, 0.0000]])
    >>> posterior.method
    'one step, 5 rescored'
    """

    base: Callable[..., TaskPosterior]
    num_scored: int = 8
    chunk_size: int | None = 64
    max_joint: int = 65536
    warn: bool = True
    check: bool = True

    def __post_init__(self) -> None:
        if not callable(self.base):
            raise TypeError(
                "base should be an inference, such as OneStepGradient(); got a "
                f"{type(self.base).__name__}"
            )
        check_numbers(self, integers=("num_scored", "max_joint"))
        check_chunk_size(self)
        if self.num_scored < 2:
            raise ValueError(
                f"num_scored must be at least 2 (one alone keeps its weight), got {self.num_scored}"
            )
        if self.max_joint < 2:
            raise ValueError(f"max_joint must be at least 2, got {self.max_joint}")

    def __call__(self, model: Model, *args: Any, **kwargs: Any) -> TaskPosterior:
        """Infer the task sites of ``model`` called with ``args`` and ``kwargs``."""
        q = self.base(model, *args, **kwargs)
        _check_base(q)
        q = q.in_model_order()
        check_same_elements(q.sites, "Rescored")
        run = RelaxedModel(model, args, kwargs)
        run.passes = q.passes
        first = run.log_joint(lambda site: site.corner(0))
        run.count(check=1)
        number = math.prod(site.num_tasks for site in q.sites.values())
        table = q.table(self.max_joint) if number <= self.max_joint else None
        listed, log_others = most_probable(q, table, min(self.num_scored, number))
        score = Scorer(
            run, first, chunk_size=self.chunk_size, check=self.check, what="rescoring combinations"
        )
        scores = score(listed.ids)
        complete = len(scores) == number
        new, log_factor = _corrected(scores, listed, log_others, complete)
        beyond = _mass_beyond(scores, listed, log_others)
        gap = (scores.amax(0) - scores[-1]).nan_to_num(0.0, posinf=torch.inf)
        if self.warn:
            doubtful = (beyond > MAX_BEYOND) | (gap < MIN_GAP)
            _warn(doubtful & ~log_others.isneginf(), len(scores), number)
        log_probs, joint = _replaced(q, table, listed, new, log_factor)
        log_probs = {n: v.to(q.sites[n].log_prior.dtype) for n, v in log_probs.items()}
        site = next(iter(first.sites.values()))
        return TaskPosterior(
            log_probs,
            q.sites,
            method=f"{q.method}, {len(scores)} rescored",
            settings={
                "base": q.settings,
                "num_scored": self.num_scored,
                "chunk_size": self.chunk_size,
                "mass_beyond": beyond,
                "gap": gap,
            },
            passes=run.passes,
            num_observations=q.num_observations,
            log_evidence=scores.logsumexp(0).to(site.log_prior.dtype) if complete else None,
            log_outside=sum(f.total.item() for f in first.factors.values() if not f.belongs(site)),
            joint=joint if len(log_probs) > 1 else None,
        )


def _warn(doubtful: Tensor, num_scored: int, number: int) -> None:
    if affected := int(doubtful.sum()):
        warnings.warn(
            f"the most probable combination of tasks may be none of the {num_scored} of {number} "
            f"that were scored in {affected} of {doubtful.numel()} elements: raise num_scored, "
            "take a better base, or set warn=False to accept it",
            ShortlistWarning,
            stacklevel=3,
        )


def _check_base(q: Any) -> None:
    if not isinstance(q, TaskPosterior):
        raise TypeError(
            f"base should return a TaskPosterior, as inferences do; got a {type(q).__name__}"
        )
    if "chain" in q.settings:
        raise TaskSiteError(
            f"base should infer elements one by one; got {q.method!r}, along a chain: put Rescored "
            "inside, BayesFilter(Rescored(...), chain)"
        )


def _corrected(
    scores: Tensor, listed: Shortlist, log_others: Tensor, complete: bool
) -> tuple[Tensor, Tensor]:
    """Return new log probabilities of the list, and the log factor of those of all others.

    Args:
        scores: log p(x, z) of the list, ``(m,) + batch_shape``.
        listed: the list.
        log_others: log q of all others together, ``batch_shape``.
        complete: whether there are no others.
    """
    impossible = scores.isneginf().all(0)
    if bool((lost := impossible & log_others.isneginf()).any()):
        raise TaskSiteError(
            f"no combination of tasks of {list(listed.ids)} that was scored can have made the data "
            f"of element {tuple(lost.nonzero()[0].tolist())}, and the base gives the others no "
            "probability: raise num_scored, or look at the data"
        )
    mass = torch.zeros_like(log_others) if complete else listed.log_q.logsumexp(0).clamp_max(0)
    factor = torch.where(impossible, -log_others, -torch.inf if complete else 0.0)
    return torch.where(impossible, -torch.inf, scores.log_softmax(0) + mass), factor


def _mass_beyond(scores: Tensor, listed: Shortlist, log_others: Tensor) -> Tensor:
    """Return the probability of all others, weighed as the second half of the list is."""
    half = len(scores) // 2
    ratio = scores[half:].logsumexp(0) - listed.log_q[half:].logsumexp(0)
    ratio = ratio.masked_fill(log_others.isneginf(), 0.0)
    log_beyond = log_others + ratio
    beyond = (log_beyond - torch.logaddexp(log_beyond, scores.logsumexp(0))).exp()
    return beyond.masked_fill(scores.isneginf().all(0), 1.0)


def _replaced(
    q: TaskPosterior,
    table: JointTable | None,
    listed: Shortlist,
    log_probs: Tensor,
    log_factor: Tensor,
) -> tuple[dict[str, Tensor], Joint]:
    """Return the marginals and the joint posterior with the probabilities of the list replaced."""
    if table is None:
        joint = ShortlistJoint(q, listed, log_probs, log_factor)
        return joint.marginals(), joint
    at = torch.zeros_like(log_probs, dtype=torch.long)
    for name, size in table.sizes.items():
        at = at * size + listed.ids[name]
    flat = table.flat.double() + log_factor.unsqueeze(-1)
    flat = flat.scatter(-1, at.movedim(0, -1), log_probs.movedim(0, -1))
    new = JointTable.of_scores(table.sizes, flat)
    marginals = new.marginals()
    return {name: marginals[name] for name in q.log_probs}, new
