"""The score of a run: the log probability of every site, term by term, and its data checked."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import is_validation_enabled, site_is_factor, site_is_subsample
from torch import Tensor

from gbi_pyro._observed import (
    Hidden,
    check_data,
    depends_on_hidden,
    hidden_like,
    is_hidden_half,
)
from gbi_pyro.relax import SoftOneHot, check_value
from gbi_pyro.sites import (
    TaskSite,
    TaskSiteError,
    convert_data,
    is_task_message,
    missing_point,
    raise_if_empty_plate,
    read_task_site,
)


@dataclass(frozen=True)
class Factor:
    """One term of the log joint: the log probability of one site of the model.

    Attributes:
        log_prob: with the site's plates as dimensions; masks and scales of the user's applied, the
            scale of a plate's subsampling not.
        total: its sum, a scalar.
        plates: the plates that the site lies in, by name, and the dimension (negative) of each.
        is_data: whether it scores observed values (not a task, not a bare factor).
        is_task: whether it is the prior of a task.
        mask: which entries count, if some do not.
        scale: the user's scale, by which ``log_prob`` is multiplied.
        value: what was scored, masked elements that cannot be replaced.
    """

    log_prob: Tensor
    total: Tensor
    plates: Mapping[str, int]
    is_data: bool
    is_task: bool
    mask: Tensor | None = None
    scale: Tensor | float = 1.0
    value: Tensor | None = None

    @property
    def num_terms(self) -> Tensor:
        """How many observed values each entry scores: 1, or 0 where masked."""
        ones = torch.full_like(self.log_prob, float(self.is_data), requires_grad=False)
        return ones if self.mask is None else ones * self.mask

    @property
    def rounding(self) -> Tensor:
        """What rounding may do to each entry: two runs of one model agree within it."""
        return 256 * torch.finfo(self.log_prob.dtype).eps * (1 + self.log_prob.detach().abs())

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


def sum_terms(factors: Iterable[Factor]) -> Tensor:
    """Sum factors over everything, to a scalar."""
    totals = [f.total for f in factors]
    return functools.reduce(torch.add, totals) if totals else torch.zeros(())


def num_observations(factors: Iterable[Factor]) -> float:
    """Return how many values a run observes, masked ones left out.

    Where a likelihood is made of bare factors alone, each of their entries counts as one.
    """
    factors = [f for f in factors if not f.is_task]
    if not any(f.is_data for f in factors):
        return float(max((f.log_prob.numel() for f in factors), default=0))
    return float(
        sum(
            f.log_prob.numel() if f.mask is None else f.num_terms.sum().item()
            for f in factors
            if f.is_data
        )
    )


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


def by_element(
    factors: Mapping[str, Factor], site: TaskSite, nesting: int, lead: int = 1
) -> tuple[Tensor, Tensor]:
    """Sum the likelihood and the prior of each element: ``(lead,) + batch_shape`` both.

    Args:
        factors: of a run.
        site: its task site.
        nesting: the number of plate dimensions.
        lead: how many tasks it tried at once.
    """

    def summed(terms: list[Tensor]) -> Tensor:
        return sum_to_element(terms, site, nesting).expand((lead, *site.batch_shape))

    own = {n: f for n, f in factors.items() if f.belongs(site)}
    likelihood = summed([f.log_prob for n, f in own.items() if n != site.name])
    return likelihood, summed([own[site.name].log_prob])


class ScoreMessenger(Messenger):
    """Effect handler that scores every site of a run and checks the data as they pass.

    With Pyro's validation switched off (``pyro.enable_validation(False)``) no check waits for a
    number of a site, so that a GPU goes on without pause; log probabilities of NaN are refused
    still, all at once at the end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.factors: dict[str, Factor] = {}
        self._before: Tensor | None = None  # the random state before a new parameter
        self._points: list[torch.Size] = []  # of tasks that are tried several at once
        self._hidden: list[str] = []  # latent halves of sites with obs_mask

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        error = raised[1]
        if error is None and not is_validation_enabled():  # one wait for a number, at the end
            self._check_nan(self.factors)
        if isinstance(error, ZeroDivisionError):
            raise_if_empty_plate(error)
        if self._hidden and isinstance(error, Exception) and not isinstance(error, TaskSiteError):
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise depends_on_hidden(self._hidden, reason) from error

    def _pyro_param(self, msg: Any) -> None:
        if msg["name"] not in pyro.get_param_store():
            self._before = torch.get_rng_state()

    def _pyro_post_param(self, msg: Any) -> None:
        before, self._before = self._before, None
        if before is not None and not torch.equal(before, torch.get_rng_state()):
            raise TaskSiteError(
                f"parameter {msg['name']!r} is not in Pyro's store yet and begins at random, so "
                "that each inference would use another network; expected parameters that exist: "
                "run the model once, or train it"
            )

    def _pyro_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            convert_data(msg)
            if is_hidden_half(msg, self.factors):
                like = self.factors[msg["name"].replace("_unobserved", "_observed")].log_prob
                msg["value"], msg["done"] = hidden_like(msg["fn"].shape(), like), True
                self._hidden.append(msg["name"])
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
        if name in self.factors:
            raise TaskSiteError(
                f"two sites of one run are named {name!r}, so that one would hide the other; "
                "expected a name for each: number them in a loop, f'{name}_{t}', or declare a plate"
            )
        if name in self._hidden:
            return
        if not msg["is_observed"]:
            if is_task_message(msg):
                raise missing_point(name, [])
            raise TaskSiteError(
                f"site {name!r} is neither observed nor a task: expected a value for it while the "
                "task is inferred. If it is a task itself, mark it infer={'task': True}; else give "
                "it a value, poutine.condition(model, {...})"
            )
        infer = msg["infer"]
        has_value = not (infer.get("_deterministic") or site_is_factor(msg))
        mask = None if mask is True else mask
        while has_value and isinstance(fn, MaskedDistribution):
            if fn._mask is not True:
                mask = fn._mask if mask is None else fn._mask & mask
            fn = fn.base_dist
        if mask is False:  # nothing is scored, whatever the data are
            fn, mask = fn.mask(False), torch.zeros((), dtype=torch.bool)
        # Labels of a task are checked to lie on the simplex, which NaN does not.
        elif has_value and (mask is not None or not infer.get("task")):
            value, mask = check_data(name, fn, value, mask)
        if infer.get("task") and not isinstance(fn, SoftOneHot):
            # Labels may be mixtures, which a categorical would score by their largest entry.
            site = read_task_site(msg)
            check_value(site, value, on_simplex=True)
            fn = SoftOneHot(site.log_prior)
        if infer.get("task") and value.ndim > fn.log_prior.ndim:
            self._points.append(value.shape[:-1])
        log_prob = self._log_prob(msg, fn, value)
        self._check_shape(msg, log_prob.shape)
        scale = msg["scale"]
        for frame in msg["cond_indep_stack"]:
            if frame.full_size is not None and frame.full_size != frame.size:
                scale = scale * frame.size / frame.full_size
        if isinstance(scale, Tensor) or scale != 1.0:
            log_prob = log_prob * scale
        keep = None
        if mask is not None:
            keep = torch.as_tensor(mask, device=log_prob.device)
            log_prob = torch.where(keep, log_prob, log_prob.new_zeros(()))
        total = log_prob.sum()
        is_data = has_value and not infer.get("task")
        plates = {f.name: f.dim for f in msg["cond_indep_stack"] if f.vectorized}
        factor = Factor(
            log_prob, total, plates, is_data, bool(infer.get("task")), keep, scale, value
        )
        if is_validation_enabled():
            self._check_nan({name: factor})
        self.factors[name] = factor

    def _check_nan(self, factors: Mapping[str, Factor]) -> None:
        if not math.isnan(sum_terms(factors.values()).item()):
            return
        for name, factor in factors.items():  # a sum of infinite ones of both signs is NaN, too
            if not bool(factor.log_prob.isnan().any()):
                continue
            if self._hidden:
                raise depends_on_hidden(self._hidden, f"the log probability of {name!r} is NaN")
            finite = " though its value is finite" * is_validation_enabled()
            raise TaskSiteError(
                f"the log probability of site {name!r} is NaN{finite}: look for NaN or infinite "
                "numbers among the model's other inputs and its weights"
            )

    def _log_prob(self, msg: Any, fn: Any, value: Tensor) -> Tensor:
        try:
            log_prob: Tensor = fn.log_prob(value, *msg["args"], **msg["kwargs"])
        except torch.OutOfMemoryError:
            raise
        except (ValueError, RuntimeError, IndexError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(":")
            raise TaskSiteError(
                f"the data of site {msg['name']!r}, of shape {tuple(value.shape)}, cannot be "
                f"scored; expected values in the support of its distribution, which has shape "
                f"{tuple(fn.shape())} ({reason}): correct the data, or hide them from the "
                "likelihood with poutine.mask"
            ) from error
        if isinstance(log_prob, Hidden):
            raise depends_on_hidden(self._hidden, f"the log probability of {msg['name']!r} does")
        return log_prob

    def _check_shape(self, msg: Any, shape: torch.Size) -> None:
        """Refuse a log probability whose dimensions are not those of the site's plates.

        Points of a task that are tried at once stand to the left of its plates.
        """
        plates = {f.dim: f for f in msg["cond_indep_stack"] if f.vectorized}
        rank = max(len(shape), *(-dim for dim in plates)) if plates else len(shape)
        for dim in range(-rank, 0):
            size = shape[dim] if -dim <= len(shape) else 1
            expected = plates[dim].size if dim in plates else 1
            if size != expected and not any(
                -dim <= len(p) and p[dim] == size and dim not in plates for p in self._points
            ):
                raise _shape_error(msg["name"], tuple(shape), plates, dim)


def _shape_error(name: str, shape: tuple[int, ...], plates: dict[int, Any], dim: int) -> Exception:
    """Return the error for a log probability that does not fit the plates of its site."""
    expected = tuple(plates[d].size if d in plates else 1 for d in range(min(plates, default=0), 0))
    declared = ", ".join(f"{f.name!r} (size {f.size}, dim {d})" for d, f in sorted(plates.items()))
    size = shape[dim] if -dim <= len(shape) else 1
    if dim in plates:
        cure = "let its distribution or its data have that size, or give the plate another dim"
    else:
        cure = (
            "declare a plate for it, put it into the event by .to_event(1), or drop it from the "
            "data (a column of shape (N, 1) beside a plate of N makes an N x N table)"
        )
    return TaskSiteError(
        f"site {name!r} has log probabilities of shape {shape}; expected {expected}, one for each "
        f"element of its plates: {declared or 'none'}. Dimension {dim} has size {size}: {cure}"
    )
