"""The log joint of a model as a function of vectors of free numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from gbi_pyro._arrays import as_tensor
from gbi_pyro.inference._hidden_task import FirstRun
from gbi_pyro.inference._vectorised import Vectorised
from gbi_pyro.inference.marginal import Marginal
from gbi_pyro.relax import Model

Draw = Callable[[torch.Generator], Mapping[str, Tensor]] | None
STEP = 1e-5  # of differences, for parameters of unit size


@dataclass
class LogJoint:
    """log p(x) of a model, latent sites included, as a function of one vector.

    Attributes:
        model: a Pyro model, usually by ``marginalize``.
        args: what it takes.
        params: free numbers of each parameter, those of Pyro's store.
        latents: free numbers of each latent site.
        supports: where the values of each live.
        first: a run of a marginal.
        vectorised: the same function of many vectors; None where the model cannot be run so.
    """

    model: Model
    args: tuple[Any, ...]
    params: dict[str, Tensor]
    latents: dict[str, Tensor]
    supports: dict[str, Any]
    first: FirstRun | None = None
    vectorised: Vectorised | None = field(default=None, repr=False)

    @classmethod
    def of(cls, model: Model, args: tuple[Any, ...]) -> LogJoint:
        """Run a model once and see what there is to fit.

        Raises:
            ValueError: for a model without parameters.
        """
        with torch.no_grad(), poutine.trace() as outside:
            first = model.first_run(*args) if isinstance(model, Marginal) else model(*args)
        nodes = outside.trace.nodes
        store, params, latents, supports = pyro.get_param_store(), {}, {}, {}
        for name, node in nodes.items():
            if node["type"] == "param" and store._params[name].requires_grad:
                params[name], supports[name] = store._params[name], store._constraints[name]
            elif node["type"] == "sample" and not (node["is_observed"] or site_is_subsample(node)):
                supports[name] = node["fn"].support
                latents[name] = transform_to(supports[name]).inv(node["value"]).detach().clone()
        if not supports:
            raise ValueError(
                "the marginal has no parameter to fit: expected pyro.param, pyro.module or latent "
                "sites in it, got none"
            )
        first = first if isinstance(model, Marginal) else None
        return cls(model, args, params, latents, supports, first)

    @property
    def leaves(self) -> dict[str, Tensor]:
        """The free numbers of every parameter and latent site."""
        return {**self.params, **self.latents}

    @property
    def here(self) -> np.ndarray:
        """The vector of where the parameters stand."""
        parts = [v.detach().double().flatten() for v in self.leaves.values()]
        return torch.cat(parts).numpy().copy()

    @property
    def num_free(self) -> int:
        """The number of parameters; a row of probabilities has one less than elements."""
        free = 0
        for name, value in self.leaves.items():
            rows = self.supports[name] is constraints.simplex
            free += value.numel() - (value[..., 0].numel() if rows else 0)
        return free

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """Return the free numbers of each parameter, from vectors ``(..., P)``."""
        leaves, batch = self.leaves, vector.shape[:-1]
        parts = vector.split([v.numel() for v in leaves.values()], -1)
        return {
            name: part.reshape((*batch, *leaf.shape)).to(leaf.dtype)
            for (name, leaf), part in zip(leaves.items(), parts, strict=True)
        }

    def values(self, vector: Tensor) -> dict[str, Tensor]:
        """Return the value of each parameter in its own space, from vectors ``(..., P)``."""
        free = self.split(vector)
        return {name: transform_to(self.supports[name])(value) for name, value in free.items()}

    def put(self, vector: np.ndarray) -> None:
        """Leave the parameters there."""
        with torch.no_grad():
            for leaf, value in zip(
                self.leaves.values(), self.split(torch.from_numpy(vector)).values(), strict=True
            ):
                leaf.copy_(value)

    @contextlib.contextmanager
    def at(self, vector: np.ndarray) -> Iterator[Marginal]:
        """Give the marginal at a vector, whatever has become of Pyro's store since.

        Raises:
            TypeError: for a model that ``marginalize`` did not make.
        """
        model = self.model
        if not isinstance(model, Marginal):
            raise TypeError(
                "the tasks and the terms of a fit are those of a marginal; expected a fit of "
                f"marginalize(model, ...), got one of a {type(model).__name__}"
            )
        here, given = self.here, _Given(self.values(torch.from_numpy(vector)))
        prior = given(model.prior) if callable(model.prior) else model.prior
        self.put(vector)  # a network reads its weights from itself
        try:
            with torch.no_grad():
                yield replace(model, model=given(model.model), prior=prior, check=False)
        finally:
            self.put(here)

    def moved(self, generator: torch.Generator, spread: float, draw: Draw) -> np.ndarray:
        """Return another start: drawn, or near to where the parameters stand."""
        drawn = {} if draw is None else dict(draw(generator))
        if unknown := drawn.keys() - self.leaves.keys():
            raise ValueError(
                f"draw_start should name parameters, of {sorted(self.leaves)}; got "
                f"{sorted(unknown)}"
            )
        parts = []
        for name, value in self.leaves.items():
            free = value.detach().double().flatten()
            if name in drawn:
                free = self._free(name, drawn[name])
            else:
                noise = torch.randn(len(free), generator=generator, dtype=torch.float64)
                free = free + spread * free.abs().clamp_min(1.0) * noise
            parts.append(free)
        return torch.cat(parts).numpy().copy()

    def _free(self, name: str, value: Tensor) -> Tensor:
        """Return the free numbers of a value that a start was given."""
        support, given = self.supports[name], as_tensor(value, f"draw_start[{name!r}]")
        shape = transform_to(support)(self.leaves[name]).shape
        if given.shape != shape or not bool(support.check(given).all()):
            raise ValueError(
                f"draw_start[{name!r}] should be of shape {tuple(shape)} and inside {support}; got "
                f"shape {tuple(given.shape)}: {given.flatten()[:4].tolist()}"
            )
        free: Tensor = transform_to(support).inv(given).double().flatten()
        return free

    def vectorise(self, near: np.ndarray, size: int) -> None:
        """Take one run for many vectors where that gives the same numbers, tried at one vector.

        Args:
            near: the vector.
            size: how many there will be.
        """
        if not isinstance(self.model, Marginal) or self.first is None:
            return
        here, alone = self.here, self.alone(near)
        self.put(here)
        single = any(v.dtype != torch.float64 for v in self.leaves.values())
        precision = 1e-3 if single else 1e-7
        weights = {n: p for n, p in self.params.items() if isinstance(p, nn.Parameter)}
        for replays in (True, False):
            try:
                self.vectorised = Vectorised(
                    self.model, self.args, self.first, self.values, weights, replays
                )
                several = np.tile(near, (min(size, self.vectorised.at_once), 1))
                found = self._together(torch.from_numpy(several))
            except (ValueError, RuntimeError, TypeError, AttributeError, KeyError):
                continue
            values, gradients = (f[0] for f in found)
            if np.allclose(values, alone[0], rtol=precision, atol=precision) and np.allclose(
                gradients, alone[1], rtol=precision, atol=precision
            ):
                return
        self.vectorised = None

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return log p(x) and its gradient at each of the points: ``(S,)`` and ``(S, P)``.

        -inf and 0 where it is none.
        """
        if self.vectorised is not None:
            parts = torch.from_numpy(points).split(self.vectorised.at_once)
            with contextlib.suppress(ValueError):  # one of them is impossible: see which
                values, gradients = zip(*map(self._together, parts), strict=True)
                return np.concatenate(values), np.concatenate(gradients)
        alone = [self.alone(point) for point in points]
        return np.array([value for value, _ in alone]), np.stack([slope for _, slope in alone])

    def _together(self, points: Tensor) -> tuple[np.ndarray, np.ndarray]:
        assert self.vectorised is not None
        leaf = points.clone().requires_grad_()
        values = self.vectorised(leaf)
        (gradients,) = torch.autograd.grad(values.sum(), leaf)
        good = values.isfinite() & gradients.isfinite().all(-1)
        values = torch.where(good, values, -torch.inf)
        gradients = torch.where(good[:, None], gradients, 0.0)
        return values.detach().double().numpy(), gradients.double().numpy()

    def alone(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        """Return log p(x) and its gradient by a run with all checks, and stay there.

        -inf and 0 where that is refused.
        """
        self.put(point)
        leaves = list(self.leaves.values())
        for leaf in leaves:
            leaf.requires_grad_(True)
        given = {n: transform_to(self.supports[n])(v) for n, v in self.latents.items()}
        try:
            traced = poutine.trace(poutine.condition(self.model, data=given)).get_trace(*self.args)
            value = traced.log_prob_sum()
        except (ValueError, RuntimeError):  # out of the support: as bad as can be
            return -np.inf, np.zeros_like(point)
        grads = torch.autograd.grad(value, leaves, allow_unused=True)
        flat = [
            (torch.zeros_like(v) if g is None else g).detach().double().flatten()
            for v, g in zip(leaves, grads, strict=True)
        ]
        return float(value.detach()), torch.cat(flat).numpy()

    def hessian(self, at: np.ndarray) -> np.ndarray:
        """Return the Hessian, by central differences of the exact gradient: ``(P, P)``."""
        steps, around = around_of(at)
        _, gradients = self(around)
        self.put(at)
        H = (gradients[: len(at)] - gradients[len(at) :]) / (2 * steps[:, None])
        return np.asarray((H + H.T) / 2)

    def scores(self, at: np.ndarray) -> np.ndarray:
        """Return the gradient of each sequence's (element's, step's) log evidence: ``(n, P)``."""
        steps, around = around_of(at)
        terms = []
        for point in around:
            with self.at(point) as marginal:
                terms.append(marginal.terms(*self.args).double().numpy())
        ahead, behind = np.split(np.stack(terms), 2)
        return np.asarray((ahead - behind).T / (2 * steps))

    def in_own_space(self, at: np.ndarray, covariance: np.ndarray) -> dict[str, Tensor]:
        """Carry a covariance to each parameter's own space: J C J'."""
        found, i, C = {}, 0, torch.from_numpy(covariance)
        for name, free in self.split(torch.from_numpy(at)).items():
            n, transform = free.numel(), transform_to(self.supports[name])
            J = torch.autograd.functional.jacobian(
                lambda v, f=transform: f(v).flatten(), free.double()
            ).reshape(-1, n)
            found[name] = J @ C[i : i + n, i : i + n] @ J.T
            i += n
        return found


def around_of(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return steps ``(P,)``, and the points one step ahead, then one behind: ``(2 P, P)``."""
    steps = STEP * (1 + np.abs(at))
    return steps, np.concatenate([at + np.diag(steps), at - np.diag(steps)])


class _Given(Messenger):
    """Effect handler that gives parameters and latent sites their values."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.given = values

    def _pyro_param(self, msg: Any) -> None:
        if msg["name"] in self.given:
            msg["value"], msg["done"], msg["stop"] = self.given[msg["name"]], True, True

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.given:
            msg["value"], msg["is_observed"], msg["done"] = self.given[msg["name"]], True, True
