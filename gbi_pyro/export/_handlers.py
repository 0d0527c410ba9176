"""A model at draws of its latent sites: one draw, or several in a plate outside its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import pyro
import torch
from pyro import poutine
from pyro.infer import MCMC
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_factor, site_is_subsample
from torch import Tensor

from gbi_pyro.logjoint import LogJoint, RelaxedModel
from gbi_pyro.purity import pure
from gbi_pyro.relax import Model
from gbi_pyro.sites import TaskSite, TaskSiteError, is_task_message

DRAW_PLATE = "_draws_of_other_sites"
Draws: TypeAlias = MCMC | Mapping[str, Tensor]
Data = Literal["keep", "hide", "redraw"]
Drawn = Literal["scored", "given", "latent"]


class AtDraws(Messenger):
    """Effect handler that gives latent sites the values of some draws.

    Args:
        values: ``(n,) + shape`` by site.
        nesting: how many dimensions the model's own plates take, if the draws lie in a plate
            outside them; None for a single draw without.
        data: whether data are scored, left out of the score, or drawn anew.
        drawn: whether the values are scored like data, given without a score, or remain latent, as
            a sampler sees them.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        nesting: int | None = None,
        data: Data = "keep",
        drawn: Drawn = "scored",
    ) -> None:
        super().__init__()
        self.values, self.nesting, self.data, self.drawn = values, nesting, data, drawn
        self.found: list[str] = []

    @property
    def in_plate(self) -> bool:
        """Whether the draws lie in a plate."""
        return self.nesting is not None

    def hiding_data(self) -> AtDraws:
        """Return the same without the score of the data."""
        return AtDraws(self.values, self.nesting, "hide")

    def around(self, model: Model) -> Model:
        """Return the model at the draws."""
        at_draws: Model = self(model)
        if self.nesting is not None:
            n = len(next(iter(self.values.values())))
            at_draws = pyro.plate(DRAW_PLATE, n, dim=-1 - self.nesting)(at_draws)
        return at_draws

    def __enter__(self) -> AtDraws:
        self.found = []
        super().__enter__()
        return self

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if site_is_subsample(msg):
            return
        if msg["is_observed"]:
            if self.data == "hide":
                msg["mask"] = False
            elif self.data == "redraw" and is_data(msg):
                msg["is_observed"], msg["value"], msg["done"] = False, None, False
        elif name in self.values and not is_task_message(msg):
            value = self.values[name]
            if self.nesting is None:
                value = _shaped(name, value[0], msg["fn"].shape())
            else:
                rank = value.ndim - 1 - msg["fn"].event_dim
                value = value.reshape(len(value), *(1,) * (self.nesting - rank), *value.shape[1:])
            msg["value"], msg["is_observed"], msg["done"] = value, self.drawn != "latent", True
            if self.drawn == "given":
                msg["mask"] = False
            self.found.append(name)


class DrawnModel(NamedTuple):
    """The sites of a model, as one run at a draw shows them.

    Attributes:
        values: the draws of its latent sites, ``(C, S) + shape``.
        observed: its data.
        sites: its task sites.
        dims: names of the dimensions of both, the draws left out.
        nesting: how many dimensions its plates take.
        local: whether a site that was drawn has values for each element of a task.
        indices: of the plates that are subsampled.
    """

    values: dict[str, Tensor]
    observed: dict[str, Tensor]
    sites: dict[str, TaskSite]
    dims: dict[str, tuple[str, ...]]
    nesting: int
    local: bool
    indices: dict[str, list[int]]

    def at(self, draws: slice, *, in_plate: bool, data: Data = "keep") -> AtDraws:
        """Return the handler that puts a model at some draws."""
        chosen = {name: value.flatten(0, 1)[draws] for name, value in self.values.items()}
        return AtDraws(chosen, self.nesting if in_plate else None, data)

    def chunks(self, size: int | None, data: Data = "keep") -> Iterator[AtDraws]:
        """Go through all draws, one after the other or in plates of ``size``."""
        total = math.prod(next(iter(self.values.values())).shape[:2])
        step = size or 1
        for start in range(0, total, step):
            yield self.at(slice(start, start + step), in_plate=size is not None, data=data)


def look(
    model: Model, draws: Draws, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> DrawnModel:
    """Run a model at the first draw, to learn its sites.

    Args:
        model: a Pyro model with task sites.
        draws: of its other latent sites; others are left aside.
        args, kwargs: what the model takes.

    Raises:
        TaskSiteError: for a latent site without draws or with draws of another shape, and for data
            outside the plates of the tasks.
        ValueError: for no draws, or different numbers of them.
    """
    values = by_chain(draws)
    at = AtDraws({name: value[0, :1] for name, value in values.items()})
    joint = RelaxedModel(at.around(model), args, kwargs).log_joint(lambda s: s.corner(0))
    if not at.found:
        raise ValueError(
            f"draws should hold latent sites of the model that are no tasks; got {list(values)}, "
            "none of which it has: look at the names, or take Enumeration alone"
        )
    _check_data_inside(joint, at.found)
    with pure(model), torch.no_grad():
        trace = poutine.trace(at.around(model)).get_trace(*args, **kwargs)
    nodes = {n: node for n, node in trace.nodes.items() if node["type"] == "sample"}
    data = {n: node for n, node in nodes.items() if n not in at.found and is_data(node)}
    observed = {n: node["value"] for n, node in data.items()}
    factors = [joint.factors[name] for name in at.found]
    return DrawnModel(
        values={
            name: values[name].reshape(*values[name].shape[:2], *nodes[name]["value"].shape)
            for name in at.found
        },
        observed=observed,
        sites={name: site.detached() for name, site in joint.sites.items()},
        dims={name: dims_of(name, nodes[name]) for name in (*at.found, *observed)},
        nesting=joint.nesting,
        local=any(f.belongs(site) for f in factors for site in joint.sites.values()),
        indices=subsamples(trace.nodes),
    )


def is_data(msg: Any) -> bool:
    """Whether a site holds data: observed, and no task, factor or function of others."""
    infer = msg["infer"]
    return bool(
        msg["is_observed"]
        and not infer.get("task")
        and not infer.get("_deterministic")
        and not site_is_factor(msg)
    )


def by_chain(draws: Draws) -> dict[str, Tensor]:
    """Return draws as ``(C, S) + shape``, checked."""
    if isinstance(draws, MCMC):
        values = dict(draws.get_samples(group_by_chain=True))
    else:
        values = {n: torch.as_tensor(v).detach().unsqueeze(0) for n, v in draws.items()}
    sizes = {name: tuple(value.shape[1:2]) for name, value in values.items()}
    if len(set(sizes.values())) != 1 or () in sizes.values() or (0,) in sizes.values():
        raise ValueError(
            "draws should hold the same number of draws, at least one, of each latent site that is "
            f"no task, (S,) + shape; got {sizes or 'no site'}"
        )
    return values


def _shaped(name: str, value: Tensor, expected: torch.Size) -> Tensor:
    """Drop the dimensions of size 1 that ``Predictive`` puts before those of a site."""
    surplus = value.ndim - len(expected)
    if value.shape[max(surplus, 0) :] == expected and all(n == 1 for n in value.shape[:surplus]):
        return value.reshape(expected)
    raise TaskSiteError(
        f"draws of site {name!r} have shape {tuple(value.shape)} each; expected "
        f"{tuple(expected)}, that of the site in the model: draw them with the same data"
    )


def dims_of(name: str, node: Any) -> tuple[str, ...]:
    """Name the dimensions of a site's value by its plates."""
    shape = node["value"].shape
    plates = {f.dim: f for f in node["cond_indep_stack"] if f.vectorized}
    event_dim = node["fn"].event_dim

    def dim(i: int) -> str:
        plate = plates.get(i - len(shape) + event_dim) if i < len(shape) - event_dim else None
        return plate.name if plate and plate.size == shape[i] else f"{name}_dim_{i}"

    return tuple(map(dim, range(len(shape))))


def log_mean_exp(value: Tensor) -> Tensor:
    """Average over chains and draws, ``(C, S) + shape``."""
    return value.logsumexp((0, 1)) - math.log(value.shape[0] * value.shape[1])


def subsamples(nodes: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the indices of each plate of a trace that is subsampled or permuted."""
    plates = {n: m for n, m in nodes.items() if m["type"] == "sample" and site_is_subsample(m)}
    indices = {name: torch.as_tensor(plate["value"]).tolist() for name, plate in plates.items()}
    return {name: found for name, found in indices.items() if found != list(range(len(found)))}


def _check_data_inside(joint: LogJoint, drawn: list[str]) -> None:
    refuse_outside(
        [
            name
            for name, factor in joint.factors.items()
            if name not in drawn
            and factor.is_data
            and not any(factor.belongs(site) for site in joint.sites.values())
        ],
        list(joint.sites),
    )


def refuse_outside(loose: list[str], sites: list[str]) -> None:
    """Refuse data outside the plates of the tasks, where there are any."""
    if loose:
        raise TaskSiteError(
            f"the data of {loose} belong to no element of the task sites {sites}, so their "
            "likelihood would be missing: expected observed sites in the plates of the task; give "
            "data outside as arguments, or judge them on their own"
        )
