"""The gradient flow of a task from maximum entropy, stopped at a learned horizon."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor

from gbi_pyro.inference._options import check_numbers
from gbi_pyro.inference._slopes import Slopes, has_data, slopes
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.simulator import Simulator
from gbi_pyro.logjoint import RelaxedModel
from gbi_pyro.posterior import TaskPosterior, detached
from gbi_pyro.relax import Model

Method = Literal["rk4", "euler"]
Logits = dict[str, Tensor]

TOLERANCE = 1e-3


class HorizonGradient(NamedTuple):
    """How far the flow is from the exact posterior at its horizon, in nats.

    Attributes:
        kl: KL(exact || q), the mean over elements, summed over sites.
        slope: its derivative with respect to the horizon.
    """

    kl: float
    slope: float


@dataclass(frozen=True)
class GradientFlow:
    r"""Infer the task by following the gradient for a time T, the horizon.

        dy/dt = g(softmax(y)) + log pi,   y(0) = 0,   q = softmax(y(T))

    with g the gradient of the log likelihood in q: mirror ascent in continuous time from the
    maximum-entropy point. Without an end it runs to a point that explains the data well and is no
    posterior; the horizon, learned as in Deleu et al. 2022 (Continuous-time meta-learning with
    forward mode differentiation, ICLR), stops it before. At T = 1 it is exact when l is affine.
    With several sites each follows its own gradient.

    ``method="euler"`` is the control: a single Euler step of size T, which is ``OneStepGradient``
    at temperature 1 / T. What the flow is worth beyond a temperature is the difference.

    Args:
        horizon: T.
        method: ``"rk4"``, the classical Runge-Kutta method of order 4, or ``"euler"``.
        steps_per_unit: Runge-Kutta steps per unit of time, four passes each. The steeper the log
            joint, the more it takes: the time scale is that of sigma^2 for Gaussian noise.
        check: whether the integration is compared with one of half as many steps.
        updates: Adam's steps in log T, for ``fit``, with a rate that falls to 0.
        rate: the rate that they start with.
        cases: how many cases ``fit`` draws.

    Calling it as ``GradientFlow()(model, *args)`` returns a ``TaskPosterior``. Where all data are
    masked it is the prior.

    Raises:
        TaskSiteError: see ``RelaxedModel``.
        ValueError: for options out of range; for an integration that diverges, or that half as
            many steps change by more than a probability of 0.001.
        TypeError: for an option that is no number.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("sequence", len(x)):
    ...         z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer={"task": True})
    ...         pyro.sample("x", dist.Exponential((z @ torch.tensor([0.0, 1.0])).exp()), obs=x)
    >>> flow = GradientFlow(horizon=0.9)
    >>> flow(model, torch.tensor([0.2, 2.0])).probs().round(decimals=2)
    tensor([[0.3600, 0.6400],
            [0.8300, 0.1700]])
    """

    horizon: float = 1.0
    method: Method = "rk4"
    steps_per_unit: int = 60
    check: bool = True
    updates: int = 30
    rate: float = 0.2
    cases: int = 100

    def __post_init__(self) -> None:
        check_numbers(self, "horizon", "rate", integers=("steps_per_unit", "updates", "cases"))
        if self.method not in ("rk4", "euler"):
            raise ValueError(f"method must be 'rk4' or 'euler', got {self.method!r}")
        for name in ("horizon", "rate"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        for name, least in (("steps_per_unit", 1), ("updates", 0), ("cases", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def __call__(self, model: Model, *args: Any, **kwargs: Any) -> TaskPosterior:
        """Infer the task sites of ``model`` called with ``args`` and ``kwargs``."""
        run = RelaxedModel(model, args, kwargs)
        first = slopes(run)
        log_probs = _read(first, self._integrate(run, first, self._num_steps))
        if self.check and self.method == "rk4":
            self._check(run, first, log_probs)
        joint = first.joint
        words = {"rk4": "gradient flow", "euler": "one Euler step"}[self.method]
        return TaskPosterior(
            log_probs,
            detached(joint.sites),
            method=f"{words}, horizon {self.horizon:.4g}",
            settings={
                "horizon": self.horizon,
                "method": self.method,
                "steps_per_unit": self.steps_per_unit,
            },
            passes=run.passes,
            num_observations={n: joint.num_observations(s) for n, s in joint.sites.items()},
        )

    def fit(self, problem: Simulator, generator: torch.Generator) -> Self:
        """Learn the horizon: the least KL(exact || q) on drawn cases, by Adam in log T.

        T ends the flow and does nothing else, so that forward mode needs no stored path:
        d KL / dT = sum_k (q - p)_k (dy / dT)_k, with dy / dT the right-hand side at y(T).

        Args:
            problem: a model and draws from it. Its ``exact`` is the exact posterior, if it has one,
                else ``Enumeration``.
            generator: for the draws.

        Returns:
            The flow with its horizon, which may move by the factor exp(updates rate / 2) at most.

        Raises:
            ValueError: for an integration that diverges on the cases.
        """
        drawn = problem.draw(self.cases, generator)
        exact = getattr(problem, "exact", Enumeration())(problem.model, *drawn.args)
        log_horizon = torch.tensor(math.log(self.horizon), dtype=torch.float64)
        # The gradient has no noise that a longer memory would average out.
        adam = torch.optim.Adam([log_horizon], lr=self.rate, betas=(0.5, 0.9))
        fitted = self
        for update in range(self.updates):
            adam.param_groups[0]["lr"] = self.rate * (1 - update / self.updates)
            found = fitted.kl_gradient(exact, problem.model, *drawn.args)
            log_horizon.grad = torch.full_like(log_horizon, fitted.horizon * found.slope)
            adam.step()
            fitted = replace(fitted, horizon=log_horizon.exp().item())
        fitted(problem.model, *drawn.args)  # a horizon whose integration diverges is none
        return fitted

    def kl_gradient(
        self, exact: TaskPosterior, model: Model, *args: Any, **kwargs: Any
    ) -> HorizonGradient:
        """Return KL(exact || q) and its derivative with respect to the horizon.

        Args:
            exact: the exact posterior of the same data.
            model, args, kwargs: as for a call.
        """
        run, exact = RelaxedModel(model, args, kwargs), exact.in_model_order()
        first = slopes(run)
        logits = self._integrate(run, first, self._num_steps)
        # An Euler step moves along the right-hand side at its start, whatever its size.
        last = first if self.method == "euler" else slopes(run, logits)
        seen, kl, slope = has_data(first.joint), 0.0, 0.0
        for name, log_q in _read(first, logits).items():
            p = exact.log_probs[name].double().exp()
            log_q = log_q.double()
            terms = torch.special.entr(p) + torch.where(p > 0, p * log_q, 0.0)
            kl -= terms.sum(-1).mean().item()
            speed = _field(last)[name].masked_fill(~seen[name], 0.0).double()
            slope += ((log_q.exp() - p) * speed).sum(-1).mean().item()
        return HorizonGradient(kl, slope)

    @property
    def _num_steps(self) -> int:
        # An even number, for the check to take half of it.
        return 2 * math.ceil(self.horizon * self.steps_per_unit / 2)

    def _integrate(self, run: RelaxedModel, first: Slopes, num_steps: int) -> Logits:
        """Return y(T), given the right-hand side at y(0)."""
        if self.method == "euler":
            return _add(first.logits, self.horizon, _field(first))
        h, y, slope = self.horizon / num_steps, first.logits, _field(first)
        for step in range(num_steps):
            k1 = slope if step == 0 else _field(slopes(run, y))
            k2 = _field(slopes(run, self._finite(_add(y, h / 2, k1))))
            k3 = _field(slopes(run, self._finite(_add(y, h / 2, k2))))
            k4 = _field(slopes(run, self._finite(_add(y, h, k3))))
            mean = {n: (k1[n] + 2 * k2[n] + 2 * k3[n] + k4[n]) / 6 for n in y}
            y = self._finite(_add(y, h, mean))
        return y

    def _check(self, run: RelaxedModel, first: Slopes, log_probs: Logits) -> None:
        probe = RelaxedModel(run.model, run.args, run.kwargs)
        coarse = _read(first, self._integrate(probe, first, self._num_steps // 2))
        run.count(check=probe.passes.forward)
        for name, log_q in log_probs.items():
            error = (log_q.exp() - coarse[name].exp()).abs().max().item()
            if error > TOLERANCE:
                raise self._diverges(
                    f"half as many steps change a probability of task site {name!r} by {error:.2g}"
                )

    def _finite(self, y: Logits) -> Logits:
        for name, logits in y.items():
            if not bool(((logits < torch.inf) | logits.isneginf()).all()):
                raise self._diverges(f"the logits of task site {name!r} become infinite")
        return y

    def _diverges(self, what: str) -> ValueError:
        return ValueError(
            f"the flow to horizon {self.horizon:.4g} should be integrated accurately, to "
            f"{TOLERANCE:g}; got {self._num_steps} steps that are too long: {what}. The log joint "
            f"is steep: raise steps_per_unit = {self.steps_per_unit}, or shorten the horizon"
        )


def _field(found: Slopes) -> Logits:
    """Return g + log pi, 0 for forbidden tasks."""
    return {
        n: g + found.log_prior[n].masked_fill(found.log_prior[n].isneginf(), 0.0)
        for n, g in found.likelihood.items()
    }


def _add(y: Logits, size: float, slope: Logits) -> Logits:
    return {n: logits + size * slope[n] for n, logits in y.items()}


def _read(first: Slopes, logits: Logits) -> Logits:
    """Return normalised log probabilities: the prior where there are no data."""
    seen = has_data(first.joint)
    return {
        n: torch.where(seen[n], y, first.log_prior[n]).log_softmax(-1) for n, y in logits.items()
    }
