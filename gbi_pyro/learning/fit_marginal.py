"""Fit a marginal by maximum likelihood, from many starts, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from scipy.optimize import minimize
from torch import Tensor
from torch.distributions import constraints, transform_to

from gbi_pyro.relax import Model

AGREE = 0.01  # nats: starts whose objectives differ by less have found the same optimum
STEP = 1e-5  # of the differences of gradients that make the Hessian, for parameters of unit size


@dataclass(frozen=True)
class Fit:
    """A fitted marginal.

    Attributes:
        estimates: every parameter (and latent site) at the optimum, in its own space.
        log_evidence: log p(x) there, with the log density of latent sites where there are any.
        objectives: log p(x) at the end of each start, ``(starts,)``.
        num_agree: how many starts ended within ``AGREE`` nats of the best.
        gradient_norm: the largest element of its gradient, per observation.
        converged: whether the optimiser met its criterion.
        message: what the optimiser says.
        num_parameters: free ones; a row of probabilities has one less than it has elements.
        num_observations: n, for BIC.
    """

    estimates: dict[str, Tensor]
    log_evidence: float
    objectives: Tensor
    num_agree: int
    gradient_norm: float
    converged: bool
    message: str
    num_parameters: int
    num_observations: int
    _problem: _Problem = field(repr=False)
    _at: np.ndarray = field(repr=False)

    @property
    def aic(self) -> float:
        """-2 log p(x) + 2 p."""
        return -2 * self.log_evidence + 2 * self.num_parameters

    @property
    def bic(self) -> float:
        """-2 log p(x) + p log n."""
        return -2 * self.log_evidence + self.num_parameters * math.log(self.num_observations)

    def covariance(self) -> dict[str, Tensor]:
        """Return the covariance of each parameter's elements, ``(n, n)``: observed information.

        The inverse of the Hessian of -log p(x), from central differences of the exact gradient, and
        the delta rule into the parameter's own space.
        """
        hessian = self._problem.hessian(self._at)
        inverse = np.linalg.pinv(hessian, rcond=1e-8, hermitian=True)
        return self._problem.in_own_space(self._at, inverse)

    def standard_errors(self) -> dict[str, Tensor]:
        """Return the standard error of each parameter, of its shape; NaN where none can be had."""
        found = {}
        for name, covariance in self.covariance().items():
            variance = covariance.diagonal()
            errors = torch.where(variance > 0, variance, math.nan).sqrt()
            found[name] = errors.reshape(self.estimates[name].shape)
        return found


def fit_marginal(
    marginal: Model,
    *args: Any,
    starts: int = 20,
    seed: int = 0,
    spread: float = 0.2,
    draw_start: Callable[[torch.Generator], Mapping[str, Tensor]] | None = None,
    num_observations: int | None = None,
    tolerance: float = 1e-6,
    max_iter: int = 1000,
) -> Fit:
    """Maximise the log evidence of a marginal by L-BFGS on its exact gradient, from many starts.

    The objective is divided by the number of observations; an optimiser stops when no element of
    its gradient exceeds ``tolerance``. Latent sites (``pyro.sample``) are maximised too, their
    density included: the maximum a posteriori in their own space. The parameters are left at the
    optimum.

    Args:
        marginal: a Pyro model, usually by ``marginalize``; its parameters are ``pyro.param`` sites
            or those of a network registered by ``pyro.module``.
        args: what it takes.
        starts: how many; the first begins where the parameters are.
        seed: of the other starts.
        spread: their distance, in unconstrained space: each number moves by a normal one of this
            scale, times its own size where that is above 1.
        draw_start: gives the values of some parameters at a start instead.
        num_observations: n, for BIC; the number of elements of the first argument without it.
        tolerance: of the gradient.
        max_iter: of each start.

    Returns:
        The fit.

    Raises:
        ValueError: for a marginal without parameters, or where no start has a finite objective.

    >>> import pyro.distributions as dist
    >>> pyro.clear_param_store()
    >>> def model(x):
    ...     mean = pyro.param("mean", torch.tensor(0.0))
    ...     with pyro.plate("trial", len(x)):
    ...         pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
    >>> fit = fit_marginal(model, torch.tensor([1.0, 2.0, 3.0]), starts=2)
    >>> round(fit.estimates["mean"].item(), 3), fit.num_agree
    (2.0, 2)
    >>> round(fit.standard_errors()["mean"].item(), 3)  # 1 / sqrt(3)
    0.577
    """
    if starts < 1:
        raise ValueError(f"starts should be at least 1, got {starts}")
    n = _count(args) if num_observations is None else num_observations
    problem = _Problem.of(marginal, args, max(n, 1))
    generator = torch.Generator().manual_seed(seed)
    options = {"gtol": tolerance, "ftol": 1e-14, "maxiter": max_iter, "maxcor": 20}
    best, objectives = None, []
    for i in range(starts):
        at = problem.start if i == 0 else problem.moved(generator, spread, draw_start)
        with np.errstate(all="ignore"):
            found = minimize(problem, at, jac=True, method="L-BFGS-B", options=options)
        objectives.append(-found.fun * problem.n)
        if np.isfinite(found.fun) and (best is None or found.fun < best.fun):
            best = found
    if best is None:
        raise ValueError(
            f"none of {starts} starts has a finite log evidence; expected one at least: look at "
            "the values of the parameters, or give draw_start"
        )
    problem.put(best.x)
    ends = torch.tensor(objectives, dtype=torch.float64)
    slope = float(np.abs(best.jac).max())
    return Fit(
        problem.values(best.x),
        -best.fun * problem.n,
        ends,
        int((ends > ends[ends.isfinite()].max() - AGREE).sum()),
        slope,
        bool(slope <= 10 * tolerance),
        str(best.message),
        problem.num_free,
        n,
        problem,
        best.x,
    )


def _count(args: tuple[Any, ...]) -> int:
    return args[0].numel() if args and isinstance(args[0], Tensor) else 1


@dataclass
class _Problem:
    """-log p(x) / n as a function of one vector of unconstrained numbers."""

    model: Model
    args: tuple[Any, ...]
    n: int
    params: dict[str, Tensor]  # unconstrained, those of Pyro's store
    latents: dict[str, tuple[Tensor, Any]]  # unconstrained value and its support

    @classmethod
    def of(cls, model: Model, args: tuple[Any, ...], n: int) -> _Problem:
        with torch.no_grad():
            nodes = poutine.trace(model).get_trace(*args).nodes
        store = pyro.get_param_store()
        params = {
            name: store._params[name]
            for name, node in nodes.items()
            if node["type"] == "param" and store._params[name].requires_grad
        }
        latents = {}
        for name, node in nodes.items():
            if node["type"] == "sample" and not node["is_observed"] and name != "_INPUT":
                if type(node["fn"]).__name__ == "_Subsample":
                    continue
                support = node["fn"].support
                value = transform_to(support).inv(node["value"]).detach().clone()
                latents[name] = value, support
        if not params and not latents:
            raise ValueError(
                "the marginal has no parameter to fit: expected pyro.param, pyro.module or latent "
                "sites in it, got none"
            )
        return cls(model, args, n, params, latents)

    @property
    def leaves(self) -> dict[str, Tensor]:
        return {**self.params, **{name: value for name, (value, _) in self.latents.items()}}

    @property
    def start(self) -> np.ndarray:
        parts = [v.detach().double().flatten() for v in self.leaves.values()]
        return torch.cat(parts).numpy().copy()

    @property
    def num_free(self) -> int:
        free = 0
        for name, value in self.leaves.items():
            if self.support(name) is constraints.simplex:
                free += value.numel() - value[..., 0].numel()
            else:
                free += value.numel()
        return free

    def support(self, name: str) -> Any:
        if name in self.latents:
            return self.latents[name][1]
        return pyro.get_param_store()._constraints[name]

    def moved(
        self,
        generator: torch.Generator,
        spread: float,
        draw_start: Callable[[torch.Generator], Mapping[str, Tensor]] | None,
    ) -> np.ndarray:
        drawn = {} if draw_start is None else dict(draw_start(generator))
        if unknown := drawn.keys() - self.leaves.keys():
            raise ValueError(
                f"draw_start should name parameters, of {sorted(self.leaves)}; got "
                f"{sorted(unknown)}"
            )
        parts, start = [], torch.from_numpy(self.start)
        for name, value in self.leaves.items():
            here, start = start[: value.numel()], start[value.numel() :]
            if name in drawn:
                here = transform_to(self.support(name)).inv(drawn[name]).double().flatten()
            else:
                noise = torch.randn(len(here), generator=generator, dtype=torch.float64)
                here = here + spread * here.abs().clamp_min(1.0) * noise
            parts.append(here)
        return torch.cat(parts).numpy().copy()

    def put(self, at: np.ndarray) -> None:
        """Set the parameters."""
        left = torch.from_numpy(at)
        for value in self.leaves.values():
            here, left = left[: value.numel()], left[value.numel() :]
            with torch.no_grad():
                value.copy_(here.reshape(value.shape))

    def values(self, at: np.ndarray) -> dict[str, Tensor]:
        self.put(at)
        return {
            name: transform_to(self.support(name))(value.detach()).clone()
            for name, value in self.leaves.items()
        }

    def __call__(self, at: np.ndarray) -> tuple[float, np.ndarray]:
        self.put(at)
        for value in self.leaves.values():
            value.requires_grad_(True)
        given = {
            name: transform_to(support)(value) for name, (value, support) in self.latents.items()
        }
        try:
            traced = poutine.trace(poutine.condition(self.model, data=given)).get_trace(*self.args)
            loss = -traced.log_prob_sum() / self.n
        except (ValueError, RuntimeError):  # out of the support: as bad as can be
            return math.inf, np.zeros_like(at)
        leaves = list(self.leaves.values())
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        flat = [
            (torch.zeros_like(v) if g is None else g).detach().double().flatten()
            for v, g in zip(leaves, grads, strict=True)
        ]
        return float(loss.detach()), torch.cat(flat).numpy()

    def hessian(self, at: np.ndarray) -> np.ndarray:
        rows = []
        for i in range(len(at)):
            step = STEP * (1 + abs(at[i]))
            ahead, behind = at.copy(), at.copy()
            ahead[i] += step
            behind[i] -= step
            rows.append(self.n * (self(ahead)[1] - self(behind)[1]) / (2 * step))
        self.put(at)
        H: np.ndarray = np.stack(rows)
        return np.asarray((H + H.T) / 2)

    def in_own_space(self, at: np.ndarray, covariance: np.ndarray) -> dict[str, Tensor]:
        """Carry a covariance to each parameter's own space: J C J'."""
        found, i, C = {}, 0, torch.from_numpy(covariance)
        self.put(at)
        for name, value in self.leaves.items():
            n = value.numel()
            transform = transform_to(self.support(name))
            J = torch.autograd.functional.jacobian(
                lambda v, f=transform: f(v).flatten(), value.detach().double()
            ).reshape(-1, n)
            found[name] = J @ C[i : i + n, i : i + n] @ J.T
            i += n
        return found
