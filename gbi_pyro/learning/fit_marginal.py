"""Fit a marginal by maximum likelihood, from many starts, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.learning._closed_form import ClosedForm
from gbi_pyro.learning._lbfgs import Minima, minimize
from gbi_pyro.learning._log_joint import LogJoint
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.relax import Model
from gbi_pyro.tracker import UNTRACKED, Tracker

AGREE = 0.01  # nats: starts whose objectives differ by less have found the same optimum


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
        message: why the best start ended.
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
    _log_joint: LogJoint = field(repr=False)
    _at: np.ndarray = field(repr=False)

    @property
    def aic(self) -> float:
        """-2 log p(x) + 2 p."""
        return -2 * self.log_evidence + 2 * self.num_parameters

    @property
    def bic(self) -> float:
        """-2 log p(x) + p log n."""
        return -2 * self.log_evidence + self.num_parameters * math.log(self.num_observations)

    def covariance(self, *, robust: bool = False) -> dict[str, Tensor]:
        """Return the covariance of each parameter's elements, ``(n, n)``.

        The inverse of H, the Hessian of -log p(x), by central differences of the exact gradient;
        with ``robust`` the sandwich H^-1 (sum_i g_i g_i') H^-1, which holds where the model is
        wrong as well (White 1982, Maximum likelihood estimation of misspecified models,
        Econometrica 50). g_i is the gradient of log p of a sequence, or of an element without a
        chain; of a single sequence that of each log p(x_t | x_1..t-1). The delta rule carries
        either to the parameter's own space.

        Raises:
            TypeError: for a sandwich of a model that ``marginalize`` did not make.
        """
        log_joint, at = self._log_joint, self._at
        inverse = np.linalg.pinv(-log_joint.hessian(at), rcond=1e-8, hermitian=True)
        if robust:
            scores = log_joint.scores(at)
            inverse = inverse @ (scores.T @ scores) @ inverse
        return log_joint.in_own_space(at, inverse)

    def standard_errors(self, *, robust: bool = False) -> dict[str, Tensor]:
        """Return the standard error of each parameter, of its shape; NaN where none can be had.

        Args:
            robust: whether by the sandwich, see ``covariance``.
        """
        found = {}
        for name, covariance in self.covariance(robust=robust).items():
            variance = covariance.diagonal()
            errors = torch.where(variance > 0, variance, math.nan).sqrt()
            found[name] = errors.reshape(self.estimates[name].shape)
        return found

    def infer(self, *args: Any, **options: Any) -> TaskPosterior:
        """Return the exact posterior over the tasks at the estimates, of the same or of new data.

        Whatever has been fitted since: the estimates are those of this fit.

        Args:
            args: what the marginal takes.
            options: see ``Marginal.infer``.

        Raises:
            TypeError: for a fit of a model that ``marginalize`` did not make.
        """
        with self._log_joint.at(self._at) as marginal:
            return marginal.infer(*args, **options)


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
    tracker: Tracker = UNTRACKED,
) -> Fit:
    """Maximise the log evidence of a marginal by L-BFGS on its exact gradient, from many starts.

    The starts go side by side, one run of the model for all of them and all tasks by
    ``torch.func.vmap``, where that can follow the model and gives the same numbers as a run with
    all checks; else one by one. The objective is divided by the number of observations; a start
    ends when no element of its gradient exceeds ``tolerance``. Latent sites (``pyro.sample``) are
    maximised too, their density included: the maximum a posteriori in their own space. The
    parameters are left at the optimum.

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
        tracker: takes the best log evidence so far, ``"log evidence"``, at each evaluation.

    Returns:
        The fit.

    Raises:
        ValueError: for a marginal without parameters, or where no start has a finite objective.

    >>> import pyro, pyro.distributions as dist
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
    if not isinstance(starts, int) or starts < 1:
        raise ValueError(f"starts should be at least 1, a whole number; got {starts}")
    n = max(_count(args) if num_observations is None else num_observations, 1)
    log_joint = LogJoint.of(marginal, args)
    generator = torch.Generator().manual_seed(seed)
    points = [log_joint.here]
    points += [log_joint.moved(generator, spread, draw_start) for _ in range(starts - 1)]
    near = log_joint.moved(generator, spread / 10, None)
    log_joint.vectorise(near, starts)
    limits = {"tolerance": tolerance, "max_iter": max_iter}
    closed_form, best_so_far = ClosedForm.read(log_joint, near), _BestSoFar(tracker)
    tracker.stage(f"{starts} starts")
    ends = _minimise(log_joint, np.stack(points), n, closed_form, best_so_far, **limits)
    if log_joint.vectorised is not None and not _is_valid(log_joint, ends, n):
        # Values outside of a support, which a parameter without constraint may take.
        log_joint.vectorised = None
        ends = _minimise(log_joint, np.stack(points), n, None, best_so_far, **limits)
    best = int(ends.values.argmin())
    if not np.isfinite(ends.values[best]):
        log_joint.put(points[0])
        raise ValueError(
            f"none of {starts} starts has a finite log evidence; expected one at least: look at "
            "the values of the parameters, or give draw_start"
        )
    at, objectives = ends.points[best], torch.from_numpy(-ends.values * n)
    log_joint.put(at)
    slope = float(np.abs(ends.gradients[best]).max())
    return Fit(
        estimates=log_joint.values(torch.from_numpy(at)),
        log_evidence=objectives[best].item(),
        objectives=objectives,
        num_agree=int((objectives > objectives[best] - AGREE).sum()),
        gradient_norm=slope,
        converged=slope <= 10 * tolerance,
        message=ends.why[best],
        num_parameters=log_joint.num_free,
        num_observations=n,
        _log_joint=log_joint,
        _at=at,
    )


class _BestSoFar:
    def __init__(self, tracker: Tracker) -> None:
        self.tracker, self.best, self.count = tracker, -math.inf, 0

    def see(self, values: np.ndarray) -> None:
        self.best = max(self.best, float(np.nan_to_num(values, nan=-math.inf).max()))
        self.count += 1
        self.tracker.metric("log evidence", self.best, self.count)


def _minimise(
    log_joint: LogJoint,
    points: np.ndarray,
    n: int,
    steps: ClosedForm | None,
    best_so_far: _BestSoFar,
    **limits: Any,
) -> Minima:
    def loss(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, gradients = log_joint(points)
        best_so_far.see(values)
        return -values / n, -gradients / n

    if steps is not None:
        points = steps(points, n * limits["tolerance"] ** 2)
    with np.errstate(all="ignore"):
        return minimize(loss, points, **limits)


def _is_valid(log_joint: LogJoint, ends: Minima, n: int) -> bool:
    """Whether a run with all checks agrees on the best end."""
    best = int(ends.values.argmin())
    found, _ = log_joint.alone(ends.points[best])
    return bool(np.isclose(found / n, -ends.values[best], rtol=1e-4, atol=1e-4))


def _count(args: tuple[Any, ...]) -> int:
    return args[0].numel() if args and isinstance(args[0], Tensor) else 1
