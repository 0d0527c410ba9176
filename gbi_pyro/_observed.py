"""What the sites of a run observe: data checked, masked elements replaced, hidden ones tracked."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine.util import is_validation_enabled
from torch import Tensor
from torch.distributions import Independent

from gbi_pyro.sites import TaskSiteError


class Hidden(Tensor):
    """NaN in place of values that ``obs_mask`` leaves unobserved.

    Whatever is computed from them is of this class too, which shows where the model uses them.
    """


def is_hidden_half(msg: Any, names: Any) -> bool:
    """Whether a message is what ``pyro.sample(name, ..., obs_mask=m)`` draws where nothing is seen.

    Pyro makes a site ``<name>_observed`` masked by m, among ``names``, and a latent
    ``<name>_unobserved`` masked by ~m. As long as nothing else depends on the latter, its density
    integrates to 1.
    """
    name = msg["name"]
    return (
        msg["value"] is None
        and name.endswith("_unobserved")
        and f"{name.removesuffix('_unobserved')}_observed" in names
    )


def hidden_like(shape: torch.Size, like: Tensor) -> Tensor:
    """Return values that nobody observed."""
    return torch.full(shape, math.nan, dtype=like.dtype, device=like.device).as_subclass(Hidden)


def depends_on_hidden(names: list[str], reason: str) -> TaskSiteError:
    """Return the error for a model that uses values which ``obs_mask`` leaves unobserved."""
    sites = ", ".join(repr(name.removesuffix("_unobserved")) for name in names)
    return TaskSiteError(
        f"obs_mask leaves elements of site {sites} unobserved, and the rest of the model seems to "
        f"depend on them ({reason}); expected that nothing does, since they are never summed out: "
        "use poutine.mask(mask=m) around the site, with data in every element, or condition later "
        "sites on given numbers. Labels known for a part are given to GradientEM.step(labels=...)"
    )


def check_data(
    name: str, fn: Any, value: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return data and mask of a site, checked: NaN and infinite elements have to be masked.

    Masked elements that cannot be scored (NaN, outside of the support) come back replaced by a
    draw of the distribution. A mask inside of an event hides its elements, and where all of them
    are hidden the event.

    Args:
        name: of the site.
        fn: its distribution, without masks around it.
        value: its data.
        mask: which elements count, if some do not.
    """
    inner, masks = fn, [] if mask is None else [(mask, fn.event_dim)]
    while isinstance(inner, (Independent, MaskedDistribution)):
        if isinstance(inner, MaskedDistribution) and inner._mask is not True:
            masks.append((torch.as_tensor(inner._mask), inner.event_dim))
        inner = inner.base_dist
    if not masks:
        _check_finite(name, value, fn.event_dim)
        return value, mask
    keep = torch.ones((), dtype=torch.bool, device=value.device)
    for m, event_dim in masks:
        keep = keep & m.to(value.device).reshape(m.shape + (1,) * (event_dim - inner.event_dim))
    value = _replaced(name, inner, value, keep)
    within = fn.event_dim - inner.event_dim
    if within and len(masks) > (mask is not None):
        keep = keep.expand(torch.broadcast_shapes(keep.shape, (1,) * within))
        events = keep.flatten(-within).any(-1)
        mask = events if mask is None else mask & events
    return value, mask


def _check_finite(name: str, value: Tensor, event_dim: int) -> None:
    if not (is_validation_enabled() and value.is_floating_point()):
        return
    # One pass over the data in the usual case; a sum may overflow, too.
    if not math.isfinite(value.detach().sum().item()):
        finite = _events(value.isfinite(), event_dim)
        if not bool(finite.all()):
            raise _not_finite(name, ~finite)


def _replaced(name: str, fn: Any, value: Tensor, keep: Tensor) -> Tensor:
    """Return data with a draw of the distribution where a hidden element cannot be scored."""
    finite = _events(value.isfinite(), fn.event_dim)
    try:
        torch.broadcast_shapes(finite.shape, keep.shape)
    except RuntimeError:
        raise TaskSiteError(
            f"the mask of site {name!r} has shape {tuple(keep.shape)}; expected one that "
            f"broadcasts with its data, {tuple(finite.shape)}: one entry for each of them"
        ) from None
    checks = is_validation_enabled()  # where it is off nothing waits for a value
    if checks and not bool((finite | ~keep).all()):
        raise _not_finite(name, ~finite & keep)
    fit = finite & _supported(fn, value)
    if checks and bool(fit.all()):
        return value
    # A masked NaN would come back through the gradient (0 * NaN), and Pyro checks the support of
    # masked elements as well.
    unscored = ~fit & ~keep
    unscored = unscored.reshape(unscored.shape + (1,) * fn.event_dim)
    return torch.where(unscored, _stand_in(fn, value), value)


@torch.no_grad()
def _stand_in(fn: Any, value: Tensor) -> Tensor:
    with torch.random.fork_rng([value.device] if value.is_cuda else []):
        try:
            drawn: Tensor = fn.sample()
        except NotImplementedError:  # a distribution that cannot be drawn from
            return torch.ones_like(value)
    return drawn


def _supported(fn: Any, value: Tensor) -> Tensor:
    try:
        found: Tensor = fn.support.check(value)
    except NotImplementedError:  # a distribution that does not say
        return torch.ones((), dtype=torch.bool, device=value.device)
    surplus = found.ndim - (value.ndim - fn.event_dim)
    return _events(found, surplus)


def _events(elements: Tensor, event_dim: int) -> Tensor:
    return elements.flatten(-event_dim).all(-1) if event_dim > 0 else elements


def _not_finite(name: str, bad: Tensor) -> TaskSiteError:
    where = tuple(bad.nonzero()[0].tolist())
    return TaskSiteError(
        f"the data of site {name!r} have {int(bad.sum())} NaN or infinite element(s), the first at "
        f"index {where}; expected finite numbers. Drop them, or hide them from the likelihood with "
        "poutine.mask"
    )
