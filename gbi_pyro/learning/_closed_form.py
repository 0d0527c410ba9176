"""Steps of expectation maximisation in closed form, for models whose parameters have one.

Read off the model itself: the rows of a learned chain, and data whose law, of an exponential
family, has a parameter of the model for each task, such as ``Poisson(z @ rates)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro import distributions as dist
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import transform_to

from gbi_pyro.inference._vectorised import Vectorised
from gbi_pyro.inference.learned_chain import LearnedChain
from gbi_pyro.inference.task_chain import TaskChain
from gbi_pyro.learning._log_joint import LogJoint
from gbi_pyro.relax import RelaxMessenger, points_at

FAMILIES: dict[type, tuple[str, ...]] = {
    torch.distributions.Normal: ("loc", "scale"),
    torch.distributions.Poisson: ("rate",),
    torch.distributions.Exponential: ("rate",),
    torch.distributions.Bernoulli: ("probs",),
    torch.distributions.Categorical: ("probs",),
}
LEAST = 1e-10  # a probability that a step leaves, so that a later one may raise it again
STEPS, SLOW = 100, 0.8  # when to leave it to the minimiser


@dataclass(frozen=True)
class Emission:
    """Data whose law is of an exponential family with a parameter of its own for each task.

    Attributes:
        family: its class.
        value: the data, ``(N,) + event_shape``.
        seen: which count, ``(N,)``.
        given: the law's parameters at each task, ``(K,) + event_shape``.
        names: the model's parameter that each of them is, where it is one.
    """

    family: type
    value: Tensor
    seen: Tensor
    given: Mapping[str, Tensor]
    names: Mapping[str, str]

    def most_probable(self, q: Tensor, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters that are most probable under q, ``(S, N, K)``.

        Args:
            q: posterior probabilities of the tasks.
            values: the parameters before, which tasks without data keep.
        """
        weight = q * self.seen[:, None]
        total = weight.sum(1)
        x = self.value.to(q)
        if self.family is torch.distributions.Categorical:
            x = torch.nn.functional.one_hot(self.value.long(), self.given["probs"].shape[-1]).to(q)
        flat = x.reshape(len(x), -1)
        centre = flat.mean(0)

        def mean(of: Tensor) -> Tensor:
            found = torch.einsum("snk,ne->ske", weight, of) / total.unsqueeze(-1)
            return found.reshape(*total.shape, *x.shape[1:])

        average = mean(flat - centre) + centre.reshape(x.shape[1:])
        if self.family is torch.distributions.Normal:
            loc = average if "loc" in self.names else self.given["loc"].expand_as(average)
            away = loc - centre.reshape(x.shape[1:])
            around = mean((flat - centre) ** 2) - 2 * away * (average - loc + away) + away**2
            found = {"loc": average, "scale": around.clamp_min(0.0)}
        elif self.family is torch.distributions.Exponential:
            found = {"rate": 1 / average}
        else:
            found = dict.fromkeys(FAMILIES[self.family], average)
        new = {}
        for parameter, name in self.names.items():
            value, old = found[parameter], values[name]
            if parameter == "scale":
                if old.shape != value.shape:  # one for all tasks
                    each = total.reshape(*total.shape, *[1] * (value.ndim - 2))
                    value = torch.nansum(each * value, 1) / total.sum(1).reshape(
                        -1, *[1] * (value.ndim - 2)
                    )
                value = value.sqrt()
            new[name] = torch.where(value.isfinite(), value, old)
        return new


@dataclass(frozen=True)
class ClosedForm:
    """The steps of a marginal all of whose parameters have one; see ``read``."""

    log_joint: LogJoint
    vectorised: Vectorised
    emissions: list[Emission]
    chain: str | None  # the name of its parameters

    @classmethod
    def read(cls, log_joint: LogJoint, near: np.ndarray) -> ClosedForm | None:
        """Return the steps of a marginal; None where some parameter has no closed form.

        Args:
            log_joint: of the marginal.
            near: a vector at which every parameter has other values.
        """
        vectorised = log_joint.vectorised
        if vectorised is None or log_joint.latents:
            return None
        prior, left = vectorised.marginal.prior, set(log_joint.params)
        chain = None
        if isinstance(prior, LearnedChain):
            if prior.inputs is not None or prior.initial == "stationary":
                return None
            chain = prior.name
            left -= {f"{chain}_transition", f"{chain}_initial"}
        elif callable(prior) or (isinstance(prior, TaskChain) and prior.log_duration is not None):
            return None
        emissions = []
        for name, laws in _laws(log_joint, vectorised, near).items():
            found = _emission(name, laws, log_joint, vectorised, near)
            if found is None:
                continue
            left -= set(found.names.values())
            emissions.append(found)
        return None if left else cls(log_joint, vectorised, emissions, chain)

    def __call__(self, points: np.ndarray, small: float) -> np.ndarray:
        """Return points that are more probable, ``(S, P)``; those that no step improved as before.

        A start ends where a step gains less than ``small`` nats, or less and less so slowly that
        the minimiser is faster.
        """
        points, active = points.copy(), np.arange(len(points))
        best, gained = np.full(len(points), -np.inf), np.full(len(points), np.inf)
        trial = points.copy()
        for _ in range(STEPS):
            found = self._step(trial[active])
            if found is None:
                break
            value, new = found
            gain = value - best[active]
            better = gain > 0  # written so that a NaN fails it
            now = active[better]
            points[now], best[now] = trial[now], value[better]
            trial[now] = new[better]
            slow = (gain > SLOW * gained[active]) & (gain < 1.0)
            gained[active] = gain
            active = active[better & ~slow & (gain > small)]
            if not len(active):
                break
        return points

    def _step(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the log evidence of points, and their next ones."""
        parts = torch.from_numpy(points).split(self.vectorised.at_once)
        values, new = [], []
        with torch.no_grad():
            for part in parts:
                counted = self.vectorised.counts(part)
                if counted is None:
                    return None
                values.append(counted[0])
                new.append(self._maximised(part, *counted[1:]))
        return torch.cat(values).numpy(), torch.cat(new).numpy()

    def _maximised(self, points: Tensor, q: Tensor, pairs: Tensor | None) -> Tensor:
        S, K = len(points), q.shape[-1]
        before = self.log_joint.values(points)
        after: dict[str, Tensor] = {}
        if self.chain is not None and pairs is not None:
            initial = self.vectorised.first_tasks(q)
            for name, counts in (("transition", pairs), ("initial", initial)):
                if (name := f"{self.chain}_{name}") in before:
                    rows = counts / counts.sum(-1, keepdim=True)
                    after[name] = torch.where(rows.isfinite(), rows.clamp_min(LEAST), before[name])
        by_element = q.reshape(S, -1, K)
        for emission in self.emissions:
            after |= emission.most_probable(by_element, before)
        free = [
            transform_to(self.log_joint.supports[name]).inv(after[name]).reshape(S, -1)
            for name in self.log_joint.leaves
        ]
        return torch.cat([f.double() for f in free], -1)


class _Laws(Messenger):
    """Effect handler that keeps the laws of data."""

    def __init__(self) -> None:
        super().__init__()
        self.laws: dict[str, Any] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg) and not msg["infer"].get("task"):
            self.laws[msg["name"]] = msg["fn"]


def _laws(log_joint: LogJoint, vectorised: Vectorised, near: np.ndarray) -> dict[str, list[Any]]:
    """Return the law of each data site in the plates of the task, at every task."""
    found: dict[str, list[Any]] = {}
    first = vectorised.first
    with log_joint.at(near) as marginal:
        for k in range(first.site.num_tasks):
            point = points_at({first.site.name: first.site.corner(k)})
            with _Laws() as run, RelaxMessenger(point, inferred=True, min_tasks=1):
                marginal.model(*log_joint.args)
            for name, law in run.laws.items():
                if name in first.factors and name != first.site.name:
                    found.setdefault(name, []).append(law)
    return found


def _emission(
    name: str, laws: list[Any], log_joint: LogJoint, vectorised: Vectorised, near: np.ndarray
) -> Emission | None:
    """Read a data site: its family, and which of its parameters are the model's own."""
    factor, batch = vectorised.first.factors[name], vectorised.first.site.batch_shape
    law, event = laws[0], len(laws[0].event_shape)
    bases = [_base(each) for each in laws]
    family = next((f for f in FAMILIES if isinstance(bases[0], f)), None)
    if family is None or tuple(law.batch_shape) != tuple(batch) or factor.value is None:
        return None
    if isinstance(factor.scale, Tensor) or factor.scale != 1.0:
        return None
    own = 1 if family is torch.distributions.Categorical else event
    given, names = {}, {}
    values = log_joint.values(torch.from_numpy(near))
    for parameter in FAMILIES[family]:
        table = torch.stack([getattr(b, parameter) for b in bases]).detach()
        table = table.reshape(len(bases), -1, *table.shape[table.ndim - own :])
        row = table[:, 0]
        if not torch.equal(table, row.unsqueeze(1).expand_as(table)):
            return None  # it differs between elements
        given[parameter] = row
        for known, value in values.items():
            whole = value.expand_as(row) if value.shape in (row.shape, row.shape[1:]) else None
            shared = parameter == "scale" or value.shape == row.shape
            rounding = 8 * max(torch.finfo(v.dtype).eps for v in (value, row))
            if whole is not None and shared and _equal(whole, row, rounding):
                names[parameter] = known
    value = factor.value.expand(*batch, *factor.value.shape[factor.value.ndim - event :])
    value = value.reshape(-1, *value.shape[len(batch) :])
    seen = torch.ones(batch) if factor.mask is None else factor.mask.expand(batch).double()
    if vectorised.first.real is not None:
        seen = seen * vectorised.first.real.squeeze(-1)
    return Emission(family, value, seen.reshape(-1), given, names)


def _equal(a: Tensor, b: Tensor, rounding: float) -> bool:
    return torch.allclose(a.double(), b.double(), rtol=rounding, atol=0.0)


def _base(law: Any) -> Any:
    while isinstance(law, (dist.Independent, dist.MaskedDistribution)) or hasattr(law, "base_dist"):
        law = law.base_dist
    return law
